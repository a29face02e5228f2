"""The service's database, SQLite in WAL mode or PostgreSQL: transactions, and migrations that many may start at once.

A reader sees one moment of the database. A writer on SQLite takes the write lock before it reads, so what it has read
still holds when it writes; on PostgreSQL the stores lock the rows that they are about to change.
"""

import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from seedvr2_ray.errors import DeploymentError, StorageError
from seedvr2_ray.serve.db.tables import REVISION, service_values

Clock = Callable[[], datetime]
"""Gives the time in UTC."""

_MIGRATION_LOCK = 0x5EED_0001
"""Of PostgreSQL's advisory locks: held while a process migrates."""
_WRITES = "seedvr2_writes"


def utc_now() -> datetime:
    """Return the time; what stores use outside tests."""
    return datetime.now(UTC)


class Database:
    """Connections to one database, shared by the threads of a process. Not for sending to another process."""

    def __init__(self, url: str, *, clock: Clock = utc_now, busy_seconds: float = 30.0) -> None:
        """Name the database; it is connected to when it is first used.

        Args:
            url: ``sqlite:////folder/file.db`` or ``postgresql://user:password@host/name``.
            clock: the time that stores write and compare leases with. Machines whose clocks differ take jobs from one
                another too early or too late; fences keep that harmless.
            busy_seconds: how long to wait for SQLite's write lock, or for a free connection.

        Raises:
            DeploymentError: the URL is malformed or names another kind of database.
        """
        self.url = _parse(url)
        self.clock = clock
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        options: dict[str, Any] = {"pool_timeout": busy_seconds}
        if self.is_sqlite:
            options["connect_args"] = {"timeout": busy_seconds}
        else:
            options["pool_pre_ping"] = True  # A restarted server costs no request.
        self.engine = sa.create_engine(self.url, **options)
        self._busy_seconds = busy_seconds
        # SQLite wakes waiting writers by chance; one queue per process is fairer and saves the polling.
        self._write_lock = threading.Lock() if self.is_sqlite else None
        self._file: tuple[int, int] | None = None
        if self.is_sqlite:
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Give a connection to look something up with.

        Raises:
            StorageError: the database does not answer.
        """
        with self._translated(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Give a connection whose changes are kept together when the block ends, and dropped together if it raises.

        Raises:
            StorageError: the database does not answer, is locked by another process for too long, or is a file that
                was removed or replaced, into which nothing may be written that somebody relies on.
        """
        with self._translated(), self._write_turn(self._busy_seconds):
            self._require_file()
            with self.engine.connect().execution_options(**{_WRITES: True}) as connection:
                with connection.begin():
                    yield connection
                    self._require_file()

    def require_writable(self, *, seconds: float = 2.0) -> None:
        """Find out whether something can be written, by writing something.

        Args:
            seconds: to wait at most for whoever holds the database.

        Raises:
            StorageError: nothing can.
        """
        with self._translated(), self._write_turn(seconds):
            self._require_file()
            with self.engine.connect() as connection:
                self._wait_at_most(connection, seconds)
                try:
                    with connection.execution_options(**{_WRITES: True}).begin():
                        if not self.is_sqlite:
                            connection.execute(sa.text(f"SET LOCAL statement_timeout = {round(seconds * 1000)}"))
                        self._note_readiness(connection)
                finally:
                    self._wait_at_most(connection, self._busy_seconds)

    def _wait_at_most(self, connection: sa.Connection, seconds: float) -> None:
        """Set how long SQLite waits for its lock; PostgreSQL has settings of a transaction for that."""
        raw = connection.connection.driver_connection
        assert raw is not None
        if self.is_sqlite:
            raw.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")

    def _note_readiness(self, connection: sa.Connection) -> None:
        note = {"name": "last found writable", "value": b"", "created_at": self.clock()}
        if self.insert_unless_there(connection, service_values, note) is None:
            update = sa.update(service_values).where(service_values.c.name == note["name"])
            connection.execute(update.values(created_at=note["created_at"]))

    @contextmanager
    def _write_turn(self, seconds: float) -> Iterator[None]:
        if self._write_lock is None:
            yield
            return
        if not self._write_lock.acquire(timeout=seconds):
            raise self._unanswered(f"other writers have held it for {seconds:g} s")
        try:
            yield
        finally:
            self._write_lock.release()

    def _require_file(self) -> None:
        """Refuse to write into a file that has no name any more: whatever it takes is lost when it is closed.

        Raises:
            StorageError: it was removed, or another one lies in its place.
        """
        if not self.is_sqlite:
            return
        try:
            status = os.stat(str(self.url.database))
        except FileNotFoundError:
            if self._file is None:
                return
            raise self._unanswered("its file was removed; put it back, and start the service again") from None
        if self._file is None:
            self._file = (status.st_dev, status.st_ino)
        elif self._file != (status.st_dev, status.st_ino):
            raise self._unanswered("its file was replaced; start the service again")

    def _unanswered(self, reason: str) -> StorageError:
        return StorageError(f"the database {self.url.render_as_string()} does not answer: {reason}")

    def serialise(self, connection: sa.Connection, purpose: int) -> None:
        """Wait until no other transaction holds ``purpose``, and hold it until this one ends.

        SQLite has one writer at a time anyway.
        """
        if not self.is_sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(purpose)))

    def insert_unless_there(
        self, connection: sa.Connection, table: sa.Table, values: Mapping[str, Any]
    ) -> sa.RowMapping | None:
        """Insert a row and return it; return ``None`` if one with the same unique columns is there.

        Another transaction that inserts the same row is waited for.
        """
        insert = sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)
        insert = insert.values(**values).on_conflict_do_nothing()
        return connection.execute(insert.returning(table)).mappings().first()

    def close(self) -> None:
        """Close every connection that is not in use."""
        self.engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
            cause = getattr(error, "orig", None) or error
            reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
            raise self._unanswered(reason) from error


def open_database(url: str, *, clock: Clock = utc_now) -> Database:
    """Connect to a database and bring its tables up to date; safe when several processes start at once.

    Raises:
        DeploymentError: the URL cannot be used, or a newer version of this software has migrated the database.
        StorageError: the database does not answer.
    """
    database = Database(url, clock=clock)
    try:
        if database.is_sqlite:
            _open_sqlite(database)
            database._require_file()
        else:
            _migrate(database)
    except BaseException:
        database.close()
        raise
    return database


def _open_sqlite(database: Database) -> None:
    path = Path(str(database.url.database))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Changing to WAL needs the file for oneself, and SQLite does not wait for that.
        with open(f"{path}.starting", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with database._translated(), database.engine.connect() as connection:
                raw = connection.connection.driver_connection
                assert raw is not None
                raw.execute("PRAGMA journal_mode = WAL")
            _migrate(database)
    except OSError as error:
        raise DeploymentError(
            f"the database {path} cannot be opened: {error}; name a writable folder or a PostgreSQL URL"
        ) from error


def _migrate(database: Database) -> None:
    with database.reading() as connection:
        if sa.inspect(connection).has_table("alembic_version"):
            if connection.scalars(sa.text("SELECT version_num FROM alembic_version")).all() == [REVISION]:
                return

    from seedvr2_ray.serve.db.migrations.upgrade import upgrade  # Loads Alembic, of use once in a database's life.

    # One transaction: a migration that fails half way leaves nothing behind, on SQLite too.
    with database.writing() as connection:
        database.serialise(connection, _MIGRATION_LOCK)
        upgrade(connection, name=database.url.render_as_string())


def _parse(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
        backend = parsed.get_backend_name()
    except sa.exc.ArgumentError:
        # The URL may hold a password, so it is not repeated.
        raise DeploymentError(
            "the database URL is malformed; write sqlite:////folder/file.db or postgresql://user:password@host/name"
        ) from None
    if backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed.set(drivername="sqlite")
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    raise DeploymentError(
        f"{parsed.render_as_string()} cannot keep jobs: only SQLite files and PostgreSQL can; "
        "write sqlite:////folder/file.db or postgresql://user:password@host/name"
    )


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # The driver would begin transactions of its own, too late and too weak.
    # A job that was accepted must survive a power cut, so every commit reaches the disk.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
