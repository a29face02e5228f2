"""What tests of the service share: databases of both kinds, and one really running service."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import psycopg
import pytest

from seedvr2_ray.serve.config import FetchRules, LiveLimits, ModelPool
from seedvr2_ray.serve.db.database import Database, open_database
from seedvr2_ray.serve.db.tables import METADATA
from tests.missing import missing
from tests.ports import free_port
from tests.serve.braked import Brake, BrakedRestorers
from tests.serve.running import RunningService, start_service

_NUMBERS = count(1)
_SEEDS = count(1000)
_RUNNING: list[RunningService] = []


@dataclass
class HandClock:
    """A clock that a test sets."""

    now: datetime = field(default_factory=lambda: datetime(2026, 1, 1, tzinfo=UTC))

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)


@dataclass(frozen=True)
class PostgresServer:
    """A running server, and how to make databases in it."""

    address: str

    def new_database(self) -> str:
        """Create a database and return its URL."""
        name = f"test_{next(_NUMBERS)}"
        self.run(f'CREATE DATABASE "{name}"')
        return f"{self.address}/{name}"

    def run(self, statements: str, database: str = "postgres") -> None:
        """Run statements outside a transaction."""
        with psycopg.connect(f"{self.address}/{database}", autocommit=True) as connection:
            connection.execute(statements.encode())


def _programs() -> Path | None:
    """Find the newest installed server; Debian keeps it out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def _unprivileged() -> list[str]:
    """PostgreSQL refuses to run as root, and must not outlive the test run."""
    command = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() == 0:
        user = _database_user()
        command += [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return command


def _database_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _wait_until_it_answers(server: PostgresServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while True:
        try:
            server.run("SELECT 1")
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()}") from None
            time.sleep(0.05)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server on loopback with a cluster of its own, gone when the tests end."""
    programs = _programs()
    if programs is None:
        missing("postgresql")
    folder = Path(tempfile.mkdtemp(prefix="seedvr2-postgres-"))
    if os.geteuid() == 0:
        os.chown(folder, _database_user().pw_uid, _database_user().pw_gid)
    cluster = folder / "cluster"
    options = "-U seedvr2 -A trust -E UTF8 --locale=C --no-sync --no-instructions"
    subprocess.run(
        [*_unprivileged(), programs / "initdb", "-D", cluster, *options.split()],
        check=True,
        capture_output=True,
        cwd=folder,
    )
    port = free_port()
    # Nothing here has to survive a power cut, so nothing waits for the disk.
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "shared_buffers": "32MB",
        "max_connections": 200,
        "autovacuum": "off",
        "timezone": "Asia/Tokyo",  # Times must come back in UTC whatever the server is set to.
    }
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_unprivileged(), programs / "postgres", "-D", cluster]
            + [word for name, value in settings.items() for word in ("-c", f"{name}={value}")],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    server = PostgresServer(f"postgresql://seedvr2@127.0.0.1:{port}")
    try:
        _wait_until_it_answers(server, process, log)
        yield server
    finally:
        process.send_signal(signal.SIGQUIT)  # At once: nothing of this is kept.
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """URL of an empty PostgreSQL database of the test's own."""
    return postgres_server.new_database()


@pytest.fixture(scope="session")
def _migrated_postgres(postgres_server: PostgresServer) -> str:
    """URL of a migrated database; emptying it is much faster than making another."""
    url = postgres_server.new_database()
    open_database(url).close()
    return url


@pytest.fixture(scope="session")
def _migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    open_database(f"sqlite:///{path}").close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty but migrated database; every test that asks for it runs on both kinds."""
    if request.param == "sqlite":
        path = tmp_path / "service.db"
        shutil.copy(request.getfixturevalue("_migrated_sqlite"), path)
        return f"sqlite:///{path}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url: str = request.getfixturevalue("_migrated_postgres")
    statements = [f"DELETE FROM {table}" for table in METADATA.tables]
    server.run("; ".join(["SET lock_timeout = '30s'", *statements]), url.rpartition("/")[2])
    return url


@pytest.fixture
def clock() -> HandClock:
    """The time that ``database`` goes by."""
    return HandClock()


@pytest.fixture(scope="session")
def _shared_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'shared.db'}")
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def _shared_postgres(postgres_server: PostgresServer) -> Iterator[Database]:
    opened = open_database(postgres_server.new_database())
    yield opened
    opened.close()


@pytest.fixture(params=["_shared_sqlite", "_shared_postgres"], ids=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, clock: HandClock) -> Database:
    """An empty database of each kind, whose time a test sets. Only emptied between tests: SQL is compiled once."""
    opened: Database = request.getfixturevalue(request.param)
    with opened.writing() as connection:
        for table in METADATA.tables.values():
            connection.execute(table.delete())
    opened.clock = clock
    return opened


@pytest.fixture(scope="session", params=["sqlite"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """The really running service that tests marked ``ray`` share, for starting one takes long.

    Over SQLite, unless the test's parameter says otherwise. Everybody has a key; jobs differ by their seeds.
    """
    folder = tmp_path_factory.mktemp("service")
    database_url = None
    if request.param == "postgresql":
        database_url = request.getfixturevalue("postgres_server").new_database()
    with start_service(
        folder,
        database_url=database_url,
        auth=("keys",),
        models={
            "lanczos": ModelPool(num_cpus=0.2, min_replicas=1, megapixels_per_second=20.0),
            "nano": ModelPool(num_cpus=0.2, max_replicas=2, downscale_to_zero_seconds=2.0),
            "swiftvr": ModelPool(num_cpus=0.1, downscale_to_zero_seconds=2.0),
        },
        restorers=BrakedRestorers(Brake(folder)),
        model_aliases={"seedvr2_3b": "lanczos"},
        fetch=FetchRules(allow_private=("127.0.0.0/8",)),
        live=LiveLimits(wait_seconds=8.0, grace_seconds=10.0, stall_seconds=10.0, most_waiting_bytes=1 << 20),
        num_finishers=1,
        # Longer than a busy machine lets a runner wait; the tests that kill one end its leases.
        lease_seconds=120.0,
    ) as running:
        _RUNNING.append(running)
        yield running


@pytest.fixture
def brake(service: RunningService) -> Iterator[Brake]:
    """Slows the shared service's restorers down, until the test is over."""
    brake = Brake(service.folder)
    yield brake
    brake.release()


@pytest.fixture
def seeds() -> Iterator[int]:
    """Numbers that no other job of this test run has as its seed."""
    return _SEEDS


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the shared service once for each kind of database, and not whenever the kind changes."""
    items.sort(key=_wants_postgres)


def _wants_postgres(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("service") == "postgresql"


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the shared service with the last of these tests: others have no use for it."""
    if nextitem is None or not nextitem.path.is_relative_to(Path(__file__).parent):
        while _RUNNING:
            _RUNNING.pop().kill()
