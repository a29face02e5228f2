"""Files to and from a service, in pieces, over connections that break."""

import base64
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

import httpx

from seedvr2_ray.client.connection import Connection, Tries, whole_answer
from seedvr2_ray.client.transport import Answer
from seedvr2_ray.client.values import JobResult, Upload
from seedvr2_ray.errors import MediaError, RetryableError, StorageError, TargetError

OnTransfer = Callable[[int, int], None]
"""Told how many bytes of how many are over."""

DEFAULT_PIECE_BYTES = 8 << 20
_TUS = {"Tus-Resumable": "1.0.0"}
_CONFLICT = 409


async def upload_file(
    connection: Connection,
    path: Path,
    *,
    resume: str | None = None,
    piece_bytes: int = DEFAULT_PIECE_BYTES,
    on_progress: OnTransfer | None = None,
) -> Upload:
    """Send a file by tus 1.0. After a break the service is asked what has arrived, and the rest is sent.

    Args:
        resume: id of an upload that an earlier process began with the same file.

    Raises:
        MediaError: there is no such file, it is empty, or changed while it was sent.
    """
    num_bytes = _size_of(path)
    tries = Tries(connection)
    offset = 0
    if resume is None:
        location = await _announce(connection, path.name, num_bytes)
    else:
        location = f"/v1/uploads/{resume}"
        offset = await _arrived(connection, location, num_bytes, tries)
    with path.open("rb") as file:
        while offset < num_bytes:
            piece = await connection.transport.call(_read_at, file, offset, piece_bytes)
            if not piece:
                raise MediaError(f"{path.name} became shorter while it was sent; send it again when it is complete")
            offset = await _send_piece(connection, location, offset, piece, num_bytes, tries)
            if on_progress is not None:
                on_progress(offset, num_bytes)
    return Upload(id=location.rpartition("/")[2], name=path.name, num_bytes=num_bytes)


async def download_result(
    connection: Connection,
    job_id: str,
    result: JobResult,
    target: Path,
    *,
    overwrite: bool,
    on_progress: OnTransfer | None = None,
) -> Path:
    """Fetch a result; the target appears whole and verified, or not at all.

    What an interrupted call has left beside the target is gone on with, if it is of the same result.

    Raises:
        TargetError: the target exists, or cannot be written.
        StorageError: what arrived is not what was announced.
    """
    if target.exists() and not overwrite:
        raise TargetError(f"{target} exists; choose another name, or overwrite it")
    part = target.with_name(f".{target.name}.{result.sha256[:16]}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            await _receive(connection, f"/v1/jobs/{job_id}/result", result, file, on_progress)
            file.flush()
            os.fsync(file.fileno())
        found = await connection.transport.call(_sha256_of, part)
        if found != result.sha256:
            part.unlink()
            raise StorageError(
                f"{target.name} arrived with SHA-256 {found[:12]}..., and {result.sha256[:12]}... was announced; "
                "download it again"
            )
        part.replace(target)
    except OSError as error:
        raise TargetError(f"cannot write {target}: {error.strerror}; choose another place") from error
    return target


async def _announce(connection: Connection, name: str, num_bytes: int) -> str:
    encoded = base64.b64encode(name.encode()).decode()
    headers = {**_TUS, "Upload-Length": str(num_bytes), "Upload-Metadata": f"filename {encoded}"}
    answer = await connection.send("POST", "/v1/uploads", headers=headers)
    # A proxy may have made it absolute, under a name that this machine does not know.
    return f"/v1/uploads/{answer.headers['location'].rstrip('/').rpartition('/')[2]}"


async def _arrived(connection: Connection, location: str, num_bytes: int, tries: Tries) -> int:
    answer = await connection.send("HEAD", location, headers=_TUS, tries=tries)
    announced = int(answer.headers.get("upload-length", num_bytes))
    if announced != num_bytes:
        raise MediaError(f"the upload was announced with {announced} bytes and the file has {num_bytes}; send it anew")
    return int(answer.headers["upload-offset"])


async def _send_piece(
    connection: Connection, location: str, offset: int, piece: bytes, num_bytes: int, tries: Tries
) -> int:
    """Send one piece and return how much of the file the service then has."""
    headers = {**_TUS, "Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
    try:
        answer = await connection.send_once("PATCH", location, headers=headers, content=piece)
    except RetryableError as error:
        await tries.wait(error)
    else:
        if answer.status < 400:
            tries.renew()
            return int(answer.headers["upload-offset"])
        if answer.status == _CONFLICT:  # The broken connection before this one brought more than was confirmed.
            await tries.wait(RetryableError("the upload is being written by another connection; try again later"))
        else:
            await connection.wait_or_raise(answer, tries)
    arrived = await _arrived(connection, location, num_bytes, tries)
    if arrived > offset:
        tries.renew()
    return arrived


async def _receive(
    connection: Connection, path: str, result: JobResult, file: IO[bytes], on_progress: OnTransfer | None
) -> None:
    tries = Tries(connection)
    while (offset := file.tell()) < result.num_bytes:
        try:
            refused = await _receive_once(connection, path, result, file, on_progress)
        except httpx.TransportError as error:
            failure = connection.unreachable(error)
        else:
            if refused is not None:
                await connection.wait_or_raise(refused, tries)
                continue
            failure = RetryableError("the service sends nothing of the result; try again later")
        if file.tell() > offset:
            tries.renew()
        else:
            await tries.wait(failure)


async def _receive_once(
    connection: Connection, path: str, result: JobResult, file: IO[bytes], on_progress: OnTransfer | None
) -> Answer | None:
    """Append what the service sends; return its answer where it refuses to."""
    headers = {"Range": f"bytes={file.tell()}-", "If-Range": f'"{result.sha256}"', "Accept-Encoding": "identity"}
    async with connection.stream("GET", path, headers=headers) as answer:
        if answer.status >= 400:
            return await whole_answer(answer)
        if answer.status != 206:  # The whole file, whatever was asked for.
            file.seek(0)
            file.truncate()
        async for chunk in answer.chunks():
            file.write(chunk)
            if on_progress is not None:
                on_progress(file.tell(), result.num_bytes)
    return None


def _size_of(path: Path) -> int:
    try:
        num_bytes = path.stat().st_size
        path.open("rb").close()
    except OSError as error:
        raise MediaError(f"cannot read {path}: {error.strerror}") from error
    if num_bytes == 0:
        raise MediaError(f"{path} is empty (0 bytes)")
    return num_bytes


def _read_at(file: IO[bytes], offset: int, num_bytes: int) -> bytes:
    file.seek(offset)
    return file.read(num_bytes)


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
