"""A whole service without Ray or HTTP for tests: a SQLite file, a folder, and runners on an event loop of one's own."""

import asyncio
import hashlib
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from seedvr2_ray.frames import Frames
from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.restorer import Restorer, RestorerIdentity, SegmentTask
from seedvr2_ray.restoration.work.failures import RetryPolicy
from seedvr2_ray.serve.config import Limits, ModelPool, ServiceConfig
from seedvr2_ray.serve.db.database import Database, open_database
from seedvr2_ray.serve.db.job_store import JobStore, NewJob
from seedvr2_ray.serve.db.usage_store import UsageStore
from seedvr2_ray.serve.jobs import Job, JobState, Source
from seedvr2_ray.serve.scheduler.runner import JobRunner
from seedvr2_ray.serve.workers.local import LocalWorkers
from seedvr2_ray.serve.workers.storage_layout import StorageLayout
from seedvr2_ray.settings import RestoreSettings

SETTINGS = RestoreSettings(model="lanczos", resolution="x2", segment_seconds=0.5, segment_overlap=4, preset="ultrafast")
QUICK_RETRIES = RetryPolicy(num_tries=4, first_pause_seconds=0.01, longest_pause_seconds=0.05)


@dataclass
class WatchedRestorers:
    """Lanczos that says which segments it is given, and does to them what a test wants."""

    on_segment: Callable[[SegmentTask], None] = lambda task: None
    """Called in the restorer's thread before a segment is restored."""
    on_batch: Callable[[SegmentTask], None] = lambda task: None
    begun: list[int] = field(default_factory=list)
    """First frames of the segments, in the order in which they were begun."""

    def identify(self, settings: RestoreSettings) -> RestorerIdentity:
        return LANCZOS

    def load(self, settings: RestoreSettings) -> Restorer:
        return _Watched(self)


class _Watched(LanczosRestorer):
    def __init__(self, restorers: WatchedRestorers) -> None:
        super().__init__()
        self._restorers = restorers

    def restore(self, frames: Iterable[Frames], task: SegmentTask) -> Iterator[Frames]:
        self._restorers.begun.append(task.first_frame)
        self._restorers.on_segment(task)
        for batch in super().restore(frames, task):
            self._restorers.on_batch(task)
            yield batch


@dataclass
class Deployment:
    """A folder and a database, and how to submit to and look at them."""

    layout: StorageLayout
    database: Database
    config: ServiceConfig

    @property
    def jobs(self) -> JobStore:
        return JobStore(self.database)

    @property
    def usage(self) -> UsageStore:
        return UsageStore(self.database)

    def submit(
        self,
        clip: Path,
        settings: RestoreSettings = SETTINGS,
        *,
        owner: str = "anna",
        name: str = "film.mp4",
        **new: Any,
    ) -> Job:
        """Upload a file and queue a job."""
        upload = uuid4().hex
        folder = Path(self.layout.upload_folder(upload))
        folder.mkdir(parents=True)
        shutil.copy(clip, folder / name)
        source = Source(kind="upload", location=upload, name=name)
        job, _ = self.jobs.create(NewJob(owner=owner, source=source, settings=settings.to_mapping(), **new))
        return job

    def runner(self, workers: LocalWorkers, name: str = "runner") -> JobRunner:
        return JobRunner(
            f"{name}-{uuid4().hex[:6]}",
            self.config,
            self.jobs,
            self.usage,
            self.layout.results,
            workers,
            retries=QUICK_RETRIES,
        )

    @asynccontextmanager
    async def running(self, *, num_replicas: int = 1) -> AsyncIterator[JobRunner]:
        """A runner at work; killed when the block ends, as a lost process is, and long gone after that."""
        workers = LocalWorkers(self.layout, num_replicas=num_replicas)
        runner = self.runner(workers)
        task = asyncio.create_task(runner.run())
        try:
            yield runner
        finally:
            task.cancel()
            _, at_work = await asyncio.wait([task], timeout=240.0)
            workers.close()
            assert not at_work, "the runner goes on after its end"
            self.let_leases_end()

    def let_leases_end(self) -> None:
        """Have the time pass after which what a lost runner held is anybody's.

        Leases that end by themselves while a test waits would also end while a busy machine lets a runner wait.
        """
        before, lease = self.database.clock, timedelta(seconds=self.config.lease_seconds)
        self.database.clock = lambda: before() + lease

    async def until(
        self, job: Job, condition: Callable[[Job], bool] = lambda job: job.state.is_final, *, seconds: float = 240.0
    ) -> Job:
        """Wait for something to be true of a job."""
        deadline = time.monotonic() + seconds
        while True:
            now = await asyncio.to_thread(self.jobs.get, job.id, even_deleted=True)
            if condition(now):
                return now
            assert time.monotonic() < deadline, f"waited in vain; the job is {now}"
            await asyncio.sleep(0.02)

    def master(self, job: Job) -> bytes:
        """Return the published bytes of a completed job."""
        assert job.state is JobState.COMPLETED, job.error
        assert job.result is not None
        found = self.layout.results.file("master", job.result.address)
        assert found is not None
        data = b"".join(found.blocks())
        assert hashlib.sha256(data).hexdigest() == job.result.sha256
        return data

    def sidecar(self, job: Job) -> dict[str, Any]:
        assert job.result is not None
        found = self.layout.results.file("sidecar", job.result.address)
        assert found is not None
        return dict(json.loads(b"".join(found.blocks())))


def deploy(
    folder: Path,
    restorers: Any = None,
    *,
    database_url: str | None = None,
    num_replicas: int = 1,
    limits: Limits | None = None,
    lease_seconds: float = 600.0,
    **config: Any,
) -> Deployment:
    """Set a service up in a folder of its own; the same folder again is the same service after a restart."""
    layout = StorageLayout(
        data=str(folder / "data"), scratch=str(folder / "scratch"), restorers=restorers or WatchedRestorers()
    )
    return Deployment(
        layout=layout,
        database=open_database(database_url or f"sqlite:///{folder}/service.db"),
        config=ServiceConfig(
            data=layout.data,
            models={"lanczos": ModelPool(max_replicas=num_replicas)},
            default_model="lanczos",
            limits=limits or Limits(),
            lease_seconds=lease_seconds,
            **config,
        ),
    )
