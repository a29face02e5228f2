"""One claimed job, from its claim to its end: prepare, restore, finish, publish, and say how far it is."""

import asyncio
import contextlib
import logging
import time
from dataclasses import replace
from typing import Literal

from seedvr2_ray.errors import DeploymentError, SeedVR2Error, StorageError
from seedvr2_ray.restoration.work.failures import is_transient
from seedvr2_ray.serve.db.artifact_store import ArtifactStore
from seedvr2_ray.serve.db.job_rows import Changes
from seedvr2_ray.serve.db.job_store import LeaseLost
from seedvr2_ray.serve.db.usage_store import Use
from seedvr2_ray.serve.jobs import ErrorInfo, Job, JobState, Progress, ResultInfo
from seedvr2_ray.serve.problems import kind_of
from seedvr2_ray.serve.scheduler.dispatch import StalledError
from seedvr2_ray.serve.scheduler.video_progress import VideoProgress
from seedvr2_ray.serve.scheduler.video_run import Meter, Shared, VideoRun, deadline
from seedvr2_ray.serve.security.wording import explained
from seedvr2_ray.serve.service.admission import require_quota
from seedvr2_ray.serve.workers.protocol import STALLS_OF_A_VIDEO, PreparedJob, PrepareOrder
from seedvr2_ray.serve.workers.restore import StalePlanError
from seedvr2_ray.telemetry.metrics import count, observe

_log = logging.getLogger(__name__)


class JobRun:
    """Works on one job as long as the claim on it holds."""

    def __init__(self, job: Job, shared: Shared) -> None:
        self._job = job
        self._shared = shared
        model = str(job.settings["model"])
        self._meter = Meter(model, shared.config.models.get(model), job.gpu_seconds)
        self._video: VideoProgress | None = None
        self._task: asyncio.Task[None] | None = None
        self._end: Literal["drop", "cancel"] | None = None

    @property
    def fence(self) -> int:
        """Of the claim."""
        return self._job.fence

    def drop(self) -> None:
        """Stop at once and write nothing more: the job is somebody else's."""
        self._stop("drop")

    def cancel(self) -> None:
        """Stop at once and note that the job was cancelled."""
        self._stop("cancel")

    def note_use(self) -> None:
        """Write down what the job has taken so far. Blocks."""
        with contextlib.suppress(LeaseLost):
            self._shared.jobs.note(self._job.id, self.fence, **self._meter.changes())

    async def run(self) -> None:
        """Work until the job has ended, or is not ours any more."""
        self._task = asyncio.current_task()
        try:
            if self._end is None:
                _log.info("%s is begun, claim %d", self._job.id, self.fence)
                await self._work()
            elif self._end == "cancel":
                await self._finish_as(JobState.CANCELLED)
        except asyncio.CancelledError:
            if self._end is None:
                raise  # The runner itself is ended.
            if self._end == "cancel":
                await self._finish_as(JobState.CANCELLED)
        except LeaseLost:
            _log.info("%s is somebody else's now", self._job.id)
        except Exception as error:  # noqa: BLE001  # Whatever it was, its owner is told and other jobs go on.
            if isinstance(error, SeedVR2Error):
                _log.warning("%s failed: %s", self._job.id, error)
            else:
                _log.exception("%s failed", self._job.id)
            await self._finish_as(JobState.FAILED, error=explain(error))

    def _stop(self, end: Literal["drop", "cancel"]) -> None:
        if self._end is None:
            self._end = end
            if self._task is not None:
                self._task.cancel()

    async def _work(self) -> None:
        """Try until it succeeds; errors that may pass have the job planned again, from what is committed."""
        tries, done_before, identify_again = 0, -1, False
        while True:
            try:
                await self._attempt(identify_again=identify_again)
                return
            except Exception as error:
                if not is_transient(error) or isinstance(error, StalledError):
                    raise
                done = 0 if self._video is None else self._video.num_done
                # An error now and then in a job of days is not the same as one that does not go away.
                tries, done_before = (1 if done > done_before else tries + 1), done
                if tries >= self._shared.retries.num_tries:
                    raise
                identify_again = isinstance(error, StalePlanError)
                count("seedvr2_retries", state=type(error).__name__)
                _log.warning("%s is planned again: %s", self._job.id, error)
            await asyncio.sleep(self._shared.retries.pause_seconds(tries))

    async def _attempt(self, *, identify_again: bool) -> None:
        prepared = await self._prepare(identify_again=identify_again)
        while prepared.published is None and prepared.result_address in self._shared.in_progress:
            await self._shared.in_progress[prepared.result_address].wait()
            prepared = await self._prepare(identify_again=False)
        if prepared.published is not None:
            await self._finish_as(JobState.COMPLETED, result=await self._as_its_owner_knows(prepared.published))
            return
        done = self._shared.in_progress[prepared.result_address] = asyncio.Event()
        try:
            await self._finish_as(JobState.COMPLETED, result=await self._make(prepared))
        finally:
            del self._shared.in_progress[prepared.result_address]
            done.set()

    async def _as_its_owner_knows(self, published: ResultInfo) -> ResultInfo:
        """Say that a result was there only to whoever had it made: others must not learn who has the same file."""
        artifacts = ArtifactStore(self._shared.jobs.database)
        is_his = await self._shared.in_thread(
            artifacts.has_had, self._job.owner, published.address, besides=self._job.id
        )
        return replace(published, was_cached=bool(is_his))

    async def _prepare(self, *, identify_again: bool) -> PreparedJob:
        job, shared = self._job, self._shared
        if job.state is not JobState.PLANNING:
            self._job = await shared.in_thread(shared.jobs.advance, job.id, self.fence, JobState.PLANNING)
        if job.settings["model"] not in shared.config.models:
            raise DeploymentError(
                f"this deployment does not serve {job.settings['model']} any more; choose another model"
            )
        identity = await shared.workers.identify(self._meter.model, again=identify_again)
        limits = shared.limits()
        order = PrepareOrder(
            job_id=job.id,
            source=job.source,
            settings=job.settings,
            limits=limits,
            fetch=shared.config.fetch,
            identity=identity,
            pool=shared.config.models[self._meter.model],
            gang_size=job.gang_size,
        )
        async with shared.preparations.place(job.owner):
            began = time.monotonic()
            async with deadline(limits.fetch_seconds + STALLS_OF_A_VIDEO * limits.stall_seconds, "preparing the job"):
                prepared = await shared.workers.prepare(order)
        if prepared.gang_size is not None:
            self._meter.pool = order.pool.sizes[prepared.gang_size]
        observe("seedvr2_stage_seconds", time.monotonic() - began, stage="prepare")
        # The address is named before the result is used, so that nobody deletes it meanwhile.
        await shared.in_thread(
            shared.jobs.note,
            job.id,
            self.fence,
            content=prepared.source.content,
            result_address=prepared.result_address,
        )
        if prepared.published is not None and not await shared.in_thread(
            shared.results.has, "master", prepared.result_address
        ):
            raise StalePlanError("the result was deleted while the job was planned")
        return prepared

    async def _make(self, prepared: PreparedJob) -> ResultInfo:
        """Restore what is not committed yet, finish and publish."""
        video = self._video = VideoProgress(self._job.id, self._job.source.name, prepared)
        await self._shared.in_thread(self._reserve, video.plan.restored_megapixels)
        await self._advance(JobState.RESTORING, video)
        await VideoRun(self._job, video, self._meter, self._shared).run()
        await self._advance(JobState.ASSEMBLING, video)
        began = time.monotonic()
        async with deadline(STALLS_OF_A_VIDEO * self._shared.limits().stall_seconds, "publishing the result"):
            result = await self._shared.workers.publish(video.publish_order())
        observe("seedvr2_stage_seconds", time.monotonic() - began, stage="assemble")
        video.has_preview = True
        return result

    def _reserve(self, megapixels: float) -> None:
        """Note what the job will take now that its source is known, which for a URL it was not when it was accepted.

        Raises:
            RateRefusal: it is more than is left of its owner's quota.
        """
        if self._job.estimated_gpu_seconds:
            return
        shared, job = self._shared, self._job
        gpu_seconds = shared.rates.gpu_seconds(self._meter.model, megapixels)
        shared.jobs.note(job.id, self.fence, estimated_gpu_seconds=gpu_seconds)
        self._job = replace(job, estimated_gpu_seconds=gpu_seconds)
        limits = shared.limits()
        if limits.gpu_seconds_per_day:
            load = shared.jobs.load(job.owner)
            # His own estimate is among what is reserved already.
            rest = replace(load, reserved_gpu_seconds_of_owner=load.reserved_gpu_seconds_of_owner - gpu_seconds)
            require_quota(rest, limits, gpu_seconds)

    async def _advance(self, state: JobState, video: VideoProgress) -> None:
        progress = video.snapshot(time.monotonic())
        self._job = await self._shared.in_thread(
            self._shared.jobs.advance, self._job.id, self.fence, state, progress=progress
        )

    async def _finish_as(
        self, state: JobState, *, result: ResultInfo | None = None, error: ErrorInfo | None = None
    ) -> None:
        """Write down how the job ended and what it took; if even that fails, another runner finds out again."""
        changes: Changes = {**self._meter.changes()}
        if result is not None:
            changes["result"] = result
        if error is not None:
            changes["error"] = error
        if self._video is not None:
            changes["progress"] = self._video.snapshot(time.monotonic())
        elif result is not None:
            # Made by an earlier job, with its stills.
            frames = result.num_frames
            changes["progress"] = Progress(frames_done=frames, frames_total=frames, has_preview=True)
        retries = self._shared.retries
        for tries in range(1, retries.num_tries + 1):
            try:
                await self._shared.in_thread(self._write_end, state, changes)
                break
            except LeaseLost:
                return
            except StorageError as failure:
                _log.warning("the end of %s cannot be written now: %s", self._job.id, failure)
                await asyncio.sleep(retries.pause_seconds(tries))
        else:
            return  # Whoever claims it next comes to the same end, and counts it.
        _log.info("%s is %s, after %.1f s of devices", self._job.id, state.value, self._meter.gpu_seconds)
        count("seedvr2_jobs", state=state.value)
        if error is not None:
            count("seedvr2_errors", state=error.kind)

    def _write_end(self, state: JobState, changes: Changes) -> None:
        """Record the use first: said twice it counts once, but a job that has ended is never looked at again."""
        meter, video = self._meter, self._video
        if meter.gpu_seconds > 0:
            media = None if video is None else video.plan.media
            is_whole = media is not None and state is JobState.COMPLETED
            self._shared.usage.record(
                Use(
                    reference=self._job.id,
                    owner=self._job.owner,
                    job_id=self._job.id,
                    model=meter.model,
                    gpu_seconds=meter.gpu_seconds,
                    megapixels=meter.megapixels,
                    output_seconds=float(media.duration_seconds) if is_whole and media is not None else 0.0,
                    cost=meter.cost,
                )
            )
            count("seedvr2_cost", meter.cost)
            if is_whole and media is not None and media.duration_seconds > 0:
                minutes = float(media.duration_seconds) / 60
                observe("seedvr2_gpu_seconds_per_minute", meter.gpu_seconds / minutes, stage=meter.model)
        self._shared.jobs.advance(self._job.id, self.fence, state, **changes)


def explain(error: BaseException) -> ErrorInfo:
    """Say why a job failed, in words its owner may read."""
    kind = kind_of(type(error))
    if isinstance(error, SeedVR2Error):
        return ErrorInfo(kind=kind.name, detail=explained(error), remedy=kind.remedy)
    # What an error of another library says may name folders, addresses or credentials.
    return ErrorInfo(kind=kind.name, detail=f"an unexpected {type(error).__name__} ended the job", remedy=kind.remedy)
