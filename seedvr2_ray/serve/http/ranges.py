"""Files over HTTP with ranges, so that players seek and downloads resume; from a folder or an object store alike."""

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from urllib.parse import quote

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from seedvr2_ray.serve.http.problem_bodies import ProtocolRefusal
from seedvr2_ray.serve.results import StoredFile

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
SAFE_TYPES = frozenset(
    {
        "video/mp4",
        "video/quicktime",
        "video/x-matroska",
        "video/webm",
        "video/x-msvideo",
        "image/png",
        "image/tiff",
        "image/webp",
        "image/jpeg",
        "application/zip",
    }
)
"""What a browser may be told; everything else is sent as bytes, so that no file becomes a page of ours."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Part of a file: from ``start`` to before ``stop``."""

    start: int
    stop: int


def parse_range(text: str | None, num_bytes: int) -> ByteRange | None:
    """Read a Range header; None asks for the whole file, as do several ranges or anything that is no range (RFC 9110).

    Raises:
        ProtocolRefusal: nothing of the file lies in it.
    """
    match = _RANGE.fullmatch((text or "").replace(" ", ""))
    if match is None or match.group(1, 2) == ("", ""):
        return None
    first, last = match.group(1, 2)
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(0, num_bytes - int(last))
    stop = min(num_bytes, int(last) + 1) if first and last else num_bytes
    if start >= stop:
        raise ProtocolRefusal(
            f"the file has {num_bytes} bytes and nothing of it lies in {match.group()[:60]}",
            416,
            {"Content-Range": f"bytes */{num_bytes}", "Accept-Ranges": "bytes"},
        )
    return ByteRange(start, stop)


def disposition(name: str, *, is_download: bool) -> str:
    """Name a file in ``Content-Disposition`` (RFC 6266), for clients old and new."""
    plain = "".join(each if each.isascii() and each.isprintable() and each not in '"\\%' else "_" for each in name)
    kind = "attachment" if is_download else "inline"
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def respond_with(request: Request, file: StoredFile, *, name: str, media_type: str, is_download: bool) -> Response:
    """Answer a GET or HEAD with a file, part of it, or that the caller has it already.

    Raises:
        ProtocolRefusal: nothing of the file lies in the range that was asked for.
    """
    etag = f'"{file.sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Content-Disposition": disposition(name, is_download=is_download),
        # The bytes under this address never change, but whose they are may end.
        "Cache-Control": "private, no-cache",
    }
    if etag in [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    condition = request.headers.get("if-range")
    wanted = request.headers.get("range") if condition in (None, etag) else None
    part = parse_range(wanted, file.num_bytes)
    start, stop = (part.start, part.stop) if part else (0, file.num_bytes)
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.num_bytes}"
    headers["Content-Length"] = str(stop - start)
    status = 206 if part else 200
    media_type = media_type if media_type in SAFE_TYPES else "application/octet-stream"
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    return StreamingResponse(_blocks(file.blocks(start, stop)), status, headers, media_type)


async def _blocks(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (block := await anyio.to_thread.run_sync(next, blocks, None)) is not None:
        yield block
