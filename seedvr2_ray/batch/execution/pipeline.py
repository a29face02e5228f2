"""The job on Ray: plan as a stream, restore on a pool of actors, finish and publish as neighbours come in."""

import logging
import pickle
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, TypeVar

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionResources, TaskPoolStrategy

from seedvr2_ray.batch.execution.cluster import Pool, SettledPool, fit_pool, settle_pool
from seedvr2_ray.batch.execution.feed import Feed
from seedvr2_ray.batch.execution.finishing import PartOrder, finish_part, publish_video
from seedvr2_ray.batch.execution.heartbeats import DEFAULT_TIMEOUT_SECONDS, WITHOUT_REASON, Watch, at_work, watch_run
from seedvr2_ray.batch.execution.rows import SegmentResult, VideosRow, take_turns, to_columns
from seedvr2_ray.batch.execution.tracker import Order, VideosInFlight
from seedvr2_ray.batch.execution.videos import Video, VideoOutcome, outcome_of, plan_row
from seedvr2_ray.batch.execution.worker import SegmentWorker
from seedvr2_ray.batch.job import Job
from seedvr2_ray.batch.manifest.manifest import ManifestRow
from seedvr2_ray.batch.manifest.normalise import Normalised, Shard, read_shard
from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.restoration.work.failures import Failure, describe_failure
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.telemetry.metrics import count

MAX_PASSES = 3
"""How often rows are planned again whose work was lost or put off."""

PLANNED_AHEAD_BYTES = 64 << 20
"""Of descriptions that wait for a restorer: some ten thousand segments. Planning pauses there."""

_ONE_ROW = 1
"""Bytes in a block: every row becomes a block of its own, and so a task of its own."""

_POLL_SECONDS = 0.2
_NEWS_SECONDS = 120.0

_log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_End = Literal["over", "crowded", "stuck"]
"""How a pass ends: all came back; restorers were in the way of other tasks; nothing went on and nobody knows why."""


class ArchiveProgress(Protocol):
    """Told what happens, by the thread that drives the job."""

    def took(self, result: SegmentResult) -> None:
        """A segment came back."""

    def settled(self, outcome: VideoOutcome) -> None:
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
        patience_seconds: without a sign of life from any process, after which a pass is given up as stuck.

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
        self._in_flight = VideosInFlight(manifest.num_rows)

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
        with _Tasks(self._job, self._pool) as tasks, Feed(dataset) as feed:
            while not (feed.is_over and tasks.num_waiting == 0):
                for item in feed.take(_POLL_SECONDS):
                    self._watch.came("plan" if isinstance(item, VideosRow) else "restore")
                    tasks.order(self._take(item))
                for order, done in tasks.take_done(timeout_seconds=_POLL_SECONDS if feed.is_over else 0.0):
                    self._watch.came("finish")
                    tasks.order(self._take_done(order, done))
                _report(self._in_flight, self._progress)
                self._progress.heartbeat()
                if self._is_crowded(is_finishing=tasks.num_waiting > 0):
                    return "crowded"
                if self._watch.is_stuck(times=WITHOUT_REASON):
                    _log.warning("no process has been at work for %.0f s", WITHOUT_REASON * self._watch.timeout_seconds)
                    return "stuck"
        return "over"

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
        if isinstance(item, VideosRow):
            yield from self._in_flight.take_videos(item)
            return
        self._progress.took(item)
        yield from self._in_flight.take_result(item)

    def _take_done(self, order: Order, done: Any) -> Iterator[Order]:
        if isinstance(order, PartOrder):
            yield from self._in_flight.take_part(order, done)
        else:
            self._in_flight.take_published(order, done)

    def _settle_the_rest(self) -> None:
        if not self._in_flight.num_open:
            return
        for shard in self._manifest.shards:
            for row in read_shard(shard):
                if not self._in_flight.is_settled(row.number):
                    failure = self._in_flight.failure_of(row.number) or _lost()
                    self._in_flight.settle(outcome_of(row, failure))
                    _report(self._in_flight, self._progress)


def identify_on_worker(job: Job, settings: RestoreSettings, pool: SettledPool) -> RestorerIdentity:
    """Ask a process like those that will restore who its restorer is; the driver may have no GPU.

    Weights are brought to that machine and verified on the way.

    Raises:
        SettingsError, DeploymentError: there is no such model, or its weights cannot be had.
    """
    return ask_worker(pool, job.restorers.identify, settings)


def ask_worker(pool: SettledPool, question: Callable[..., Answer], *arguments: Any) -> Answer:
    """Call a function in a process with the resources of a restorer, and raise what it raises."""

    def ask() -> Answer:
        return question(*arguments)

    asked = ray.remote(num_cpus=pool.num_cpus, num_gpus=pool.num_gpus)(ask).remote()
    while not ray.wait([asked], timeout=_NEWS_SECONDS)[0]:
        _log.warning(
            "still waiting for a process with %g CPUs and %g GPUs to say what it can do: the cluster has no room for "
            "it yet, or it brings a model's weights",
            pool.num_cpus,
            pool.num_gpus,
        )
    try:
        answer: Answer = ray.get(asked)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    return answer


def _report(in_flight: VideosInFlight, progress: ArchiveProgress) -> None:
    for outcome in in_flight.take_outcomes():
        count("seedvr2_films", state=outcome.state)
        progress.settled(outcome)


def segments_dataset(
    job: Job, shards: Sequence[Shard], identity: RestorerIdentity, open_rows: frozenset[int] | None, pool: SettledPool
) -> Dataset:
    """Describe the stream from shards of the manifest to results of segments; nothing runs yet."""
    configure(DataContext.get_current())
    planned = shards_dataset(shards, _plan_shard, pool, job=job, identity=identity, open_rows=open_rows)
    return planned.map_batches(
        SegmentWorker,
        fn_constructor_args=(job,),
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=pool.min_size, max_size=pool.max_size, max_tasks_in_flight_per_actor=1),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus or None,
    )


def shards_dataset(
    shards: Sequence[Shard], plan: Callable[..., Iterator[dict[str, Any]]], pool: SettledPool, **arguments: Any
) -> Dataset:
    """Describe a stream of what ``plan`` yields for every shard; nothing runs yet."""
    return ray.data.from_items(
        [{"shard": pickle.dumps(shard)} for shard in shards], override_num_blocks=len(shards)
    ).flat_map(
        plan_segments,  # type: ignore[arg-type]  # Ray's signature leaves out fn_kwargs
        fn_kwargs={"plan": plan, **arguments},
        # So few that tasks which finish and publish find room beside them.
        compute=TaskPoolStrategy(size=min(pool.num_planners, len(shards))),
        num_cpus=pool.task_cpus,
    )


def configure(context: DataContext) -> None:
    """Set what Ray Data must be told for rows that describe minutes of work."""
    context.target_max_block_size = _ONE_ROW
    context.target_min_block_size = _ONE_ROW
    # With one task in flight a pool is never more than fully used, so the usual threshold of 1.75 would
    # keep it at its smallest size for ever.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 0.99
    context.execution_no_progress_timeout_s = -1  # A segment may take as long as it takes.
    context.issue_detectors_config.detectors = []  # They would take every long segment for one that hangs.
    # Where little is left to do, or nothing, a pool gets fewer segments than it has processes: that is no fault.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors", category=UserWarning)
    context.max_errored_blocks = -1  # What is lost with a block is planned again in the next pass.
    context.actor_init_retry_on_errors = True
    context.max_consecutive_actor_init_deaths = 3
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    context.execution_options.resource_limits = ExecutionResources(object_store_memory=PLANNED_AHEAD_BYTES)


def plan_segments(
    row: Mapping[str, Any], plan: Callable[..., Iterator[dict[str, Any]]], **arguments: Any
) -> Iterator[dict[str, Any]]:
    """Hand a shard to ``plan``. Its own name is what Ray's dashboard shows."""
    return plan(pickle.loads(row["shard"]), **arguments)


def _plan_shard(
    shard: Shard, job: Job, identity: RestorerIdentity, open_rows: frozenset[int] | None
) -> Iterator[dict[str, Any]]:
    rows = (each for each in read_shard(shard) if open_rows is None or each.number in open_rows)
    for described in take_turns(_plan_row(each, job, identity) for each in rows):
        yield to_columns(described)


def _plan_row(row: ManifestRow, job: Job, identity: RestorerIdentity) -> Video | VideoOutcome:
    # A task that is only held up by those after it must not look as if it were at work.
    with at_work(job.run, "plan"):
        return plan_row(row, job, identity)


class _Tasks:
    """CPU tasks that finish and publish; so many at a time that the cluster is busy and no more."""

    def __init__(self, job: Job, pool: SettledPool) -> None:
        self._finish = ray.remote(num_cpus=pool.task_cpus, max_retries=3)(finish_part)
        self._publish = ray.remote(num_cpus=pool.task_cpus, max_retries=3)(publish_video)
        self._job = ray.put(job)
        self._orders: deque[Order] = deque()
        self._running: dict[Any, Order] = {}
        self._most = pool.num_tasks

    def __enter__(self) -> "_Tasks":
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._running:  # None is left of a pass that came to its end.
            ray.cancel(task)

    @property
    def num_waiting(self) -> int:
        """Orders that are not done."""
        return len(self._orders) + len(self._running)

    def order(self, orders: Iterator[Order]) -> None:
        """Take orders; start as many as may run."""
        self._orders.extend(orders)
        while self._orders and len(self._running) < self._most:
            order = self._orders.popleft()
            if isinstance(order, PartOrder):
                self._running[self._finish.remote(order, self._job)] = order
            else:
                self._running[self._publish.remote(order, self._job)] = order

    def take_done(self, timeout_seconds: float) -> Iterator[tuple[Order, Any]]:
        """Yield what is done, after waiting a little for the first."""
        if not self._running:
            return
        done, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        if not done and timeout_seconds:
            done, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_seconds)
        for task in done:
            order = self._running.pop(task)
            try:
                yield order, ray.get(task)
            except ray.exceptions.RayError as error:
                yield order, _died(order, error)


def _died(order: Order, error: Exception) -> Failure:
    failure = describe_failure("finish" if isinstance(order, PartOrder) else "assemble", error)
    return replace(failure, consequence="later")


def _lost() -> Failure:
    return Failure(
        stage="plan",
        error=f"its work was lost {MAX_PASSES} times, as when processes or machines are killed",
        remedy="run the same command again; if it fails again, look into the cluster's logs for what was killed",
    )
