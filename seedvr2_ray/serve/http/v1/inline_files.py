"""Files that arrive inside JSON: read with the deployment's limit, and made into jobs like any other upload."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
from starlette.requests import Request

from seedvr2_ray.serve.http.bodies import body_in_time
from seedvr2_ray.serve.http.inline_media import LONGEST_TEXT, JsonBody, read_json_body
from seedvr2_ray.serve.http.problem_bodies import ProtocolRefusal
from seedvr2_ray.serve.jobs import Job
from seedvr2_ray.serve.security.auth import Caller
from seedvr2_ray.serve.service.submission import Submission
from seedvr2_ray.serve.service.verbs import Service
from seedvr2_ray.storage.sources import default_scratch

_BLOCK_BYTES = 1 << 20


async def read_inline(request: Request, service: Service, caller: Caller) -> JsonBody:
    """Read a JSON body that may carry files.

    Raises:
        ProtocolRefusal: it breaks off, or stops coming.
        InputError: it is no JSON object, or its files are not base64.
        SizeRefusal: it is too large.
        PermissionRefusal: it is long enough to carry a file, and the caller may not make jobs.
        RateRefusal: likewise, and there is too much to do already.
    """
    length = request.headers.get("content-length", "")
    if not (length.isascii() and length.isdecimal() and int(length[:20]) <= LONGEST_TEXT):
        await service.require_room(caller)
    try:
        return await read_json_body(
            body_in_time(request),
            scratch=Path(service.config.scratch or default_scratch()) / "bodies",
            max_bytes=service.limits.max_upload_bytes,
        )
    except ConnectionError:
        raise ProtocolRefusal("the connection broke off before the request was complete") from None


async def submit_file(service: Service, caller: Caller, path: Path, name: str, submission: Submission) -> Job:
    """Make a job of a file that lies here; a copy of it becomes an upload, which goes if the job is refused.

    Args:
        service: takes the job.
        caller: whose job it will be.
        path: of the file.
        name: what the file is called.
        submission: the rest of it.
    """
    upload = await service.uploads.receive(caller, name, _blocks(path))
    try:
        job, _ = await service.submit(caller, replace(submission, upload_id=upload.id))
    except BaseException:
        await service.uploads.discard(upload)
        raise
    return job


async def _blocks(path: Path) -> AsyncIterator[bytes]:
    async with await anyio.open_file(path, "rb") as file:
        while block := await file.read(_BLOCK_BYTES):
            yield block
