"""Results that somebody else sends: an nginx in front, from the folder, or the object store, by a signed link.

Whatever goes through an ingress takes its processor and its memory, and a reader who stops takes one of its places.
"""

from pathlib import PurePosixPath

from starlette.requests import Request
from starlette.responses import Response

from seedvr2_ray.serve.config import ServiceConfig
from seedvr2_ray.serve.http.ranges import SAFE_TYPES, disposition, respond_with
from seedvr2_ray.serve.results import StoredFile
from seedvr2_ray.storage.location import open_location, sign_get

ACCEL_LOCATION = "/_results"
"""Where ``examples/nginx.conf`` has the folder of results, for such answers only."""
LINK_SECONDS = 900
"""For a download to begin; one that has begun goes on."""


def hand_over(
    request: Request, file: StoredFile, config: ServiceConfig, *, name: str, media_type: str, is_download: bool
) -> Response:
    """Answer a GET or HEAD of a result by whoever sends results here.

    A store is on another host, which the page's policy does not let a player read from: what is shown in place still
    comes from here.

    Raises:
        ProtocolRefusal: nothing of the file lies in the range that was asked for.
        StorageError: the store's links cannot be signed.
    """
    said = disposition(name, is_download=is_download)
    safe_type = media_type if media_type in SAFE_TYPES else "application/octet-stream"
    if config.results_from == "nginx":
        headers = {
            "X-Accel-Redirect": f"{ACCEL_LOCATION}/{_below_results(file, config)}",
            "Content-Disposition": said,
            "Cache-Control": "private, no-cache",
            "Accept-Ranges": "bytes",
        }
        return Response(headers=headers, media_type=safe_type)
    if config.results_from == "store" and is_download:
        link = sign_get(file.place, seconds=LINK_SECONDS, media_type=safe_type, disposition=said)
        if link is not None:
            return Response(status_code=307, headers={"Location": link, "Cache-Control": "private, no-store"})
    return respond_with(request, file, name=name, media_type=media_type, is_download=is_download)


def _below_results(file: StoredFile, config: ServiceConfig) -> str:
    folder = open_location(config.data).child("results")
    return str(PurePosixPath(file.place.path).relative_to(folder.path))
