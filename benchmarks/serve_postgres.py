"""A private PostgreSQL server on loopback for a benchmark: set up, used and gone, with Debian's settings."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.serve_cluster import free_port

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    url: str
    pid: int


def find_programs() -> Path | None:
    """Find the newest installed server, which Debian keeps out of PATH; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


@contextmanager
def running_postgres(programs: Path) -> Iterator[Postgres]:
    """Run a server for as long as the block does. It writes to the disk as one in production does.

    Args:
        programs: folder of ``initdb`` and ``postgres``.
    """
    folder = Path(tempfile.mkdtemp(prefix="sb-postgres-"))
    try:
        if os.geteuid() == 0:
            os.chown(folder, _user().pw_uid, _user().pw_gid)
        cluster = folder / "cluster"
        options = ["-U", "seedvr2", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        subprocess.run(
            [*_unprivileged(), programs / "initdb", "-D", cluster, *options],
            check=True,
            capture_output=True,
            cwd=folder,
        )
        with _served(programs, cluster) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _served(programs: Path, cluster: Path) -> Iterator[Postgres]:
    port, log = free_port(), cluster.with_name("log")
    settings = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": ""}
    words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_unprivileged(), programs / "postgres", "-D", cluster, *words],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cluster.parent,
        )
    server = Postgres(f"postgresql://seedvr2@127.0.0.1:{port}/postgres", process.pid)
    try:
        _wait_until_it_answers(server, process, log)
        yield server
    finally:
        process.send_signal(signal.SIGQUIT)  # At once: nothing of this is kept.
        process.wait(_STOP_SECONDS)


def _wait_until_it_answers(server: Postgres, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            psycopg.connect(server.url).close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()}") from None
        time.sleep(0.05)


def _unprivileged() -> list[str]:
    """PostgreSQL refuses to run as root, and must not outlive the benchmark."""
    command = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() == 0:
        command += [f"--reuid={_user().pw_uid}", f"--regid={_user().pw_gid}", "--clear-groups"]
    return command


def _user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")
