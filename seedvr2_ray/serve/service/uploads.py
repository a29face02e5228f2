"""Uploads as callers use them: received in one go or in several, by us or by the store, and then named by jobs."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import anyio

from seedvr2_ray.errors import InputError
from seedvr2_ray.serve.config import Limits, ServiceConfig
from seedvr2_ray.serve.db.upload_store import Stored, Upload, UploadStore
from seedvr2_ray.serve.problems import ConflictRefusal, RateRefusal, SizeRefusal
from seedvr2_ray.serve.security.auth import Caller
from seedvr2_ray.serve.security.fetch import plain_name
from seedvr2_ray.serve.service.admission import require_free
from seedvr2_ray.serve.service.upload_files import UploadFiles
from seedvr2_ray.serve.threads import in_thread

PRESIGNED_SECONDS = 3600
_MOST_RECEIVING = 100
"""Uploads that one owner may have begun and not completed; each holds room on the disk until it expires."""
_SPACE_PAUSE = 60
_MOST_WRITERS = 16


@dataclass(frozen=True, slots=True)
class Presigned:
    """Where to send a file so that it goes straight to the object store."""

    upload: Upload
    url: str
    expires_at: datetime


class Uploads:
    """The uploads of a deployment: rows and bytes together."""

    def __init__(
        self,
        store: UploadStore,
        files: UploadFiles,
        config: ServiceConfig,
        *,
        limits: Callable[[], Limits],
        in_use: Callable[[str], int],
    ) -> None:
        """Join rows and bytes.

        Args:
            limits: gives those in force.
            in_use: counts the jobs that may still read an upload.
        """
        self._store = store
        self._files = files
        self._config = config
        self._limits = limits
        self._in_use = in_use
        self._writers = anyio.CapacityLimiter(_MOST_WRITERS)

    @property
    def can_presign(self) -> bool:
        """Whether callers can send files straight to the store."""
        return not self._files.is_local

    async def receive(self, caller: Caller, name: str, chunks: AsyncIterator[bytes]) -> Upload:
        """Receive a file whole; nothing stays of one that does not arrive whole.

        Raises:
            SizeRefusal: it is longer than allowed; the rest was not read.
            InputError: it broke off, or is empty.
            CapacityError: there is no room for it.
        """
        upload = await self._announce(caller, name, None)
        try:
            received = await self._files.store(
                upload.id, upload.name, chunks, most_bytes=self._limits().max_upload_bytes
            )
            if not received.num_bytes:
                raise InputError("the file is empty; send one with pictures in it")
            complete = partial(self._store.complete, upload.id, num_bytes=received.num_bytes, sha256=received.sha256)
            return await in_thread(complete)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await in_thread(self._remove, upload)
            raise

    async def begin(self, caller: Caller, name: str, num_bytes: int) -> Upload:
        """Announce a file that will come in one or several pieces.

        Raises:
            SizeRefusal: it would be longer than allowed.
            RateRefusal: the caller has begun too many and completed none of them.
        """
        self._require_size(num_bytes)
        return await self._announce(caller, name, num_bytes)

    async def extend(self, caller: Caller, upload_id: str, offset: int, chunks: AsyncIterator[bytes]) -> Upload:
        """Receive the next piece of an announced file; whatever arrives of it is kept.

        Args:
            offset: how much has arrived, as the sender knows it.

        Raises:
            ConflictRefusal: something else has arrived, or another connection is sending.
            SizeRefusal: this is more than was announced.
        """
        caller.require("jobs:write")
        upload = await self.get(caller, upload_id)
        if upload.num_received != offset:
            raise ConflictRefusal(f"the upload holds {upload.num_received} bytes and not {offset}; go on from there")
        if upload.is_complete or upload.num_bytes is None:
            return upload
        await self._files.extend(
            upload.id,
            upload.name,
            chunks,
            offset=offset,
            num_bytes=upload.num_bytes,
            confirm=lambda after: self._store.grow(upload.id, offset, after),
        )
        return await self._completed(await self.get(caller, upload_id))

    async def get(self, caller: Caller, upload_id: str) -> Upload:
        """Return an upload of the caller's.

        Raises:
            MissingRefusal: there is none, or it is somebody else's.
            GoneRefusal: it was deleted.
        """
        return await in_thread(self._store.get, upload_id, owner=caller.sees)

    async def require_complete(self, caller: Caller, upload_id: str) -> Upload:
        """Return an upload that a job can be made of.

        Raises:
            ConflictRefusal: some of it is missing.
        """
        upload = await self._completed(await self.get(caller, upload_id))
        if not upload.is_complete and self.can_presign:
            upload = await in_thread(self._look_for_presigned, upload)
        if not upload.is_complete:
            raise ConflictRefusal(
                f"upload {upload_id} holds {upload.num_received} of {upload.num_bytes} bytes; send the rest first"
            )
        return upload

    async def delete(self, caller: Caller, upload_id: str) -> None:
        """Delete an upload, complete or not.

        Raises:
            ConflictRefusal: a job still needs it.
        """
        caller.require("jobs:write")
        upload = await self.get(caller, upload_id)
        if await in_thread(self._in_use, upload_id):
            raise ConflictRefusal(f"upload {upload_id} is the source of a job; delete the job, and it goes with it")
        await in_thread(self._remove, upload)

    async def discard(self, upload: Upload) -> None:
        """Delete an upload that came for a job, unless one was made of it: a request may end just after that."""
        with anyio.CancelScope(shield=True):
            if not await in_thread(self._in_use, upload.id):
                await in_thread(self._remove, upload)

    async def presign(self, caller: Caller, name: str, num_bytes: int) -> Presigned:
        """Announce a file that its sender puts into the object store himself.

        Raises:
            ConflictRefusal: the deployment keeps its files in a folder.
        """
        caller.require("jobs:write")
        if not self.can_presign:
            raise ConflictRefusal(
                "this deployment keeps files in a folder and not in an object store; use POST /v1/uploads"
            )
        upload = await self.begin(caller, name, num_bytes)
        sign = partial(self._files.presign, upload.id, upload.name, num_bytes=num_bytes, seconds=PRESIGNED_SECONDS)
        url = await in_thread(sign)
        return Presigned(upload, url, upload.created_at + timedelta(seconds=PRESIGNED_SECONDS))

    def expires_at(self, upload: Upload) -> datetime:
        """Say when an upload is deleted if no job uses it and nothing is added."""
        return upload.changed_at + timedelta(hours=self._config.retention.uploads_hours)

    @contextmanager
    def opened(self, upload: Upload) -> Iterator[Path]:
        """Give a local path of a complete upload for as long as the block runs."""
        with self._files.opened(upload.id, upload.name) as path:
            yield path

    async def _announce(self, caller: Caller, name: str, num_bytes: int | None) -> Upload:
        caller.require("jobs:write")
        announce = partial(
            self._store.create,
            owner=caller.owner,
            name=plain_name(name),
            num_bytes=num_bytes,
            admit=partial(self._require_space, num_bytes=num_bytes),
        )
        free = self._limits().min_free_bytes + (num_bytes or 0)
        await in_thread(require_free, self._config.data, free)
        return await in_thread(announce, limiter=self._writers)

    def _require_space(self, stored: Stored, *, num_bytes: int | None) -> None:
        limits = self._limits()
        if stored.num_receiving >= _MOST_RECEIVING:
            raise RateRefusal(
                f"you have begun {stored.num_receiving} uploads and {_MOST_RECEIVING} may be open; "
                "complete or delete one",
                _SPACE_PAUSE,
            )
        if stored.num_uploads >= limits.max_uploads_per_owner:
            raise RateRefusal(
                f"you keep {stored.num_uploads} uploads here and {limits.max_uploads_per_owner} are the most; "
                "delete one, or the job that was made of it",
                _SPACE_PAUSE,
            )
        # Of what did not say how long it is, only the limit is known.
        kept = stored.num_bytes + stored.num_unannounced * limits.max_upload_bytes
        wanted = limits.max_upload_bytes if num_bytes is None else num_bytes
        if kept and kept + wanted > limits.max_stored_upload_bytes_per_owner:
            raise RateRefusal(
                f"your uploads take {kept} bytes here, this one may take {wanted} and "
                f"{limits.max_stored_upload_bytes_per_owner} are the most; delete one, or the job that was made of it",
                _SPACE_PAUSE,
            )

    async def _completed(self, upload: Upload) -> Upload:
        """Note that everything has arrived, once it has."""
        if upload.is_complete or upload.num_bytes is None or upload.num_received < upload.num_bytes:
            return upload
        await in_thread(self._files.complete, upload.id, upload.name, upload.num_bytes)
        return await in_thread(self._store.complete, upload.id, num_bytes=upload.num_bytes)

    def _look_for_presigned(self, upload: Upload) -> Upload:
        """Find out whether the sender has put the file into the store, and whether it is the one he announced."""
        size = self._files.num_bytes(upload.id, upload.name)
        if size is None:
            return upload
        if size > self._limits().max_upload_bytes:
            self._remove(upload)
            self._require_size(size)
        return self._store.complete(upload.id, num_bytes=size)

    def _require_size(self, num_bytes: int) -> None:
        most = self._limits().max_upload_bytes
        if num_bytes > most:
            raise SizeRefusal(
                f"the file has {num_bytes} bytes and {most} are the most here; "
                "send a smaller one or ask the operator for a higher limit"
            )
        if num_bytes < 1:
            raise InputError("the file is empty; send one with pictures in it")

    def _remove(self, upload: Upload) -> None:
        self._store.delete(upload.id)
        self._files.remove(upload.id, upload.name)
