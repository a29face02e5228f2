"""Uploads as rows: whose they are, and how much of each has arrived. The bytes are somebody else's business.

The row is the truth: bytes beyond what it confirms count as not sent.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from seedvr2_ray.serve.db.database import Database
from seedvr2_ray.serve.db.tables import uploads
from seedvr2_ray.serve.problems import ConflictRefusal, GoneRefusal, MissingRefusal, SizeRefusal

_ANNOUNCING_LOCK = 0x5EED_0003


class UploadState(StrEnum):
    """Where an upload stands."""

    RECEIVING = "receiving"
    COMPLETE = "complete"
    DELETED = "deleted"


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A row of the table of uploads."""

    id: str
    owner: str
    name: str
    state: UploadState
    num_bytes: int | None
    """Of the whole file; ``None`` while its sender has not said."""
    num_received: int
    sha256: str | None
    """Of the whole file, in hexadecimal, if whoever received it has computed it."""
    created_at: datetime
    changed_at: datetime
    """When something last arrived."""

    @property
    def is_complete(self) -> bool:
        """Whether a job can be made of it."""
        return self.state is UploadState.COMPLETE


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """What one owner has announced or sent, and not deleted."""

    num_uploads: int
    num_receiving: int
    """Of those, begun and not completed."""
    num_unannounced: int
    """Of those, without a length."""
    num_bytes: int
    """As announced or received."""


class UploadStore:
    """Every upload of a deployment."""

    def __init__(self, database: Database) -> None:
        """Keep uploads in a migrated database."""
        self._database = database

    def create(
        self,
        *,
        owner: str,
        name: str,
        num_bytes: int | None = None,
        upload_id: str | None = None,
        admit: Callable[[Stored], None] | None = None,
    ) -> Upload:
        """Announce an upload of which nothing has arrived.

        Args:
            owner: whose it is.
            name: of the file, as its sender calls it.
            num_bytes: of the whole file, as far as that is known.
            upload_id: by default a random one.
            admit: raises if the owner has too much already. No other upload is announced between its look and this one.

        Raises:
            ConflictRefusal: there is an upload with this id.
        """
        now = self._database.clock()
        values = {
            "id": upload_id or f"upload_{secrets.token_hex(12)}",
            "owner": owner,
            "name": name,
            "state": UploadState.RECEIVING.value,
            "num_bytes": num_bytes,
            "num_received": 0,
            "created_at": now,
            "changed_at": now,
        }
        with self._database.writing() as connection:
            if admit is not None:
                self._database.serialise(connection, _ANNOUNCING_LOCK)
                admit(_stored(connection, owner))
            row = self._database.insert_unless_there(connection, uploads, values)
        if row is None:
            raise ConflictRefusal(f"there is an upload {values['id']!r} already; use another id")
        return _to_upload(row)

    def get(self, upload_id: str, *, owner: str | None = None) -> Upload:
        """Return an upload.

        Raises:
            MissingRefusal: there is no such upload, or it is somebody else's.
            GoneRefusal: it was deleted.
        """
        with self._database.reading() as connection:
            row = connection.execute(sa.select(uploads).where(uploads.c.id == upload_id)).mappings().first()
        return _present(row, upload_id, owner)

    def grow(self, upload_id: str, before: int, after: int) -> Upload:
        """Confirm that more has arrived, if nobody else has confirmed anything meanwhile.

        Args:
            upload_id: which.
            before: bytes that had arrived when the sender went on.
            after: bytes that have arrived now.

        Raises:
            ConflictRefusal: it is complete, or another number of bytes had arrived.
            SizeRefusal: these are more bytes than were announced.
        """
        with self._database.writing() as connection:
            upload = _receiving(connection, upload_id)
            if upload.num_received != before:
                raise ConflictRefusal(
                    f"upload {upload_id} holds {upload.num_received} bytes and not {before}; go on from there"
                )
            if after < before:
                raise ValueError(f"upload {upload_id} cannot shrink from {before} to {after} bytes")
            if upload.num_bytes is not None and after > upload.num_bytes:
                raise SizeRefusal(
                    f"upload {upload_id} was announced with {upload.num_bytes} bytes and {after} came; "
                    "announce its true size in a new upload"
                )
            return self._write(connection, upload_id, num_received=after)

    def complete(self, upload_id: str, *, num_bytes: int, sha256: str | None = None) -> Upload:
        """Note that everything has arrived; saying it twice does no harm.

        Raises:
            ConflictRefusal: it was announced, or completed before, with another size.
        """
        with self._database.writing() as connection:
            upload = _locked(connection, upload_id, None)
            if upload.num_bytes not in (None, num_bytes):
                raise ConflictRefusal(
                    f"upload {upload_id} was announced with {upload.num_bytes} bytes and has {num_bytes}; send it again"
                )
            if upload.is_complete:
                return upload
            return self._write(
                connection,
                upload_id,
                state=UploadState.COMPLETE.value,
                num_bytes=num_bytes,
                num_received=num_bytes,
                sha256=sha256,
            )

    def delete(self, upload_id: str, *, owner: str | None = None) -> Upload:
        """Note that an upload is deleted, and forget its name.

        Raises:
            MissingRefusal, GoneRefusal: as :meth:`get`.
        """
        with self._database.writing() as connection:
            _locked(connection, upload_id, owner)
            return self._write(connection, upload_id, state=UploadState.DELETED.value, name="", sha256=None)

    def idle(self, *, changed_before: datetime, limit: int = 100) -> Sequence[Upload]:
        """List uploads, complete or not, to which nothing was added for long; the most idle first."""
        query = (
            sa.select(uploads)
            .where(uploads.c.state != UploadState.DELETED.value, uploads.c.changed_at < changed_before)
            .order_by(uploads.c.changed_at, uploads.c.id)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [_to_upload(row) for row in connection.execute(query).mappings()]

    def stored(self, owner: str) -> Stored:
        """Say what an owner keeps here."""
        with self._database.reading() as connection:
            return _stored(connection, owner)

    def _write(self, connection: sa.Connection, upload_id: str, **columns: Any) -> Upload:
        update = (
            sa.update(uploads)
            .where(uploads.c.id == upload_id)
            .values(changed_at=self._database.clock(), **columns)
            .returning(uploads)
        )
        return _to_upload(connection.execute(update).mappings().one())


def _stored(connection: sa.Connection, owner: str) -> Stored:
    is_receiving = uploads.c.state == UploadState.RECEIVING.value
    has_no_length = uploads.c.num_bytes.is_(None)
    query = sa.select(
        sa.func.count().label("num"),
        sa.func.coalesce(sa.func.sum(sa.case((is_receiving, 1), else_=0)), 0).label("receiving"),
        sa.func.coalesce(sa.func.sum(sa.case((has_no_length, 1), else_=0)), 0).label("unannounced"),
        sa.func.coalesce(sa.func.sum(sa.func.coalesce(uploads.c.num_bytes, 0)), 0).label("num_bytes"),
    ).where(uploads.c.owner == owner, uploads.c.state != UploadState.DELETED.value)
    row = connection.execute(query).one()
    return Stored(
        num_uploads=int(row.num),
        num_receiving=int(row.receiving),
        num_unannounced=int(row.unannounced),
        num_bytes=int(row.num_bytes),
    )


def _locked(connection: sa.Connection, upload_id: str, owner: str | None) -> Upload:
    query = sa.select(uploads).where(uploads.c.id == upload_id).with_for_update()
    return _present(connection.execute(query).mappings().first(), upload_id, owner)


def _receiving(connection: sa.Connection, upload_id: str) -> Upload:
    upload = _locked(connection, upload_id, None)
    if upload.is_complete:
        raise ConflictRefusal(f"upload {upload_id} is complete; make a job of it, or announce a new upload")
    return upload


def _present(row: sa.RowMapping | None, upload_id: str, owner: str | None) -> Upload:
    if row is None or owner not in (None, row["owner"]):
        raise MissingRefusal(f"there is no upload {upload_id[:80]!r} of yours; announce it with POST /v1/uploads")
    if row["state"] == UploadState.DELETED.value:
        raise GoneRefusal(f"upload {upload_id} was deleted; send the file again")
    return _to_upload(row)


def _to_upload(row: sa.RowMapping) -> Upload:
    return Upload(
        id=row["id"],
        owner=row["owner"],
        name=row["name"],
        state=UploadState(row["state"]),
        num_bytes=row["num_bytes"],
        num_received=row["num_received"],
        sha256=row["sha256"],
        created_at=row["created_at"],
        changed_at=row["changed_at"],
    )
