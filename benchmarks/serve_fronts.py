"""What the way in costs: through Ray's proxy, as ``make serve`` has it, and through nginx, as ``examples/`` has it.

Of each: processor per look at a job while few and while a thousand wait, jobs per second that are submitted and looked
at, megabytes per second up and down, and what the ingress grows by, stalled readers of a large result included.
"""

import contextlib
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from benchmarks.bulk import make_video
from benchmarks.serve_cluster import Asker, Deployed, cpu_seconds, peak_bytes, reset_peak, resident_bytes
from benchmarks.serve_control import OWNER, Bench, Load, deployment, measure_load, set_queue
from benchmarks.serve_nginx import find_nginx, nginx_before
from benchmarks.serve_uploads import send_as_form, send_by_tus
from seedvr2_ray.serve.db.job_rows import NewJob
from seedvr2_ray.serve.db.job_store import JobStore
from seedvr2_ray.serve.jobs import JobState, ResultInfo, Source
from seedvr2_ray.serve.results import Results

Front = Literal["ray", "nginx"]
DIRECT_PORTS = range(30000, 30004)
_WAITING = (0, 1000)
_STALLED = 6
_STALL_SECONDS = 3.0


@dataclass(frozen=True)
class _Way:
    """One way in to one deployment."""

    front: Front
    bench: Bench
    parts: dict[str, list[int]]
    """Processes by what they are."""

    def connect(self) -> Asker:
        return self.bench.service.connect(self.bench.token)

    def used(self) -> dict[str, float]:
        """Processor seconds so far, by part."""
        return {name: cpu_seconds(pids) for name, pids in self.parts.items()}

    @property
    def ingress(self) -> int:
        (pid,) = self.parts["ingress"]
        return pid


def measure_fronts(port: int, seconds: float, num_bytes: int) -> list[dict[str, Any]]:
    """Measure each front against a deployment of its own, on SQLite."""
    found = []
    for front in get_args(Front):
        if front == "nginx" and find_nginx() is None:
            print("nginx is skipped: it is not here; `make system-packages` installs it", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory(prefix="sb-fronts-") as name, _way_through(front, port, Path(name)) as way:
            found.append(_measure(way, Path(name), seconds, num_bytes))
    return found


@contextlib.contextmanager
def _way_through(front: Front, port: int, folder: Path) -> Iterator[_Way]:
    sender = {"ray": "service", "nginx": "nginx"}[front]
    with contextlib.ExitStack() as stack:
        bench = stack.enter_context(deployment(port, folder / "service", "sqlite", results_from=sender))
        parts = {"ingress": bench.service.pids("api"), "proxy": bench.service.proxy_pids()}
        if front == "nginx":
            results = folder / "service" / "data" / "results"
            nginx = stack.enter_context(nginx_before(_direct_port(), results, folder / "nginx"))
            bench = replace(bench, service=Deployed(nginx.port))
            parts["nginx"] = [nginx.pid]
        yield _Way(front, bench, parts)


def _direct_port() -> int:
    """Find the port at which the ingress listens itself."""
    for port in DIRECT_PORTS:
        asker = Deployed(port).connect()
        with contextlib.suppress(OSError, RuntimeError):
            asker.ask("GET", "/readyz")
            return port
    raise RuntimeError(f"no ingress listens on {DIRECT_PORTS.start} to {DIRECT_PORTS.stop - 1}; use another machine")


def _measure(way: _Way, folder: Path, seconds: float, num_bytes: int) -> dict[str, Any]:
    jobs = [measure_load(way.bench, Load(clients=8, waiting=waiting), seconds, way.parts) for waiting in _WAITING]
    looks = {str(waiting): _looks(way, waiting, seconds) for waiting in _WAITING}
    set_queue(way.bench.database, 0)
    return {
        "front": way.front,
        "jobs": jobs,
        "cpu_milliseconds_per_look_by_waiting": looks,
        "up": _uploads(way, folder, num_bytes),
        "down": _downloads(way, folder, num_bytes),
    }


def _looks(way: _Way, waiting: int, seconds: float) -> dict[str, float]:
    """Look at one job that waits, again and again; processor milliseconds by part, and in all."""
    set_queue(way.bench.database, waiting)
    asker = way.connect()
    job = asker.ask_json("POST", "/v1/jobs", {"source": {"url": "https://example.org/a.mp4"}, "settings": {}})["id"]
    before, num_looks, deadline = way.used(), 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        asker.ask("GET", f"/v1/jobs/{job}")
        num_looks += 1
    after = way.used()
    asker.close()
    used = {name: round((after[name] - before[name]) * 1000 / num_looks, 2) for name in after}
    return {**used, "in_all": round(sum(used.values()), 2)}


def _uploads(way: _Way, folder: Path, num_bytes: int) -> list[dict[str, Any]]:
    make_video(folder / "video.mp4", 24, (64, 48), seed=2)
    video = (folder / "video.mp4").read_bytes()
    rows = []
    for protocol, send in (("tus", send_by_tus), ("multipart", send_as_form)):
        asker = way.connect()
        send(asker, video, len(video) + 8)
        with _growth(way.ingress) as growth:
            began = time.monotonic()
            send(asker, video, num_bytes)
            took = time.monotonic() - began
        asker.close()
        rows.append({"protocol": protocol, "megabytes_per_second": round(num_bytes / 1e6 / took, 1), **growth})
    return rows


def _downloads(way: _Way, folder: Path, num_bytes: int) -> dict[str, Any]:
    path = f"/v1/jobs/{_finished_job(way, folder / 'result.mp4', num_bytes)}/result"
    asker = way.connect()
    with _growth(way.ingress) as growth:
        began = time.monotonic()
        _, content = asker.ask("GET", path)
        took = time.monotonic() - began
    if len(content) != num_bytes:
        raise RuntimeError(f"{len(content)} bytes of {num_bytes} came")
    with _growth(way.ingress) as stalled:
        before = way.used()
        sockets = [_stalled_reader(way, path) for _ in range(_STALLED)]
        time.sleep(_STALL_SECONDS)
        used = sum(way.used().values()) - sum(before.values())
        for sock in sockets:
            sock.close()
    asker.close()
    return {
        "megabytes_per_second": round(num_bytes / 1e6 / took, 1),
        **growth,
        "stalled_readers": _STALLED,
        "growth_with_stalled_readers_bytes": stalled["ingress_growth_bytes"],
        "cpu_seconds_of_stalled_readers": round(used, 2),
    }


def _stalled_reader(way: _Way, path: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", way.bench.service.port))
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {way.bench.token}\r\n\r\n".encode())
    return sock


def _finished_job(way: _Way, path: Path, num_bytes: int) -> str:
    """Put a job and a result of so many bytes where a runner would have."""
    with path.open("wb") as file:
        file.truncate(num_bytes)
    info = ResultInfo(
        address=f"benchmark-{way.front}",
        name="result.mp4",
        media_type="video/mp4",
        num_bytes=num_bytes,
        sha256="",
        width=8,
        height=8,
        num_frames=1,
    )
    Results(str(path.parent / "service" / "data" / "results")).publish(info, path)
    store = JobStore(way.bench.database)
    made, _ = store.create(NewJob(owner=OWNER, source=Source(kind="upload", location="x", name="a.mp4"), settings={}))
    for job in store.claim("benchmark", lease_seconds=600, limit=10):
        store.advance(job.id, job.fence, JobState.COMPLETED, result=info)
    return made.id


@contextlib.contextmanager
def _growth(pid: int) -> Iterator[dict[str, int]]:
    """Say by how much a process grew at most while the block ran."""
    reset_peak(pid)
    before = resident_bytes(pid)
    growth: dict[str, int] = {}
    yield growth
    growth["ingress_growth_bytes"] = peak_bytes(pid) - before
