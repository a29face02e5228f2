"""The job on Ray: passes over the archive, and the loop that waits for events and orders what they make possible."""

import logging
import queue
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import ray

from seedvr2_ray.batch.execution.cluster import Pool, fit_pool, identify_on_worker, settle_pool
from seedvr2_ray.batch.execution.feed import Events, Feed, FeedOver, Restraint
from seedvr2_ray.batch.execution.finishing import PartOrder
from seedvr2_ray.batch.execution.head import head_at
from seedvr2_ray.batch.execution.heartbeats import DEFAULT_TIMEOUT_SECONDS, WITHOUT_REASON, Watch, watch_run
from seedvr2_ray.batch.execution.rows import SegmentResult, VideosRow
from seedvr2_ray.batch.execution.stream import segments_dataset
from seedvr2_ray.batch.execution.tasks import OrderDone, Tasks
from seedvr2_ray.batch.execution.tracker import CleaningOrder, Order, VideosInFlight
from seedvr2_ray.batch.execution.videos import VideoOutcome, outcome_of
from seedvr2_ray.batch.job import Job
from seedvr2_ray.batch.manifest.normalise import Normalised, Shard, read_shard
from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.restoration.work.failures import Failure
from seedvr2_ray.telemetry.metrics import count

MAX_PASSES = 3
"""How often rows are planned again whose work was lost or put off."""

_CLOCK_SECONDS = 2.0
"""Between two looks at the clock where nothing happens: progress is shown, and dead work is noticed."""

_log = logging.getLogger(__name__)

_End = Literal["over", "crowded", "stuck"]
"""How a pass ends: all is received; restorers were in the way of other tasks; nothing went on and nobody knows why."""


class ArchiveProgress(Protocol):
    """Told what happens, by the thread that drives the job."""

    def received(self, result: SegmentResult) -> None:
        """A segment was worked on."""

    def finished(self, outcome: VideoOutcome) -> None:
        """A row of the manifest has its outcome."""

    def heartbeat(self) -> None:
        """Some time has passed."""


def restore_archive(
    job: Job,
    manifest: Normalised,
    pool: Pool,
    progress: ArchiveProgress,
    *,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
) -> None:
    """Restore every row that can be; each is settled once, published, skipped or quarantined.

    Rows whose work was lost (a block that Ray gave up), put off (a store that did not answer) or stuck are planned
    again in further passes, from what is committed.

    Args:
        timeout_seconds: without a sign of life from any process, after which a pass is given up as stuck.

    Raises:
        DeploymentError: no segment can be restored with this installation.
    """
    with watch_run(job.run, timeout_seconds) as watch:
        _ArchiveRun(job, manifest, pool, watch, progress).restore()


class _ArchiveRun:
    """The passes over one archive, and what they share."""

    def __init__(self, job: Job, manifest: Normalised, pool: Pool, watch: Watch, progress: ArchiveProgress) -> None:
        self._job = job
        self._manifest = manifest
        self._asked_pool = pool
        self._pool = settle_pool(pool)
        self._watch = watch
        self._progress = progress
        self._head = head_at(ray.get_runtime_context().gcs_address)
        self._in_flight = VideosInFlight(manifest.num_rows, manifest.sharers, keep_work=job.keep_work)

    def restore(self) -> None:
        num_passes = 0
        while self._in_flight.num_open and num_passes < MAX_PASSES:
            steps_before = self._in_flight.num_steps
            end = self._make_pass()
            has_advanced = self._in_flight.num_steps > steps_before
            if end == "over":
                num_passes += 1
            elif end == "stuck" and not has_advanced:
                num_passes += 1
                if num_passes == MAX_PASSES:
                    raise DeploymentError(
                        f"nothing went on for {WITHOUT_REASON * self._watch.timeout_seconds:.0f} s, {num_passes} "
                        "times; look with 'ray status' for what the cluster lacks, then run the same command again"
                    )
                self._watch.timeout_seconds *= 2
            if self._in_flight.num_open:
                _log.warning("%d files are not settled; planning them again", self._in_flight.num_open)
        self._settle_the_rest()

    def _make_pass(self) -> _End:
        """Go over all open rows, a model at a time."""
        in_flight = self._in_flight
        in_flight.begin_pass()
        open_rows = in_flight.open_rows() if in_flight.num_open < self._manifest.num_rows else None
        for model in self._manifest.models():
            shards = [shard for shard in self._manifest.shards if shard.model == model]
            end = self._restore_shards(shards, open_rows)
            if end != "over":
                return end
        return "over"

    def _restore_shards(self, shards: Sequence[Shard], open_rows: frozenset[int] | None) -> _End:
        identity = identify_on_worker(self._job, next(read_shard(shards[0])).settings, self._pool)
        dataset = segments_dataset(self._job, shards, identity, open_rows, self._pool)
        self._watch.begin()
        events: Events = queue.SimpleQueue()
        # As many as machines are at, and one more round of all restorers: what is beyond waits on disk for nothing.
        restraint = Restraint(self._pool.num_tasks + 2 * self._pool.max_size)
        is_over = False
        with Tasks(self._job, self._pool, events.put) as tasks, Feed(dataset, events.put, restraint) as feed:
            while not (is_over and tasks.is_idle):
                event = _next_event(events)
                if isinstance(event, FeedOver):
                    is_over = True
                    if event.error is not None:
                        raise DeploymentError(f"Ray gave the job up: {event.error}") from event.error
                elif isinstance(event, OrderDone):
                    tasks.order(self._take_done(tasks.done(event)))
                elif event is not None:
                    tasks.order(self._take(feed.read(event)))
                restraint.note(tasks.num_waiting)
                self._report()
                self._progress.heartbeat()
                self._head.require()
                end = self._end_early(is_finishing=tasks.num_waiting > 0)
                if end is not None:
                    return end
        return "over"

    def _end_early(self, *, is_finishing: bool) -> _End | None:
        if self._is_crowded(is_finishing=is_finishing):
            return "crowded"
        if self._watch.is_stuck(times=WITHOUT_REASON):
            _log.warning("no process has been at work for %.0f s", WITHOUT_REASON * self._watch.timeout_seconds)
            return "stuck"
        return None

    def _is_crowded(self, *, is_finishing: bool) -> bool:
        """Say whether tasks wait in vain for a core; if so, have fewer restorers in the next pass.

        Restorers that hold every core leave none to the tasks that plan and finish: so it is after a machine was
        lost, or when more restorers were asked for than there is room. Ray Data never ends idle restorers while it
        waits for a core for another one.
        """
        finishing_waits = self._watch.is_finishing_stuck(is_wanted=is_finishing)
        if not (finishing_waits or self._watch.is_stuck()):
            return False
        fitted = fit_pool(self._asked_pool, self._pool)
        if fitted.max_size >= self._pool.max_size:
            return False
        _log.warning(
            "no task finds a free core beside the restorers; going on with at most %d of them instead of %d",
            fitted.max_size,
            self._pool.max_size,
        )
        self._pool = fitted
        return True

    def _take(self, item: SegmentResult | VideosRow) -> Iterator[Order]:
        self._watch.received("plan" if isinstance(item, VideosRow) else "restore")
        if isinstance(item, VideosRow):
            yield from self._in_flight.receive_videos(item)
            return
        self._progress.received(item)
        yield from self._in_flight.receive_result(item)

    def _take_done(self, event: OrderDone) -> Iterator[Order]:
        self._watch.received("finish")
        order, result = event.order, event.result
        if isinstance(order, CleaningOrder):
            if isinstance(result, Failure):
                _log.warning("work that has served stays in the job's folder: %s", result.error)
        elif isinstance(order, PartOrder):
            yield from self._in_flight.receive_part(order, result)
        else:
            yield from self._in_flight.receive_published(order.video, result)

    def _settle_the_rest(self) -> None:
        if not self._in_flight.num_open:
            return
        for shard in self._manifest.shards:
            for row in read_shard(shard):
                if not self._in_flight.is_settled(row.number):
                    failure = self._in_flight.failure_of(row.number) or _lost()
                    list(self._in_flight.settle(outcome_of(row, failure)))
                    self._report()

    def _report(self) -> None:
        for outcome in self._in_flight.take_outcomes():
            count("seedvr2_films", state=outcome.state)
            self._progress.finished(outcome)


def _next_event(events: Events) -> Any:
    """Return what happens next, or nothing when it is time to look at the clock."""
    try:
        return events.get(timeout=_CLOCK_SECONDS)
    except queue.Empty:
        return None


def _lost() -> Failure:
    return Failure(
        stage="plan",
        error=f"its work was lost {MAX_PASSES} times, as when processes or machines are killed",
        remedy="run the same command again; if it fails again, look into the cluster's logs for what was killed",
    )
