"""Laws of the database layer: migrations, transactions and failures, on SQLite and PostgreSQL alike."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from seedvr2_ray.errors import DeploymentError, StorageError
from seedvr2_ray.serve.db.database import Database, open_database
from seedvr2_ray.serve.db.job_store import JobStore
from seedvr2_ray.serve.db.service_values import shared_value
from seedvr2_ray.serve.db.tables import METADATA, REVISION, jobs
from tests.serve.job_samples import submit
from tests.serve.racing import at_once


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database in which there is nothing yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new folder' / '100%.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


def test_the_last_migration_is_the_one_that_the_tables_name(database: Database) -> None:
    with database.reading() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == REVISION


@pytest.mark.slow
def test_the_migrations_make_exactly_the_tables_that_the_code_uses(database: Database) -> None:
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []


def test_a_difference_between_tables_and_migrations_would_be_found(database: Database) -> None:
    with database.reading() as connection:
        connection.execute(sa.text("ALTER TABLE jobs ADD COLUMN surprise INTEGER"))
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert [difference[0] for difference in compare_metadata(context, METADATA)] == ["remove_column"]
        connection.rollback()


def test_many_may_open_an_empty_database_at_once(empty_url: str) -> None:
    databases = at_once(4, lambda _: open_database(empty_url))
    submitted = [submit(JobStore(database)).id for database in databases]
    assert {job.id for job in JobStore(databases[0]).list(owner=None).jobs} == set(submitted)
    for database in databases:
        database.close()


def test_opening_again_keeps_everything(empty_url: str) -> None:
    first = open_database(empty_url)
    job = submit(JobStore(first))
    first.close()
    second = open_database(empty_url)
    assert JobStore(second).get(job.id) == job
    second.close()


def test_a_database_of_a_newer_version_is_left_alone(database_url: str) -> None:
    database = Database(database_url)
    with database.writing() as connection:
        now = connection.scalars(sa.text("SELECT version_num FROM alembic_version")).one()
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'from the future'"))
    try:
        with pytest.raises(DeploymentError, match="a newer seedvr2-ray may have used it"):
            open_database(database_url)
    finally:
        with database.writing() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = :now"), {"now": now})
        database.close()


def test_a_block_that_raises_writes_nothing(database: Database) -> None:
    job = submit(JobStore(database))
    with pytest.raises(RuntimeError), database.writing() as connection:
        connection.execute(sa.update(jobs).values(owner="eve"))
        raise RuntimeError
    assert JobStore(database).get(job.id).owner == "ada"


def test_writers_that_read_first_lose_nothing(database: Database) -> None:
    job = submit(JobStore(database))

    def add_one(_: int) -> None:
        for _ in range(5):
            with database.writing() as connection:
                priority = connection.scalars(sa.select(jobs.c.priority).with_for_update()).one()
                connection.execute(sa.update(jobs).values(priority=priority + 1))

    at_once(4, add_one)
    assert JobStore(database).get(job.id).priority == 20


def test_a_shared_value_is_made_once(database: Database) -> None:
    values = at_once(6, lambda number: shared_value(database, "signing key", lambda: b"key %d" % number))
    assert len(set(values)) == 1
    assert shared_value(database, "signing key", lambda: b"another") == values[0]
    assert shared_value(database, "other", lambda: b"\x00\xff") == b"\x00\xff"


def test_a_time_without_zone_is_not_written(database: Database) -> None:
    with pytest.raises(sa.exc.StatementError, match="has no time zone"), database.writing() as connection:
        connection.execute(sa.update(jobs).values(created_at=datetime(2026, 1, 1)))


def test_sqlite_keeps_every_commit_and_lets_readers_and_writers_work_side_by_side(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'service.db'}")
    with database.reading() as connection:
        assert connection.scalars(sa.text("PRAGMA journal_mode")).one() == "wal"
        assert connection.scalars(sa.text("PRAGMA synchronous")).one() == 2
        with database.writing() as writing:
            writing.execute(sa.select(jobs))
    database.close()


def test_a_locked_database_is_a_storage_error_after_a_while(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'service.db'}"
    holder, waiter = open_database(url), Database(url, busy_seconds=0.05)
    with holder.writing(), pytest.raises(StorageError, match="does not answer: database is locked"):
        submit(JobStore(waiter))
    holder.close()
    waiter.close()


def test_whether_anything_can_be_written_is_known_soon(database: Database) -> None:
    for _ in range(2):
        database.require_writable()


def test_a_locked_database_is_found_not_to_be_writable_soon_and_reads_go_on(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'service.db'}")
    store = JobStore(database)
    job = submit(store)
    with closing(sqlite3.connect(tmp_path / "service.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked"):
            database.require_writable(seconds=0.1)
        assert store.get(job.id) == job
        other.execute("ROLLBACK")
    database.require_writable(seconds=0.1)
    database.close()


@pytest.mark.slow
def test_a_writer_that_hangs_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    open_database(f"sqlite:///{tmp_path / 'service.db'}").close()
    database = Database(f"sqlite:///{tmp_path / 'service.db'}", busy_seconds=0.2)
    with database.writing():
        waited = at_once(3, lambda _: _refusal_of(database))
    assert all("other writers" in each for each in waited)


def _refusal_of(database: Database) -> str:
    with pytest.raises(StorageError) as refused, database.writing():
        raise AssertionError("two writers at once")
    return str(refused.value)


@pytest.mark.parametrize("is_replaced", [False, True])
def test_nothing_is_written_into_a_file_that_was_taken_away(tmp_path: Path, is_replaced: bool) -> None:
    path = tmp_path / "service.db"
    database = open_database(f"sqlite:///{path}")
    store = JobStore(database)
    job = submit(store)
    path.rename(tmp_path / "elsewhere.db")
    if is_replaced:
        open_database(f"sqlite:///{path}").close()
    for write in (lambda: submit(store), database.require_writable):
        with pytest.raises(StorageError, match="replaced" if is_replaced else "removed"):
            write()
    if not is_replaced:
        assert store.get(job.id) == job, "what is open can still be read"
    database.close()


def test_what_was_written_while_the_file_went_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "service.db"
    database = open_database(f"sqlite:///{path}")
    with pytest.raises(StorageError, match="removed"), database.writing() as connection:
        connection.execute(sa.text("DELETE FROM jobs"))
        path.unlink()


def test_a_server_that_is_not_there_is_a_storage_error_without_the_password() -> None:
    with pytest.raises(StorageError, match="does not answer") as error:
        open_database("postgresql://ada:tell-nobody@127.0.0.1:1/none?connect_timeout=5")
    assert "tell-nobody" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "mysql://ada:tell-nobody@example.org/jobs",
        "nonsense tell-nobody",
        "",
        "sqlite:////proc/tell-nobody/service.db",
    ],
)
def test_a_url_that_cannot_keep_jobs_is_refused_with_what_would(url: str) -> None:
    with pytest.raises(DeploymentError, match=r"PostgreSQL|postgresql://user:password@host/name") as error:
        open_database(url)
    assert "ada:tell-nobody" not in str(error.value)
    assert "nonsense" not in str(error.value)


def test_the_usual_names_of_postgresql_mean_the_driver_that_is_installed(postgres_url: str) -> None:
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        database = open_database(f"{scheme}://{postgres_url.partition('://')[2]}")
        assert database.url.drivername == "postgresql+psycopg"
        database.close()


_PROCESS = """
import sys
from seedvr2_ray.serve.db.database import open_database
from seedvr2_ray.serve.db.job_store import JobStore, NewJob
from seedvr2_ray.serve.jobs import Source

url, name = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
store = JobStore(open_database(url))
source = Source(kind="upload", location="upload_1", name="video.mp4")
for _ in range(10):
    store.create(NewJob(owner=name, source=source, settings={}))
    for job in store.claim(name, lease_seconds=1000, limit=2):
        store.note(job.id, job.fence, gpu_seconds=1.0)
        print(job.id, flush=True)
"""


@pytest.mark.slow
def test_processes_that_start_at_once_on_an_empty_database_share_its_jobs(empty_url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, empty_url, f"runner {number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    outputs = at_once(2, lambda number: processes[number].communicate("go\n", timeout=120)[0])
    assert [process.returncode for process in processes] == [0, 0]
    claimed = [job_id for output in outputs for job_id in output.split()]
    database = open_database(empty_url)
    store = JobStore(database)
    claimed += [job.id for job in store.claim("last", lease_seconds=15, limit=20)]
    database.close()
    assert len(claimed) == len(set(claimed)) == 20
