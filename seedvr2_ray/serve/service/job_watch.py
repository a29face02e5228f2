"""Who waits for events of jobs, and the one poller per process that brings it to all of them."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Protocol

import anyio.to_thread

from seedvr2_ray.serve.jobs import Job, JobState
from seedvr2_ray.serve.problems import GoneRefusal, MissingRefusal, RateRefusal


class WatchedStore(Protocol):
    """What the poller asks of the job store."""

    def versions(self, job_ids: list[str]) -> dict[str, int]:
        """Return the versions of several jobs in one query; deleted ones are missing."""

    def get(self, job_id: str) -> Job:
        """Return a job."""

    def queue_position(self, job: Job) -> int | None:
        """Return how many claims away a job is."""

    def queue_positions(self) -> dict[str, int]:
        """Return the positions of all jobs that wait, with one query."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A job as it was at one moment."""

    job: Job
    queue_position: int | None
    """From 1; None once it is not queued."""


@dataclass(eq=False, slots=True)
class _Watcher:
    job_id: str
    latest: Snapshot | None = None
    """None once the job is deleted."""
    has_event: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, snapshot: Snapshot | None) -> None:
        """Bring the latest; a look that took longer than a later one changes nothing."""
        if snapshot is not None and self.latest is not None and snapshot.job.version < self.latest.job.version:
            return
        self.latest = snapshot
        self.has_event.set()


class JobWatch:
    """Brings snapshots to any number of watchers with one query per look, however many they are.

    A watcher that is slow gets the latest snapshot and not those between: a job's progress is no log.
    The poller runs only while somebody watches.
    """

    def __init__(
        self, store: WatchedStore, most_watchers: Callable[[], int], *, seconds_between_looks: float = 0.25
    ) -> None:
        self._store = store
        self._most_watchers = most_watchers
        self._pause = seconds_between_looks
        self._watchers: set[_Watcher] = set()
        self._seen: dict[str, Snapshot] = {}
        self._poller: asyncio.Task[None] | None = None

    @property
    def num_watchers(self) -> int:
        """How many streams are open in this process."""
        return len(self._watchers)

    def require_room(self) -> None:
        """Refuse one more watcher when there are as many as allowed.

        Raises:
            RateRefusal: the limit is reached.
        """
        most = self._most_watchers()
        if len(self._watchers) >= most:
            raise RateRefusal(f"{most} event streams are open here and no more are allowed; poll the job instead", 5)

    async def snapshots(self, job_id: str) -> AsyncGenerator[Snapshot, None]:
        """Yield the job now, and again whenever it has changed, until it is final or deleted."""
        self.require_room()
        watcher = _Watcher(job_id)
        self._watchers.add(watcher)
        try:
            self._start()
            yielded: Snapshot | None = None
            watcher.tell(await anyio.to_thread.run_sync(self.look, job_id))
            while True:
                await watcher.has_event.wait()
                watcher.has_event.clear()
                snapshot = watcher.latest
                if snapshot is None:
                    return
                if yielded is None or _has_changed(yielded, snapshot):
                    yielded = snapshot
                    yield snapshot
                if snapshot.job.state.is_final:
                    return
        finally:
            self._watchers.discard(watcher)

    async def wait(self, job_id: str, seconds: float) -> Job:
        """Return the job when it is final, or as it is after so many seconds."""
        latest: Job | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), contextlib.aclosing(self.snapshots(job_id)) as snapshots:
                async for snapshot in snapshots:
                    latest = snapshot.job
        # Read once more where not even the first look was over in time.
        return latest if latest is not None else (await anyio.to_thread.run_sync(self.look, job_id)).job

    def look(self, job_id: str) -> Snapshot:
        """Read one job from the store."""
        job = self._store.get(job_id)
        return Snapshot(job, self._store.queue_position(job))

    async def close(self) -> None:
        """Stop the poller."""
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.wait([self._poller])
            self._poller = None

    def _start(self) -> None:
        if self._poller is None or self._poller.done() or self._poller.get_loop() is not asyncio.get_running_loop():
            self._poller = asyncio.create_task(self._poll(), name="job-watch")

    async def _poll(self) -> None:
        looks = 0
        while self._watchers:
            await asyncio.sleep(self._pause)
            looks += 1
            wanted = {watcher.job_id for watcher in self._watchers}
            for job_id in self._seen.keys() - wanted:
                del self._seen[job_id]
            # A queued job moves up without a change of its own; that is looked at less often.
            try:
                events = await anyio.to_thread.run_sync(self._read_snapshots, wanted, looks % 8 == 0)
            except Exception:  # noqa: BLE001  # A database that is away for a moment ends no stream; it is asked again.
                continue
            for watcher in [each for each in self._watchers if each.job_id in events]:
                watcher.tell(events[watcher.job_id])

    def _read_snapshots(self, job_ids: set[str], with_queue: bool) -> dict[str, Snapshot | None]:
        versions = self._store.versions(sorted(job_ids))
        waiting = {job_id for job_id in job_ids & self._seen.keys() if self._seen[job_id].job.state is JobState.QUEUED}
        positions = self._store.queue_positions() if with_queue and waiting else {}
        events: dict[str, Snapshot | None] = {}
        for job_id in job_ids:
            seen = self._seen.get(job_id)
            if seen is None or versions.get(job_id) != seen.job.version:
                events[job_id] = self._read(job_id)
            elif job_id in waiting and positions.get(job_id, seen.queue_position) != seen.queue_position:
                events[job_id] = Snapshot(seen.job, positions[job_id])
        self._seen |= {job_id: snapshot for job_id, snapshot in events.items() if snapshot is not None}
        return events

    def _read(self, job_id: str) -> Snapshot | None:
        try:
            return self.look(job_id)
        except (MissingRefusal, GoneRefusal):
            return None


def _has_changed(before: Snapshot, after: Snapshot) -> bool:
    return after.job.version > before.job.version or after.queue_position != before.queue_position
