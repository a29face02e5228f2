"""A service on Ray Serve for benchmarks: deployed from this process, asked over HTTP, watched through ``/proc``."""

import contextlib
import http.client
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve

from seedvr2_ray.restoration.load import RestorerSource
from seedvr2_ray.serve.app import build_with
from seedvr2_ray.serve.config import ServiceConfig

_APP = "seedvr2-benchmark"
_OBJECT_STORE_BYTES = 1 << 30
"""Larger than the largest upload: a small store would bound what a body could take up in it."""
_READY_SECONDS = 120.0
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Deployed:
    """A service that answers on a port of loopback."""

    port: int

    def connect(self, token: str | None = None) -> "Asker":
        """Open a connection of one client."""
        return Asker(self.port, token)

    def pids(self, deployment: str) -> list[int]:
        """Return the processes of a deployment's replicas: ``api``, ``runner``, ``finisher``, ``restorer-lanczos``."""
        return _pids_called(f"ServeReplica:{_APP}:{deployment}")

    def proxy_pids(self) -> list[int]:
        """Return the processes that take connections and hand requests to the ingress."""
        return _pids_called("ray::ProxyActor")


class Asker:
    """One client: a connection that stays open. Kept lean, for its own work is measured along with the service's."""

    def __init__(self, port: int, token: str | None = None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[http.client.HTTPMessage, bytes]:
        """Send a request and return the headers and the body of its answer.

        Args:
            body: bytes, or an iterable of them with ``Content-Length`` among ``headers``.

        Raises:
            RuntimeError: the answer is no success; figures would mean nothing.
        """
        self._connection.request(method, path, body=body, headers={**self._headers, **(headers or {})})
        answer = self._connection.getresponse()
        content = answer.read()
        if not 200 <= answer.status < 300:
            raise RuntimeError(
                f"{method} {path} was answered {answer.status}: {content[:500].decode(errors='replace')}"
            )
        return answer.headers, content

    def ask_json(self, method: str, path: str, value: Any = None) -> Any:
        """Send a request with a JSON body, or none, and return the value of its answer."""
        body = None if value is None else json.dumps(value).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        return json.loads(self.ask(method, path, body, headers)[1] or b"null")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextmanager
def running_ray() -> Iterator[int]:
    """Start Ray and an HTTP proxy on loopback, give its port, and end everything afterwards."""
    folder = tempfile.mkdtemp(prefix="sb")  # Sockets in it need a short path.
    # Workers unpickle restorers that are defined here.
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    port = free_port()
    try:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            log_to_driver=False,
            _temp_dir=folder,
        )
        serve.start(http_options={"host": "127.0.0.1", "port": port}, proxy_location="HeadOnly")
        yield port
    finally:
        with contextlib.suppress(Exception):  # Whatever is left ends with Ray.
            serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def deployed(port: int, config: ServiceConfig, restorers: RestorerSource | None = None) -> Iterator[Deployed]:
    """Deploy a service, wait until it is ready, and take it down afterwards.

    Args:
        port: of the proxy that :func:`running_ray` started.
        config: of the service; nothing of the environment reaches it.
        restorers: where replicas get their models; by default from the catalogue.
    """
    try:
        serve.run(build_with(config, {}, restorers), name=_APP, route_prefix="/")
        service = Deployed(port)
        _wait_until_ready(service)
        yield service
    finally:
        serve.delete(_APP)


def _wait_until_ready(service: Deployed) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        asker = service.connect()
        try:
            asker.ask("GET", "/readyz")
            return
        except (OSError, http.client.HTTPException, RuntimeError):
            if time.monotonic() > deadline:
                raise
        finally:
            asker.close()
        time.sleep(0.1)


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                # The name may hold anything, so what follows it is read from its end.
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += children.get(one, [])
    return found


def cpu_seconds(pids: list[int]) -> float:
    """Return the processor time that processes and all that descend from them have used so far, the ended included."""
    ticks = 0
    for pid in set().union(*map(descendants, pids)):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            # Its own, in user and kernel mode, and that of the children which it has seen end.
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / _TICKS_PER_SECOND


def resident_bytes(pid: int) -> int:
    """Return how much memory a process holds now."""
    return _status_bytes(pid, "VmRSS")


def proportional_bytes(pid: int) -> int:
    """Return how much memory a process holds, its share of what several hold; 0 of one that has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def shared_bytes(pid: int) -> int:
    """Return how much of that is Ray's object store, which every process that looks into it counts as its own."""
    return _status_bytes(pid, "RssShmem")


def reset_peak(pid: int) -> None:
    """Let the kernel forget the most that a process ever held."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(pid: int) -> int:
    """Return the most that a process held since :func:`reset_peak`, counted by the kernel, which misses nothing."""
    return _status_bytes(pid, "VmHWM")


def _status_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has ended")


def _pids_called(title: str) -> list[int]:
    found = []
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            if title in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                found.append(pid)
    return found
