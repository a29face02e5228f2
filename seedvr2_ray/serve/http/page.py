"""Serves the web page: the files below ``web/`` as they are, under a policy that lets nothing else in.

The page is one more caller of API v1 and needs nothing of the service itself.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        # blob: is the original in the browser, shown beside its result.
        "img-src 'self' blob:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Content-Security-Policy of the page: nothing from another host, nothing inline, no text that becomes code."""

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    # Asked for each time and answered with 304, so that no browser mixes the files of two releases.
    "Cache-Control": "no-cache",
}

_LIVE_PERMISSIONS = "camera=(self), display-capture=(self), geolocation=(), microphone=(self), payment=(), usb=()"
"""The one page that a camera may be pointed at, when whoever sits before it says so."""

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
"""By suffix; files with another one, such as the notes beside vendored code, are not served."""


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file of the page, read once."""

    content: bytes
    media_type: str
    etag: str


def read_page() -> dict[str, PageFile]:
    """Read every file of the page, by its path below ``web/``.

    What is served is looked up in this table and nowhere else, so no path can lead out of it.
    """
    return dict(_files_below(files("seedvr2_ray.serve.http") / "web", ""))


def page_router(page: Mapping[str, PageFile] | None = None) -> APIRouter:
    """Build the routes of the pages: ``/`` and ``/live``, and ``/web/...`` for what they are made of."""
    table = read_page() if page is None else page
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def index(request: Request) -> Response:
        return _answer(request, table["index.html"])

    @router.api_route("/live", methods=["GET", "HEAD"])
    async def live(request: Request) -> Response:
        answer = _answer(request, table["live.html"])
        answer.headers["Permissions-Policy"] = _LIVE_PERMISSIONS
        return answer

    @router.api_route("/web/{path:path}", methods=["GET", "HEAD"])
    async def part(request: Request, path: str) -> Response:
        if path not in table:
            raise HTTPException(404, f"the page has no file {path[:100]!r}")
        return _answer(request, table[path])

    return router


def _files_below(folder: Traversable, prefix: str) -> list[tuple[str, PageFile]]:
    found: list[tuple[str, PageFile]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _files_below(entry, f"{prefix}{entry.name}/")
        elif media_type := MEDIA_TYPES.get(entry.name[entry.name.rfind(".") :]):
            content = entry.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found.append((f"{prefix}{entry.name}", PageFile(content, media_type, etag)))
    return found


def _answer(request: Request, file: PageFile) -> Response:
    headers = {**_HEADERS, "ETag": file.etag}
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")}
    if file.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
