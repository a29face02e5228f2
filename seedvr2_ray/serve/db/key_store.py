"""API keys in the service's database: what a key may do and until when, and a hash of its secret, never the secret."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import sqlalchemy as sa

from seedvr2_ray.errors import StorageError
from seedvr2_ray.serve.db.database import Database
from seedvr2_ray.serve.db.tables import api_keys
from seedvr2_ray.serve.problems import ConflictRefusal, MissingRefusal
from seedvr2_ray.serve.security.api_keys import ApiKey, make_key

_log = logging.getLogger(__name__)

_SECONDS_BETWEEN_TOUCHES = 60.0


class KeyStore:
    """Every API key of a deployment, those that open nothing any more included."""

    def __init__(self, database: Database) -> None:
        """Keep keys in a migrated database."""
        self._database = database

    def add(self, key: ApiKey) -> None:
        """Keep a new key.

        Raises:
            ConflictRefusal: there is one with the same prefix.
        """
        with self._database.writing() as connection:
            self._insert(connection, key)

    def find(self, prefix: str) -> ApiKey | None:
        """Return the key with a public prefix, valid or not."""
        with self._database.reading() as connection:
            row = connection.execute(_with_prefix(prefix)).mappings().first()
        return None if row is None else _to_key(row)

    def list(self, *, owner: str | None = None) -> Sequence[ApiKey]:
        """List the keys of an owner, or everybody's, the oldest first."""
        query = sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.prefix)
        if owner is not None:
            query = query.where(api_keys.c.owner == owner)
        with self._database.reading() as connection:
            return [_to_key(row) for row in connection.execute(query).mappings()]

    def end(self, prefix: str, *, expires_at: datetime | None = None, revoked_at: datetime | None = None) -> ApiKey:
        """Let a key expire, or revoke it. An end that is set already is only ever brought forward.

        Raises:
            MissingRefusal: there is no such key.
        """
        with self._database.writing() as connection:
            return _end(connection, prefix, expires_at=expires_at, revoked_at=revoked_at)

    def rotate(self, prefix: str, *, grace_seconds: float = 0.0) -> tuple[ApiKey, str]:
        """Replace a key by a successor that may do the same, and end the old one, both at once or neither.

        Args:
            prefix: of the key to replace.
            grace_seconds: how long the old token goes on working, for those who have not got the new one yet.

        Returns:
            The successor and its token, which cannot be had again.

        Raises:
            MissingRefusal: there is no such key.
            ConflictRefusal: it opens nothing any more.
        """
        now = self._database.clock()
        with self._database.writing() as connection:
            row = connection.execute(_with_prefix(prefix).with_for_update()).mappings().first()
            old = _required(row, prefix)
            if not old.is_valid(now):
                raise ConflictRefusal(f"the key {prefix} has ended and cannot be rotated; make a new one")
            successor, token = make_key(old.owner, old.scopes, now=now, name=old.name, expires_at=old.expires_at)
            self._insert(connection, successor)
            _end(connection, prefix, expires_at=now + timedelta(seconds=grace_seconds), revoked_at=None)
        return successor, token

    def touch(self, prefix: str) -> None:
        """Note that a key was used. Written at most once a minute, so that reading jobs does not write keys."""
        now = self._database.clock()
        is_stale = sa.or_(
            api_keys.c.last_used_at.is_(None),
            api_keys.c.last_used_at < now - timedelta(seconds=_SECONDS_BETWEEN_TOUCHES),
        )
        with self._database.reading() as connection:
            if connection.execute(_with_prefix(prefix).where(is_stale)).first() is None:
                return
        with self._database.writing() as connection:
            connection.execute(sa.update(api_keys).where(api_keys.c.prefix == prefix).values(last_used_at=now))

    def last_used_at(self, prefix: str) -> datetime | None:
        """Return when a key was last used, to the minute; ``None`` if it never was."""
        query = sa.select(api_keys.c.last_used_at).where(api_keys.c.prefix == prefix)
        with self._database.reading() as connection:
            return connection.scalars(query).first()

    def _insert(self, connection: sa.Connection, key: ApiKey) -> None:
        values = {
            "prefix": key.prefix,
            "digest": key.digest,
            "owner": key.owner,
            "scopes": sorted(key.scopes),
            "name": key.name,
            "created_at": key.created_at,
            "expires_at": key.expires_at,
            "revoked_at": key.revoked_at,
        }
        if self._database.insert_unless_there(connection, api_keys, values) is None:
            raise ConflictRefusal(f"there is a key {key.prefix} already; make another one")


class UsedKeys:
    """Keys as requests look them up: that one was used is written down later, by a thread of its own.

    Whoever only reads must not wait for a database that cannot be written to at the moment.
    """

    def __init__(self, keys: KeyStore, *, now: Callable[[], float] = time.monotonic) -> None:
        """Note uses of keys in a store.

        Args:
            keys: where they are looked up and noted.
            now: the time in seconds.
        """
        self._keys = keys
        self._now = now
        self._noted: dict[str, float] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="used-keys")

    def find(self, prefix: str) -> ApiKey | None:
        """Return the key with a public prefix, valid or not."""
        return self._keys.find(prefix)

    def touch(self, prefix: str) -> None:
        """Have it noted that a key was used, at most once a minute; returns at once."""
        now = self._now()
        if now - self._noted.get(prefix, -math.inf) < _SECONDS_BETWEEN_TOUCHES:
            return
        self._noted[prefix] = now
        self._writer.submit(self._write, prefix)

    def close(self) -> None:
        """Wait until everything is noted."""
        self._writer.shutdown()

    def _write(self, prefix: str) -> None:
        try:
            self._keys.touch(prefix)
        except StorageError as error:
            self._noted.pop(prefix, None)
            _log.warning("that the key %s was used cannot be noted now: %s", prefix, error)


def _with_prefix(prefix: str) -> sa.Select[tuple[object, ...]]:
    return sa.select(api_keys).where(api_keys.c.prefix == prefix)


def _required(row: sa.RowMapping | None, prefix: str) -> ApiKey:
    if row is None:
        raise MissingRefusal(f"there is no key {prefix[:40]!r}; take the prefix from the list of keys")
    return _to_key(row)


def _end(connection: sa.Connection, prefix: str, *, expires_at: datetime | None, revoked_at: datetime | None) -> ApiKey:
    row = connection.execute(_with_prefix(prefix).with_for_update()).mappings().first()
    key = _required(row, prefix)
    ends = {
        "expires_at": _earlier(key.expires_at, expires_at),
        "revoked_at": _earlier(key.revoked_at, revoked_at),
    }
    update = sa.update(api_keys).where(api_keys.c.prefix == prefix).values(**ends).returning(api_keys)
    return _to_key(connection.execute(update).mappings().one())


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((moment for moment in (one, other) if moment is not None), default=None)


def _to_key(row: sa.RowMapping) -> ApiKey:
    return ApiKey(
        prefix=row["prefix"],
        digest=row["digest"],
        owner=row["owner"],
        scopes=frozenset(row["scopes"]),
        created_at=row["created_at"],
        name=row["name"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )
