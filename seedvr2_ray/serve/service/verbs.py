"""What an ingress can do, whichever HTTP dialect it speaks: every check, and every verb on jobs.

The dialects translate requests into these calls and values into answers; admission, ownership, quotas and idempotency
live here, so that no dialect has logic of its own. Everything that waits for a database or a disk does so in a thread.
"""

import logging
import secrets as random_secrets
import threading
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from seedvr2_ray.errors import DeploymentError, InputError, MediaError
from seedvr2_ray.models.weights.catalogue import CATALOGUE, ModelEntry
from seedvr2_ray.serve.config import Limits, ModelPool, ServiceConfig
from seedvr2_ray.serve.db.artifact_store import ArtifactStore
from seedvr2_ray.serve.db.database import Database
from seedvr2_ray.serve.db.job_store import JobStore, Load, NewJob
from seedvr2_ray.serve.db.key_store import KeyStore, UsedKeys
from seedvr2_ray.serve.db.service_values import shared_value
from seedvr2_ray.serve.db.upload_store import UploadStore
from seedvr2_ray.serve.db.usage_store import UsageOfDay, UsageStore
from seedvr2_ray.serve.jobs import Job, JobState
from seedvr2_ray.serve.observability.gauges import Gauge, gauges_of
from seedvr2_ray.serve.pools import require_size
from seedvr2_ray.serve.problems import FetchRefusal, RateRefusal
from seedvr2_ray.serve.results import Results
from seedvr2_ray.serve.secrets import Secrets
from seedvr2_ray.serve.security.auth import Authenticator, Caller
from seedvr2_ray.serve.security.fetch import require_webhook_url
from seedvr2_ray.serve.security.inspection import Inspector, shared_inspector
from seedvr2_ray.serve.security.links import SignedLinks
from seedvr2_ray.serve.security.rate_limits import RequestLimiter
from seedvr2_ray.serve.security.wording import explained
from seedvr2_ray.serve.service.admission import queue_seconds, require_free, require_quota, require_room
from seedvr2_ray.serve.service.estimate import JobEstimate, refused
from seedvr2_ray.serve.service.gate import Gate
from seedvr2_ray.serve.service.job_watch import JobWatch, Snapshot
from seedvr2_ray.serve.service.outcomes import Outcomes
from seedvr2_ray.serve.service.queue_places import QueuePlaces
from seedvr2_ray.serve.service.rates import Rates
from seedvr2_ray.serve.service.source_looks import SourceLooks
from seedvr2_ray.serve.service.submission import Submission, require_sane, settle_settings
from seedvr2_ray.serve.service.upload_files import UploadFiles
from seedvr2_ray.serve.service.uploads import Uploads
from seedvr2_ray.serve.threads import in_thread
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.location import require_writable
from seedvr2_ray.storage.sources import default_scratch

_log = logging.getLogger(__name__)
Value = TypeVar("Value")

_MOST_WRITERS = 16


async def _nobody() -> None:
    """Wake nobody: a runner that polls finds the job too."""


class Service:
    """One deployment as its ingress sees it."""

    def __init__(
        self,
        config: ServiceConfig,
        secrets: Secrets,
        database: Database,
        *,
        wake: Callable[[], Awaitable[None]] = _nobody,
        rates: RequestLimiter | None = None,
        inspector: Inspector | None = None,
    ) -> None:
        """Bundle what an ingress needs.

        Args:
            database: migrated.
            wake: hints to a runner that there is something to do; may fail without harm.
            rates: counts requests; by default those of this process.
            inspector: by default the one that this process shares.
        """
        self.config = config
        self.secrets = secrets
        self.jobs = JobStore(database)
        self.usage = UsageStore(database)
        self._rates = Rates(self.usage, config.models)
        self.results = Results(f"{config.data.rstrip('/')}/results")
        self.authenticator = Authenticator(config, secrets, UsedKeys(KeyStore(database)))
        self.links = SignedLinks(
            secrets.signing_key or shared_value(database, "signing-key", lambda: random_secrets.token_bytes(32))
        )
        self._places = QueuePlaces(self.jobs)
        self.watch = JobWatch(self.jobs, lambda: self.limits.max_parallel_streams)
        self._scratch = Path(config.scratch or default_scratch())
        self.uploads = Uploads(
            UploadStore(database),
            UploadFiles(config.data, self._scratch / "uploads"),
            config,
            limits=lambda: self.limits,
            in_use=ArtifactStore(database).upload_in_use,
        )
        self._inspector = inspector or shared_inspector()
        self._wake = wake
        self.gate = Gate(lambda: self.limits, rates or RequestLimiter())
        self._clock = database.clock
        self._limits = config.limits
        self._sources = SourceLooks(config, lambda: self.limits, self.uploads, self._inspector, self._rates)
        self.outcomes = Outcomes(self.get, self.results)
        # Threads of their own: those that readers use stay free while writers wait for a locked database.
        self._writers = anyio.CapacityLimiter(_MOST_WRITERS)
        self._probes = anyio.CapacityLimiter(2)

    @property
    def limits(self) -> Limits:
        """What callers may ask for at this moment."""
        return self._limits

    def replace_limits(self, limits: Limits) -> None:
        """Change the limits while the service runs; what was accepted stays accepted."""
        self._limits = limits

    def warm_up(self) -> None:
        """Begin to load what the first submission would otherwise wait for; returns at once."""
        threading.Thread(target=self._start_inspector, name="inspector-start", daemon=True).start()

    def _start_inspector(self) -> None:
        try:
            self._inspector.start()
        except DeploymentError as error:
            _log.error("%s", error)

    async def submit(self, caller: Caller, submission: Submission) -> tuple[Job, bool]:
        """Check a submission and queue it as a job.

        Returns:
            The job, and whether it is new: the same request under the same key gives the job it made before.

        Raises:
            InputError: the settings, the source or the file cannot be used.
            RateRefusal: there is too much to do already, or the owner's quota is used up.
            ConflictRefusal: the key belongs to another request, or the upload is not complete.
        """
        caller.require("jobs:write")
        settings = self._checked(submission)
        await in_thread(require_free, self.config.data, self.limits.min_free_bytes)
        source, estimate = await self._sources.look(caller, submission, settings)
        if estimate is not None and estimate.refusals:
            raise InputError(estimate.refusals[0])
        gpu_seconds = 0.0 if estimate is None else estimate.gpu_seconds
        new = NewJob(
            owner=caller.owner,
            source=source,
            settings=settings.to_mapping(),
            priority=submission.priority,
            estimated_gpu_seconds=gpu_seconds,
            webhook_url=submission.webhook_url,
            metadata=dict(submission.metadata),
            gang_size=submission.gang_size,
            idempotency_key=submission.idempotency_key,
            request_digest=submission.digest() if submission.idempotency_key else None,
        )
        admit = partial(self._admit, gpu_seconds=gpu_seconds)
        job, is_new = await in_thread(self.jobs.create, new, admit=admit, limiter=self._writers)
        if is_new:
            await self._wake_runner()
        return job, is_new

    async def require_room(self, caller: Caller) -> None:
        """Refuse a submission before its file is received, where it would be refused afterwards.

        Raises:
            RateRefusal: as :meth:`submit` does.
        """
        caller.require("jobs:write")
        load = await in_thread(self.jobs.load, caller.owner)
        self._admit(load, gpu_seconds=0.0)

    async def estimate(self, caller: Caller, submission: Submission) -> JobEstimate:
        """Say what a submission would take and cost; why it would be refused is part of the answer.

        Raises:
            InputError: the submission itself cannot be understood.
        """
        caller.require("jobs:read")
        settings = self._checked(submission)
        try:
            source, estimate = await self._sources.look(caller, submission, settings)
            if estimate is None:
                estimate = await self._sources.estimate_remote(caller, source, settings, submission.gang_size)
        except (MediaError, FetchRefusal) as error:
            estimate = refused(explained(error))
        load = await in_thread(self.jobs.load, caller.owner)
        try:
            self._admit(load, gpu_seconds=estimate.gpu_seconds)
        except RateRefusal as refusal:
            estimate = replace(estimate, refusals=(*estimate.refusals, str(refusal)))
        return replace(estimate, queue_seconds=queue_seconds(load, self.config))

    async def get(self, caller: Caller, job_id: str) -> Job:
        """Return a job of the caller's.

        Raises:
            MissingRefusal: there is none, or it is somebody else's.
            GoneRefusal: it was deleted.
        """
        caller.require("jobs:read")
        return await in_thread(self.jobs.get, job_id, owner=caller.sees)

    async def look(self, caller: Caller, job_id: str) -> Snapshot:
        """Return a job together with its place in the queue; raises as :meth:`get`."""
        return await self.snapshot(await self.get(caller, job_id))

    async def snapshot(self, job: Job) -> Snapshot:
        """Add its place in the queue to a job."""
        if job.state is not JobState.QUEUED:
            return Snapshot(job, None)
        return Snapshot(job, self._places.known(job) or await in_thread(self._places.of, job))

    async def list(
        self, caller: Caller, *, states: Collection[JobState] | None = None, limit: int = 50, cursor: str | None = None
    ) -> tuple[Sequence[Snapshot], str | None]:
        """List the caller's jobs, newest first, and the cursor of the next page.

        Raises:
            InputError: the cursor is not one.
        """
        caller.require("jobs:read")
        page = await in_thread(self.jobs.list, owner=caller.sees, states=states, limit=limit, cursor=cursor)
        has_queued = any(job.state is JobState.QUEUED for job in page.jobs)
        if not has_queued:
            return [Snapshot(job, None) for job in page.jobs], page.next_cursor
        places = await in_thread(lambda: [self._places.of(job) for job in page.jobs])
        return [Snapshot(job, place) for job, place in zip(page.jobs, places, strict=True)], page.next_cursor

    async def cancel(self, caller: Caller, job_id: str, *, only_queued: bool = False) -> Job:
        """Ask a job to stop; one that waits is cancelled at once, one that is restored within seconds.

        Args:
            only_queued: leave one alone that a runner has taken up.

        Raises:
            ConflictRefusal: it has ended, or is to be left alone.
        """
        caller.require("jobs:write")
        cancel = partial(self.jobs.request_cancel, job_id, owner=caller.sees, only_queued=only_queued)
        job = await in_thread(cancel, limiter=self._writers)
        await self._wake_runner()
        return job

    async def delete(self, caller: Caller, job_id: str) -> Job:
        """Delete a job and everything that only it uses; one that is unfinished is cancelled first."""
        caller.require("jobs:write")
        job = await in_thread(self.jobs.request_delete, job_id, owner=caller.sees, limiter=self._writers)
        await self._wake_runner()
        return job

    async def wait(self, caller: Caller, job_id: str, seconds: float) -> Job:
        """Return a job when it is final, or as it is after so many seconds."""
        await self.get(caller, job_id)
        return await self.watch.wait(job_id, seconds)

    async def usage_by_day(self, caller: Caller, *, days: int) -> Sequence[UsageOfDay]:
        """Sum up what the caller used, today and on the days before; for an administrator, what everybody used."""
        caller.require("jobs:read")
        first = self._clock().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return await in_thread(self.usage.by_day, owner=caller.sees, since=first - timedelta(days=days - 1))

    def models(self) -> Sequence[tuple[ModelEntry, ModelPool]]:
        """List what can be asked for here, the default first."""
        names = sorted(self.config.models, key=lambda name: (name != self.config.default_model, name))
        return [(CATALOGUE[name], self.config.models[name]) for name in names]

    async def gauges(self) -> Sequence[Gauge]:
        """Say how much there is to do, for a monitoring system."""
        load = await in_thread(self.jobs.load)
        return gauges_of(load, num_streams=self.watch.num_watchers, now=self._clock())

    async def require_ready(self) -> None:
        """Find out whether jobs can be taken and kept: database and storage are there, and have room.

        Raises:
            RetryableError: one of them does not answer, or is full.
        """
        await in_thread(self.jobs.database.require_writable, limiter=self._probes)
        await in_thread(require_writable, f"{self.config.data.rstrip('/')}/uploads/ready", limiter=self._probes)
        await in_thread(require_free, self.config.data, self.limits.min_free_bytes)

    def _checked(self, submission: Submission) -> RestoreSettings:
        require_sane(submission)
        if submission.webhook_url is not None:
            try:
                require_webhook_url(submission.webhook_url, self.secrets.webhook_secret)
            except FetchRefusal as refusal:
                raise FetchRefusal(f"webhook_url: {refusal}") from None
        settings = settle_settings(submission.settings, self.config)
        require_size(settings.model, self.config.models[settings.model], submission.gang_size)
        return settings

    def _admit(self, load: Load, *, gpu_seconds: float) -> None:
        require_quota(load, self.limits, gpu_seconds)
        require_room(load, self.limits, gpu_seconds, queue_seconds=queue_seconds(load, self.config))

    async def _wake_runner(self) -> None:
        with suppress(Exception):  # A hint: runners that poll find everything without it.
            await self._wake()
