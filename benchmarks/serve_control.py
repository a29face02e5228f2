"""How many jobs per second can be submitted and looked at, against each database, by one client and by many.

One *job* is two requests on a connection that stays open, with an API key: ``POST /v1/jobs`` and ``GET /v1/jobs/{id}``.
The runner is told to take none up (``max_active_jobs`` 0), so no model runs. Sources are either URLs, which are not
fetched before a runner takes the job, or a small upload, which is inspected at every submission.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from benchmarks.bulk import make_video
from benchmarks.serve_cluster import Asker, Deployed, cpu_seconds, deployed
from benchmarks.serve_figures import milliseconds
from benchmarks.serve_postgres import find_programs, running_postgres
from seedvr2_ray.serve.config import Limits, ModelPool, ServiceConfig
from seedvr2_ray.serve.db.database import Database, open_database
from seedvr2_ray.serve.db.job_rows import NewJob, new_row
from seedvr2_ray.serve.db.key_store import KeyStore
from seedvr2_ray.serve.db.tables import jobs
from seedvr2_ray.serve.jobs import Source
from seedvr2_ray.serve.security.api_keys import make_key
from seedvr2_ray.settings import RestoreSettings

OWNER = "benchmark"
_URL = "https://example.org/clip.mp4"
_FULL_QUEUE = Limits().max_queued_jobs


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is asked of the service in one measurement."""

    clients: int
    source: Literal["url", "upload"] = "url"
    waiting: int = 0
    """Jobs that are queued already."""


def loads(clients: Sequence[int]) -> list[Load]:
    """List what is measured against each database: each number of clients, then a full queue, then uploads."""
    middle = sorted(clients)[len(clients) // 2]
    return [
        *(Load(clients=number) for number in clients),
        Load(clients=middle, waiting=_FULL_QUEUE),
        Load(clients=middle, source="upload"),
    ]


@dataclass
class _Times:
    submits: list[float] = field(default_factory=list)
    looks: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Bench:
    """One deployment that is asked."""

    kind: str
    service: Deployed
    database: Database
    token: str
    upload_id: str
    database_pid: int | None


def measure_control(port: int, clients: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """Measure every load against SQLite, and against PostgreSQL where a server is installed."""
    with tempfile.TemporaryDirectory(prefix="sb-control-") as folder:
        with deployment(port, Path(folder) / "sqlite", "sqlite") as bench:
            found = [measure_load(bench, load, seconds) for load in loads(clients)]
        programs = find_programs()
        if programs is None:
            print("PostgreSQL is skipped: no server here; `make system-packages` installs one", file=sys.stderr)
            return found
        with running_postgres(programs) as server:
            with deployment(port, Path(folder) / "postgresql", "postgresql", server.url, server.pid) as bench:
                return found + [measure_load(bench, load, seconds) for load in loads(clients)]


@contextmanager
def deployment(
    port: int, folder: Path, kind: str, url: str | None = None, database_pid: int | None = None, **more: Any
) -> Iterator[Bench]:
    """Deploy with the default way to sign in, and limits that are not in the way.

    Args:
        more: of the configuration.
    """
    folder.mkdir()
    url = url or f"sqlite:///{folder}/service.db"
    config = ServiceConfig(
        data=str(folder / "data"),
        scratch=str(folder / "scratch"),
        database_url=url,
        models={"lanczos": ModelPool(num_cpus=0.1)},
        default_model="lanczos",
        **more,
        limits=Limits(
            max_active_jobs=0,
            max_queued_jobs=10**6,
            max_unfinished_jobs_per_owner=10**6,
            max_queued_gpu_seconds=1e12,
            requests_per_minute=10**6,
        ),
    )
    database = open_database(url)
    try:
        key, token = make_key(OWNER, ("jobs:read", "jobs:write"), now=datetime.now(UTC))
        KeyStore(database).add(key)
        with deployed(port, config) as service:
            asker = service.connect(token)
            upload_id = _upload(asker, folder / "clip.mp4")
            asker.close()
            yield Bench(kind, service, database, token, upload_id, database_pid)
    finally:
        database.close()


def _upload(asker: Asker, clip: Path) -> str:
    make_video(clip, 24, (64, 48), seed=1)
    data = clip.read_bytes()
    head = {"Tus-Resumable": "1.0.0", "Upload-Length": str(len(data)), "Upload-Metadata": "filename Y2xpcC5tcDQ="}
    made, _ = asker.ask("POST", "/v1/uploads", data, {**head, "Content-Type": "application/offset+octet-stream"})
    return str(made["Location"]).rpartition("/")[2]


def measure_load(
    bench: Bench, load: Load, seconds: float, processes: Mapping[str, list[int]] | None = None
) -> dict[str, Any]:
    """Submit and look for so long.

    Args:
        processes: whose processor time is told; by default those of the service and its database.
    """
    set_queue(bench.database, load.waiting)
    source = {"url": _URL} if load.source == "url" else {"upload": bench.upload_id}
    _drive(bench, source, load.clients, min(1.0, seconds / 4))  # Connections, caches, compiled statements.
    set_queue(bench.database, load.waiting)
    parts = dict(processes or _processes(bench))
    before = {name: cpu_seconds(pids) for name, pids in parts.items()}
    own = time.process_time()
    times, took = _drive(bench, source, load.clients, seconds)
    num_jobs = len(times.looks)
    used = {name: cpu_seconds(pids) - before[name] for name, pids in parts.items()}
    used["clients"] = time.process_time() - own
    return {
        "database": bench.kind,
        "clients": load.clients,
        "source": load.source,
        "waiting_before": load.waiting,
        "jobs": num_jobs,
        "jobs_per_second": round(num_jobs / took, 1),
        "submit_milliseconds": milliseconds(times.submits),
        "status_milliseconds": milliseconds(times.looks),
        "cpu_milliseconds_per_job": {name: round(value * 1000 / num_jobs, 2) for name, value in used.items()},
    }


def _processes(bench: Bench) -> dict[str, list[int]]:
    service = bench.service
    found = {"ingress": service.pids("api"), "proxy": service.proxy_pids(), "runner": service.pids("runner")}
    return found if bench.database_pid is None else {**found, "database": [bench.database_pid]}


def _drive(bench: Bench, source: dict[str, str], clients: int, seconds: float) -> tuple[_Times, float]:
    """Have clients submit and look as fast as they are answered; return their times and how long it took."""
    times, failures = [_Times() for _ in range(clients)], list[BaseException]()
    began = time.monotonic()

    def run(own: _Times) -> None:
        asker = bench.service.connect(bench.token)
        try:
            _ask_until(began + seconds, asker, source, own)
        except BaseException as error:  # noqa: BLE001  # Raised below, where it ends the benchmark.
            failures.append(error)
        finally:
            asker.close()

    _together([partial(run, own) for own in times])
    took = time.monotonic() - began
    if failures:
        raise failures[0]
    return _Times([x for each in times for x in each.submits], [x for each in times for x in each.looks]), took


def _ask_until(deadline: float, asker: Asker, source: dict[str, str], times: _Times) -> None:
    settings = {"model": "lanczos", "resolution": "x2"}
    while True:
        began = time.monotonic()
        job = asker.ask_json("POST", "/v1/jobs", {"source": source, "settings": settings})
        submitted = time.monotonic()
        asker.ask_json("GET", f"/v1/jobs/{job['id']}")
        ended = time.monotonic()
        times.submits.append(submitted - began)
        times.looks.append(ended - submitted)
        if ended > deadline:
            return


def _together(tasks: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def set_queue(database: Database, num_waiting: int) -> None:
    """Empty the table of jobs, and fill it with so many that wait."""
    settings = RestoreSettings(model="lanczos", resolution="x2").to_mapping()
    new = NewJob(owner=OWNER, source=Source(kind="url", location=_URL, name="clip.mp4"), settings=settings)
    rows = [new_row(new, f"job_waiting{index}", database.clock()) for index in range(num_waiting)]
    with database.writing() as connection:
        connection.execute(jobs.delete())
        if rows:
            connection.execute(jobs.insert(), rows)
