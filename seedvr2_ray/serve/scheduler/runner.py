"""What makes jobs happen: claims them, has them prepared, restored, finished and published, and writes down how far.

Plain asyncio over the job store and the workers. Everything that matters is in the database or committed to storage,
so a runner may be ended at any moment; another one goes on where it was.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from seedvr2_ray.errors import StorageError
from seedvr2_ray.restoration.work.failures import RetryPolicy
from seedvr2_ray.serve.config import Limits, ServiceConfig
from seedvr2_ray.serve.db.job_store import JobStore
from seedvr2_ray.serve.db.usage_store import UsageStore
from seedvr2_ray.serve.jobs import Job
from seedvr2_ray.serve.results import Results
from seedvr2_ray.serve.scheduler.dispatch import Dispatcher
from seedvr2_ray.serve.scheduler.job_run import JobRun
from seedvr2_ray.serve.scheduler.video_run import Shared
from seedvr2_ray.serve.service.rates import Rates
from seedvr2_ray.serve.service.shares import SharedPlaces
from seedvr2_ray.serve.workers.protocol import Workers

_log = logging.getLogger(__name__)
P = ParamSpec("P")
Result = TypeVar("Result")

_LOOK_SECONDS = 0.5
"""Between looks for new jobs, and for what happened to the claims: how late a cancellation is seen at most."""
_MOST_PREPARATIONS = 64
DEFAULT_RETRIES = RetryPolicy(num_tries=5, first_pause_seconds=0.5, longest_pause_seconds=30.0)


class JobRunner:
    """Works on many jobs side by side. Belongs to one event loop."""

    def __init__(
        self,
        name: str,
        config: ServiceConfig,
        jobs: JobStore,
        usage: UsageStore,
        results: Results,
        workers: Workers,
        *,
        retries: RetryPolicy = DEFAULT_RETRIES,
    ) -> None:
        """Claim nothing yet.

        Args:
            name: differs from that of every other runner, those before a restart included.
        """
        self._name = name
        self._lease_seconds = config.lease_seconds
        self._limits = config.limits
        self._jobs = jobs
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="runner-store")
        # Claims must hold however many jobs wait for a store that does not answer.
        self._lease_thread = ThreadPoolExecutor(1, thread_name_prefix="runner-leases")
        self._dispatcher = Dispatcher(workers, config.pools, lambda: self._limits, retries)
        self._shared = Shared(
            config=config,
            jobs=jobs,
            usage=usage,
            results=results,
            workers=workers,
            dispatcher=self._dispatcher,
            retries=retries,
            limits=lambda: self._limits,
            in_thread=self._in_thread,
            rates=Rates(usage, config.models),
            preparations=SharedPlaces(_MOST_PREPARATIONS, per_owner=max(1, config.num_finishers)),
        )
        self._runs: dict[str, JobRun] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._has_event = asyncio.Event()
        self._is_claiming = False
        self._is_draining = False
        self._has_drained = asyncio.Event()
        self._renewed_at = time.monotonic()
        self.looked_at = time.monotonic()
        """When this runner last looked at its claims, whether the database answered or not."""

    @property
    def name(self) -> str:
        """Of this runner, among all there ever were."""
        return self._name

    @property
    def num_active(self) -> int:
        """Jobs that this runner works on."""
        return len(self._runs)

    @property
    def dispatcher(self) -> Dispatcher:
        """Who shares the replicas among the jobs; to look at."""
        return self._dispatcher

    def wake(self) -> None:
        """There is something new: look at once."""
        self._has_event.set()

    def replace_limits(self, limits: Limits) -> None:
        """Change limits while jobs run; from their next step on they hold for those too."""
        self._limits = limits
        self.wake()

    async def run(self) -> None:
        """Work until :meth:`drain` is called. Being cancelled is being killed: claims end with their leases."""
        claiming = asyncio.create_task(self._claim_and_wait(), name="claim")
        renewing = asyncio.create_task(self._renew_and_wait(), name="renew")
        try:
            await claiming
            await self._has_drained.wait()
        finally:
            for task in (claiming, renewing, *self._tasks.values()):
                task.cancel()
            await asyncio.wait([claiming, renewing, *self._tasks.values()])
            self._threads.shutdown(wait=False)
            self._lease_thread.shutdown(wait=False)

    async def drain(self, *, grace_seconds: float = 0.0) -> None:
        """Give every job back, so that another runner goes on with it at once.

        Nothing new is begun. Jobs of which no segment is with a replica are given back immediately, the others when
        their segments are committed, or when the time is over; then those segments are restored again elsewhere.
        """
        self._is_draining = True
        self._dispatcher.stop_sending()
        self.wake()
        deadline = time.monotonic() + grace_seconds
        # What is being claimed at this moment comes too late to be worked on, and is given back as well.
        while self._runs or self._is_claiming:
            is_over = time.monotonic() >= deadline
            given_back = [job_id for job_id in self._runs if is_over or self._dispatcher.is_idle(job_id)]
            await asyncio.gather(*(self._give_back(job_id) for job_id in given_back))
            if self._runs or self._is_claiming:
                await asyncio.sleep(0.1)
        self._has_drained.set()

    async def _give_back(self, job_id: str) -> None:
        run, task = self._runs.get(job_id), self._tasks.get(job_id)
        if run is None or task is None:
            return
        run.drop()
        await asyncio.wait([task])
        try:
            await self._in_thread(run.note_use)
            await self._in_thread(self._jobs.release, self._name, {job_id: run.fence})
        except Exception as error:  # noqa: BLE001  # Its lease ends soon anyway.
            _log.warning("%s could not be given back: %s", job_id, error)

    async def _claim_and_wait(self) -> None:
        while not self._is_draining:
            self._has_event.clear()
            room = self._limits.max_active_jobs - len(self._runs)
            if room > 0:
                await self._claim(room)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._has_event.wait()

    async def _claim(self, room: int) -> None:
        self._is_claiming = True
        try:
            claimed = await self._in_thread(
                partial(
                    self._jobs.claim,
                    self._name,
                    lease_seconds=self._lease_seconds,
                    limit=room,
                    most_per_owner=self._limits.max_active_jobs_per_owner,
                )
            )
            await self._end_runs([job.id for job in claimed if job.id in self._runs])
            for job in claimed:
                self._begin(job)
        except StorageError as error:
            _log.warning("no jobs can be claimed now: %s", error)
        finally:
            self._is_claiming = False

    async def _end_runs(self, job_ids: list[str]) -> None:
        """End the work under claims that ended while nobody could renew them, so that no job is worked on twice."""
        tasks = [self._tasks[job_id] for job_id in job_ids]
        for job_id in job_ids:
            self._runs[job_id].drop()
        if tasks:
            await asyncio.wait(tasks)

    def _begin(self, job: Job) -> None:
        run = self._runs[job.id] = JobRun(job, self._shared)
        task = self._tasks[job.id] = asyncio.create_task(run.run(), name=f"job {job.id}")

        def end(_: asyncio.Task[None]) -> None:
            if self._runs.get(job.id) is run:
                del self._runs[job.id], self._tasks[job.id]
            self.wake()

        task.add_done_callback(end)

    async def _renew_and_wait(self) -> None:
        while True:
            await asyncio.sleep(min(_LOOK_SECONDS, self._lease_seconds / 3))
            await self._renew()

    async def _renew(self) -> None:
        """Hold the claims, and act on what became of them."""
        self.looked_at = time.monotonic()
        asked = dict(self._runs)
        fences = {job_id: run.fence for job_id, run in asked.items()}
        try:
            renewal = await asyncio.get_running_loop().run_in_executor(
                self._lease_thread,
                partial(self._jobs.renew, self._name, fences, lease_seconds=self._lease_seconds),
            )
        except StorageError as error:
            _log.warning("claims cannot be renewed now: %s", error)
            if time.monotonic() - self._renewed_at > self._lease_seconds:
                # Somebody else may have them by now; whoever does is told nothing by us.
                for run in asked.values():
                    run.drop()
            return
        self._renewed_at = time.monotonic()
        for job_id in renewal.lost:
            asked[job_id].drop()
        for job_id in renewal.cancelled:
            asked[job_id].cancel()

    async def _in_thread(self, function: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *args, **kwargs))
