"""What Ray Data does: rows of the manifest are planned, and a pool of actors restores their segments."""

import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionResources, TaskPoolStrategy

from seedvr2_ray.batch.execution.cluster import SettledPool
from seedvr2_ray.batch.execution.heartbeats import at_work
from seedvr2_ray.batch.execution.rows import VideosRow, take_turns, to_columns
from seedvr2_ray.batch.execution.videos import Video, VideoOutcome, plan_row
from seedvr2_ray.batch.execution.worker import SegmentWorker
from seedvr2_ray.batch.job import Job
from seedvr2_ray.batch.leftovers import require_shared_folder
from seedvr2_ray.batch.manifest.manifest import ManifestRow
from seedvr2_ray.batch.manifest.normalise import Shard, read_shard
from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.gang.placement import in_bundle
from seedvr2_ray.restoration.garbage import loaded_for_good
from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.restoration.work.failures import describe_failure

PLANNED_AHEAD_BYTES = 64 << 20
"""Of descriptions that wait for a restorer: some ten thousand segments. Planning pauses there."""

_ONE_ROW = 1
"""Bytes in a block: every row becomes a block of its own, and so a task of its own."""


class Restoring(SegmentWorker):
    """A worker under the name that Ray's dashboard shows for its operator."""

    def __init__(self, job: Job) -> None:
        """Start without a model; what it takes to load one is here already."""
        with loaded_for_good():
            super().__init__(job)


def segments_dataset(
    job: Job, shards: Sequence[Shard], identity: RestorerIdentity, open_rows: frozenset[int] | None, pool: SettledPool
) -> Dataset:
    """Describe the stream from shards of the manifest to results of segments; nothing runs yet."""
    configure(DataContext.get_current())
    group = pool.group()
    where: dict[str, Any] = {} if group is None else {"scheduling_strategy": in_bundle(group, 0)}
    planned = shards_dataset(shards, _plan_shard, pool, job=job, identity=identity, open_rows=open_rows)
    return planned.map_batches(
        Restoring,
        fn_constructor_args=(job,),
        batch_size=1,
        batch_format="pyarrow",
        # Two: one has the device while the other commits what was restored before, or decodes what is next.
        compute=ActorPoolStrategy(
            min_size=pool.min_size,
            max_size=pool.max_size,
            max_tasks_in_flight_per_actor=2,
            max_concurrent_calls_per_actor=2,
        ),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus or None,
        **where,
    )


def shards_dataset(
    shards: Sequence[Shard], plan: Callable[..., Iterator[dict[str, Any]]], pool: SettledPool, **arguments: Any
) -> Dataset:
    """Describe a stream of what ``plan`` yields for every shard; nothing runs yet."""
    return ray.data.from_items(
        [{"shard": pickle.dumps(shard)} for shard in shards], override_num_blocks=len(shards)
    ).flat_map(
        planning,  # type: ignore[arg-type]  # Ray's signature leaves out fn_kwargs
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
    # Whatever else Ray's own thread warns of must not end the job where a program makes errors of warnings.
    warnings.filterwarnings("default", category=UserWarning, module=r"ray\.data\.")
    context.max_errored_blocks = -1  # What is lost with a block is planned again in the next pass.
    context.actor_init_retry_on_errors = True
    context.max_consecutive_actor_init_deaths = 3
    context.memory_usage_poll_interval_s = None  # Else of each task at work, every second, for a summary nobody reads.
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    context.execution_options.resource_limits = ExecutionResources(object_store_memory=PLANNED_AHEAD_BYTES)


def planning(
    row: Mapping[str, Any], plan: Callable[..., Iterator[dict[str, Any]]], **arguments: Any
) -> Iterator[dict[str, Any]]:
    """Hand a shard to ``plan``. Its own name is what Ray's dashboard shows."""
    return plan(pickle.loads(row["shard"]), **arguments)


def _plan_shard(
    shard: Shard, job: Job, identity: RestorerIdentity, open_rows: frozenset[int] | None
) -> Iterator[dict[str, Any]]:
    try:
        require_shared_folder(job)
    except DeploymentError as error:
        yield to_columns(VideosRow(outcomes=(_stop(error),), videos=()))
        return
    rows = (each for each in read_shard(shard) if open_rows is None or each.number in open_rows)
    for described in take_turns(_plan_row(each, job, identity) for each in rows):
        yield to_columns(described)


def _stop(error: DeploymentError) -> VideoOutcome:
    """Word an error that ends the job, whichever row it was met at."""
    failure = describe_failure("plan", error)
    return VideoOutcome(number=0, where="", source="", target="", state="quarantined", failure=failure)


def _plan_row(row: ManifestRow, job: Job, identity: RestorerIdentity) -> Video | VideoOutcome:
    # A task that is only held up by those after it must not look as if it were at work.
    with at_work(job.run, "plan", job.heartbeat_seconds):
        return plan_row(row, job, identity)
