"""The bytes of uploads: streamed to storage in constant memory, continued where they broke off, never half there.

In a local folder a body is written straight to where it stays. An object store has no appending: there each body is
a commit of its own, by offset, and the last one joins them; what several senders disagree about, the commit decides.
"""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import anyio

from seedvr2_ray.errors import CapacityError, InputError, StorageError
from seedvr2_ray.serve.problems import ConflictRefusal, SizeRefusal
from seedvr2_ray.serve.threads import in_thread
from seedvr2_ray.storage.backend import PART_PREFIX
from seedvr2_ray.storage.commits import CommitStore
from seedvr2_ray.storage.faults import translated
from seedvr2_ray.storage.local_backend import make_folder
from seedvr2_ray.storage.location import fetch, is_local, open_location, publish, remove, sign_put
from seedvr2_ray.storage.orphans import remove_orphans

_IDLE_SECONDS = 60.0
"""A sender that is silent for so long has gone, whatever its connection says."""
_TAKEOVER_SECONDS = 5.0
_PARTS = "parts"
_MOST_THREADS = 24


@dataclass(eq=False, slots=True)
class Received:
    """What has arrived of a body."""

    num_bytes: int = 0
    is_whole: bool = False
    """False while it arrives, and for ever when the sender went away in the middle."""
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    @property
    def sha256(self) -> str:
        """Of what arrived, in hexadecimal."""
        return self.digest.hexdigest()


class UploadFiles:
    """The folder ``uploads/`` of a deployment's data."""

    def __init__(self, data_url: str, scratch: Path, *, idle_seconds: float = _IDLE_SECONDS) -> None:
        """Name the places; nothing is created yet.

        Args:
            data_url: of the deployment.
            scratch: local folder for what is on its way to an object store.
            idle_seconds: how long a sender may be silent.
        """
        self._root = data_url.removeprefix("file://").rstrip("/")
        self.is_local = is_local(data_url)
        self._scratch = scratch
        self._idle_seconds = idle_seconds
        self._senders: dict[str, anyio.CancelScope] = {}

    def url(self, upload_id: str, name: str) -> str:
        """Say where a complete upload lies."""
        return f"{self._root}/uploads/{upload_id}/{name}"

    async def store(self, upload_id: str, name: str, chunks: AsyncIterator[bytes], *, most_bytes: int) -> Received:
        """Receive a file in one go; what cannot be received whole is deleted.

        Raises:
            SizeRefusal: it is longer than allowed; the rest was not read.
            InputError: it broke off.
            CapacityError: there is no room for it.
        """
        received = Received()
        try:
            with self._place(upload_id, name) as place:
                await self._write(place, 0, chunks, most_bytes, received)
                if not received.is_whole:
                    raise InputError(f"the file broke off after {received.num_bytes} bytes; send it again")
                if not self.is_local:
                    await _in_thread(publish, place, self.url(upload_id, name), overwrite=True)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await _in_thread(self.remove, upload_id, name)
            raise
        return received

    async def extend(
        self,
        upload_id: str,
        name: str,
        chunks: AsyncIterator[bytes],
        *,
        offset: int,
        num_bytes: int,
        confirm: Callable[[int], object],
    ) -> None:
        """Receive more of a file; whatever arrives is kept, also when the sender goes away in the middle.

        A sender that comes back takes over from its own broken connection, which may not have noticed yet.

        Args:
            offset: how much is there, by the database.
            num_bytes: of the whole file.
            confirm: told the new offset, before another sender can write.

        Raises:
            SizeRefusal: there came more than the file was announced to have; nothing of this body is kept.
            ConflictRefusal: another connection is sending the same file, or has sent this part of it.
        """
        await self._send_others_away(upload_id)
        received = Received()
        with anyio.CancelScope() as scope:
            self._senders[upload_id] = scope
            try:
                with self._place(upload_id, name) as place:
                    await self._write(
                        place,
                        offset if self.is_local else 0,
                        chunks,
                        num_bytes - offset,
                        received,
                        # Somebody else may have confirmed more before he had to let the file go.
                        check=partial(confirm, offset),
                        keep=partial(self._keep, upload_id, place, offset, received, confirm),
                    )
            finally:
                del self._senders[upload_id]
        if scope.cancelled_caught:
            raise ConflictRefusal("a newer connection has taken this upload over; ask for its offset")

    def complete(self, upload_id: str, name: str, num_bytes: int) -> None:
        """Join what arrived in several bodies; nothing is left to do in a local folder, or the second time."""
        if self.is_local:
            return
        # Whoever joined them may have died before the database said so.
        if self.num_bytes(upload_id, name) != num_bytes:
            with self._folder() as folder:
                publish(self._joined(upload_id, num_bytes, folder), self.url(upload_id, name), overwrite=True)
        self._remove_parts(upload_id)

    @contextmanager
    def opened(self, upload_id: str, name: str) -> Iterator[Path]:
        """Give a local path of a complete upload for as long as the block runs."""
        url = self.url(upload_id, name)
        if self.is_local:
            yield Path(url)
            return
        with self._folder() as folder:
            yield fetch(url, folder)

    def num_bytes(self, upload_id: str, name: str) -> int | None:
        """Say how large a complete upload is, or None if it is not there."""
        place = open_location(self.url(upload_id, name))
        with translated(place.url, "store"):
            try:
                return place.backend.info(place.path).size
            except FileNotFoundError:
                return None

    def presign(self, upload_id: str, name: str, *, num_bytes: int, seconds: int) -> str:
        """Return a URL to which the file can be put without us, if it is as large as was announced.

        Raises:
            ConflictRefusal: the store cannot sign such URLs.
        """
        url = sign_put(self.url(upload_id, name), num_bytes=num_bytes, seconds=seconds)
        if url is None:
            raise ConflictRefusal("this deployment's store signs no URLs; use POST /v1/uploads")
        return url

    def remove(self, upload_id: str, name: str) -> None:
        """Delete an upload, complete or not."""
        remove(self.url(upload_id, name))
        if self.is_local:
            shutil.rmtree(Path(self.url(upload_id, name)).parent, ignore_errors=True)
        else:
            self._remove_parts(upload_id)

    async def _send_others_away(self, upload_id: str) -> None:
        if (older := self._senders.get(upload_id)) is not None:
            older.cancel()
            with anyio.move_on_after(_TAKEOVER_SECONDS):
                while upload_id in self._senders:
                    await anyio.sleep(0.02)
        if upload_id in self._senders:
            raise ConflictRefusal("another connection is sending this upload; ask for its offset and go on from there")

    async def _write(
        self,
        place: Path,
        start: int,
        chunks: AsyncIterator[bytes],
        most_bytes: int,
        received: Received,
        *,
        check: Callable[[], object] = lambda: None,
        keep: Callable[[], object] = lambda: None,
    ) -> None:
        """Write a body to a file from ``start``, and count what is written.

        Args:
            check: asked once nobody else can write, and before anything is changed.
            keep: called at the end, however it came, while still nobody else can write.
        """
        with _told_of_full_disk():
            file = await _in_thread(_open_at, place, start, check)
        with file:
            try:
                await self._pump(file, chunks, most_bytes, received)
            finally:
                with anyio.CancelScope(shield=True):
                    await _in_thread(keep)

    async def _pump(self, file: BinaryIO, chunks: AsyncIterator[bytes], most_bytes: int, received: Received) -> None:
        while (chunk := await self._next(chunks, received)) is not None:
            if received.num_bytes + len(chunk) > most_bytes:
                received.num_bytes = 0
                raise SizeRefusal(
                    f"the body is longer than the {most_bytes} bytes that are allowed here or were announced; "
                    "send a smaller file or ask the operator for a higher limit"
                )
            # Not to be torn: what is counted is written, and what is written is counted.
            with anyio.CancelScope(shield=True), _told_of_full_disk():
                await _in_thread(_append, file, chunk, received)

    async def _next(self, chunks: AsyncIterator[bytes], received: Received) -> bytes | None:
        """Return the next piece of a body, or None at its end or when its sender has gone."""
        with anyio.move_on_after(self._idle_seconds):
            try:
                return await anext(chunks)
            except StopAsyncIteration:
                received.is_whole = True
            except ConnectionError:
                pass  # Whoever was sending comes back and asks how much has arrived.
        return None

    def _keep(
        self, upload_id: str, place: Path, offset: int, received: Received, confirm: Callable[[int], object]
    ) -> None:
        """Make what arrived durable, then say so."""
        num_bytes = received.num_bytes
        if not num_bytes:
            return
        if self.is_local:
            with place.open("rb") as file:
                os.fsync(file.fileno())
            confirm(offset + num_bytes)
            return
        parts = self._parts(upload_id)
        if parts.commit(_PARTS, _address(offset), {"num_bytes": num_bytes}, place):
            confirm(offset + num_bytes)
            return
        # Sent before, by a connection that could not say so any more.
        record = parts.find(_PARTS, _address(offset)) or {"num_bytes": 0}
        confirm(offset + record["num_bytes"])
        raise ConflictRefusal("this part of the upload is there already; ask for its offset and go on from there")

    def _joined(self, upload_id: str, num_bytes: int, folder: Path) -> Path:
        parts, whole = self._parts(upload_id), folder / "whole"
        with _told_of_full_disk(), whole.open("xb") as file:
            for offset, part_bytes in self._chain(upload_id):
                part = parts.fetch_payload(_PARTS, _address(offset), folder)
                with part.open("rb") as source:
                    shutil.copyfileobj(source, file, 1 << 20)
                part.unlink()
                if offset + part_bytes > num_bytes:
                    break
            if file.tell() != num_bytes:
                raise StorageError(
                    f"upload {upload_id} has {file.tell()} bytes and was to have {num_bytes}; send it again"
                )
        return whole

    def _chain(self, upload_id: str) -> Iterator[tuple[int, int]]:
        parts, offset = self._parts(upload_id), 0
        while (record := parts.find(_PARTS, _address(offset))) is not None:
            yield offset, record["num_bytes"]
            offset += record["num_bytes"]

    def _parts(self, upload_id: str) -> CommitStore:
        return CommitStore(f"{self._root}/uploads/{upload_id}")

    def _remove_parts(self, upload_id: str) -> None:
        parts = self._parts(upload_id)
        for address in parts.addresses(_PARTS):
            parts.discard(_PARTS, address)
        remove_orphans(parts, _PARTS, older_than_seconds=0)

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        """Give a folder for copies, gone afterwards."""
        folder = self._scratch / f"{PART_PREFIX}{uuid4().hex}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _place(self, upload_id: str, name: str) -> Iterator[Path]:
        """Give the local file that a body is written to."""
        if self.is_local:
            place = Path(self.url(upload_id, name))
            make_folder(place.parent)
            yield place
            return
        place = self._scratch / f"{PART_PREFIX}{uuid4().hex}"
        make_folder(place.parent)
        try:
            yield place
        finally:
            place.unlink(missing_ok=True)


def _open_at(place: Path, start: int, check: Callable[[], object]) -> BinaryIO:
    """Open a file to go on from ``start``; whatever lies behind was never confirmed."""
    file = os.fdopen(os.open(place, os.O_RDWR | os.O_CREAT, 0o640), "r+b", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Another process of this machine may be writing.
        check()
        if file.seek(0, os.SEEK_END) < start:
            raise StorageError(f"{place.name} has lost bytes that were confirmed; send it again as a new upload")
        file.truncate(start)
        file.seek(start)
    except BlockingIOError:
        file.close()
        raise ConflictRefusal("another connection is sending this upload; ask for its offset and go on") from None
    except BaseException:
        file.close()
        raise
    return file  # Unbuffered: what is counted has been written.


def _append(file: BinaryIO, chunk: bytes, received: Received) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]
    received.digest.update(chunk)
    received.num_bytes += len(chunk)


def _address(offset: int) -> str:
    return f"{offset:015d}"


@contextmanager
def _told_of_full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise CapacityError("there is no room for more uploads here; try again later") from error
        raise


@lru_cache(maxsize=1)
def _threads() -> anyio.CapacityLimiter:
    """Threads of their own, so that slow disks and locked databases leave those of readers free."""
    return anyio.CapacityLimiter(_MOST_THREADS)


async def _in_thread(function: Callable[..., Any], *values: Any, **named: Any) -> Any:
    return await in_thread(function, *values, limiter=_threads(), **named)
