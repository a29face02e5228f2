"""The Ray that a job runs on: one that is there, or one of its own on this machine."""

import atexit
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import ray
from ray.util.placement_group import PlacementGroup

from seedvr2_ray.batch.execution.head import HeadLostError, leave_without_ray
from seedvr2_ray.batch.job import Job
from seedvr2_ray.errors import DeploymentError, SettingsError
from seedvr2_ray.gang.placement import find_group, in_bundle
from seedvr2_ray.local_ray import OWN, address_of, confine
from seedvr2_ray.models.backends import SpStrategy
from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.settings import RestoreSettings

_REMINDER_SECONDS = 120.0

_log = logging.getLogger(__name__)

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Who does the work."""

    min_size: int = 1
    """Restorers that are kept even when there is nothing to do for them yet."""
    max_size: int | None = None
    """Restorers at most; by default as many as the cluster has room for when the job starts. On a cluster that
    scales, say how many it may scale to."""
    num_gpus: float | None = None
    """GPUs per restorer, or per rank of a gang; by default 1 where the cluster has any, else 0."""
    gang_size: int = 1
    """Ranks that restore each segment together, on one machine: each restorer leads so many and holds their GPUs."""
    sp_strategy: SpStrategy = "auto"
    """How the ranks of a gang share the transformer's work."""
    rank_silence_seconds: float = 30.0
    """A rank whose process gives no sign of life for so long ends its gang, which is started again."""
    placement_group: str | None = None
    """Name of a placement group that was made for one gang: a bundle for its leader, then one for each rank."""
    num_cpus: float = 1.0
    """CPUs per restorer: it decodes and encodes in threads of its own."""
    task_cpus: float = 1.0
    """CPUs per planning or finishing task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SettledPool:
    """A pool whose numbers are decided."""

    min_size: int
    max_size: int
    num_gpus: float
    num_cpus: float
    task_cpus: float
    num_tasks: int
    """Finishing and publishing tasks that are started at a time; what does not run yet waits in Ray."""
    num_planners: int
    """Planning tasks at a time: the rest of the CPUs is for decoding, encoding, finishing and publishing."""
    gang_size: int = 1
    """Ranks of each restorer."""
    placement_group: str | None = None
    """Where the only restorer is put; its ranks hold the GPUs there."""

    def group(self) -> PlacementGroup | None:
        """Return that group."""
        return None if self.placement_group is None else find_group(self.placement_group, self.gang_size)


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Use a running cluster, or start one on this machine for as long as the block runs.

    Args:
        address: of a cluster, ``auto``, or ``local`` for one's own. By default what ``RAY_ADDRESS`` says, which
            ``ray job submit`` sets, and one's own where it says nothing.

    Raises:
        DeploymentError: there is no cluster at that address; or one's own would be open to others, because nobody
            called :func:`seedvr2_ray.local_ray.confine` before Ray was imported.
    """
    if ray.is_initialized():
        yield
        return
    address = address_of(address)
    if address == OWN:
        confine()
    try:
        ray.init(address=address, include_dashboard=False if address == OWN else None, log_to_driver=False)
    except ConnectionError as error:
        raise DeploymentError(f"no Ray cluster answers at {address}: {error}") from error
    except Exception as error:  # Ray raises bare ones where its processes do not come up in time.
        ray.shutdown()
        where = "on this machine" if address == OWN else f"at {address}"
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise DeploymentError(
            f"Ray did not start {where} ({type(error).__name__}: {reason}); it takes longer on a machine that is busy "
            "or short of memory: run the same command again, or name a cluster that runs with --address"
        ) from error
    try:
        yield
    except HeadLostError:
        atexit.unregister(ray.shutdown)  # It would wait for answers until Ray ends the process.
        atexit.register(leave_without_ray)
        raise
    except BaseException:
        ray.shutdown()
        raise
    ray.shutdown()


def settle_pool(pool: Pool) -> SettledPool:
    """Decide what a pool leaves open, from what the cluster has now.

    Raises:
        DeploymentError: the cluster cannot hold a single restorer and may not grow.
    """
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    if pool.placement_group is not None:
        return _settle_in_group(pool, pool.placement_group, cpus)
    num_gpus = pool.gang_size * (pool.num_gpus if pool.num_gpus is not None else (1.0 if gpus else 0.0))
    _require_machine(pool, num_gpus)
    # Two cores are enough to try everything, if not to gain from it.
    task_cpus = min(pool.task_cpus, cpus / 4) if cpus else pool.task_cpus
    room_for_tasks = 2 * task_cpus
    num_cpus = pool.num_cpus
    if cpus and pool.max_size is None:
        # A restorer that held the only core would wait for ever for tasks that wait for that core.
        num_cpus = min(num_cpus, cpus - room_for_tasks)
    fits_cpus = int((cpus - room_for_tasks) / num_cpus) if num_cpus else 10_000
    fits = min(fits_cpus, int(gpus / num_gpus)) if num_gpus else fits_cpus
    max_size = pool.max_size if pool.max_size is not None else max(1, fits)
    if num_gpus > gpus and pool.max_size is None:
        raise DeploymentError(
            f"each restorer was to have {num_gpus:g} GPUs and the cluster has {gpus:g}; ask for fewer, or say with "
            "--max-workers how many restorers the cluster may scale to"
        )
    return SettledPool(
        min_size=min(pool.min_size, max_size),
        max_size=max_size,
        num_gpus=num_gpus,
        num_cpus=num_cpus,
        task_cpus=task_cpus,
        num_tasks=max(2, int(2 * cpus / task_cpus)) if task_cpus else 2,
        num_planners=max(1, int((cpus - min(max_size, max(1, fits)) * num_cpus) / task_cpus / 2)),
        gang_size=pool.gang_size,
    )


def _settle_in_group(pool: Pool, name: str, cpus: float) -> SettledPool:
    """Settle a pool of one gang, whose leader holds no GPU: its ranks have those of their bundles."""
    if pool.gang_size == 1:
        raise SettingsError("a placement group is for a gang; say of how many GPUs with --gang-size")
    group = find_group(name, pool.gang_size)
    rest = cpus - sum(bundle.get("CPU", 0.0) for bundle in group.bundle_specs)
    task_cpus = min(pool.task_cpus, rest / 2) if rest > 0 else pool.task_cpus
    return SettledPool(
        min_size=1,
        max_size=1,
        num_gpus=0.0,
        num_cpus=group.bundle_specs[0].get("CPU", 0.0),
        task_cpus=task_cpus,
        num_tasks=max(2, int(2 * rest / task_cpus)) if task_cpus else 2,
        num_planners=max(1, int(rest / task_cpus / 2)) if task_cpus else 1,
        gang_size=pool.gang_size,
        placement_group=name,
    )


def _require_machine(pool: Pool, num_gpus: float) -> None:
    """Refuse a gang that no machine there is has room for: its ranks would wait for ever."""
    if pool.gang_size == 1 or not num_gpus or pool.max_size is not None:
        return
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    largest = max((node["Resources"].get("GPU", 0.0) for node in nodes if node["Alive"]), default=0.0)
    if num_gpus > largest:
        raise DeploymentError(
            f"a gang of {pool.gang_size} needs {num_gpus:g} GPUs in one machine and the largest has {largest:g}; make "
            "it smaller, or say with --max-workers how many restorers the cluster may scale to"
        )


def fit_pool(pool: Pool, settled: SettledPool) -> SettledPool:
    """Leave room beside the restorers for the tasks that plan and finish, on the cluster as it is now.

    Returns:
        ``settled`` itself where tasks find a core, or where the cluster has no room for restorers at all: then
        it is not they who are in the way, and machines may yet come.
    """
    if settled.placement_group is not None:
        return settled  # Its restorer has cores of its own.
    free = ray.available_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
    try:
        now = settle_pool(replace(pool, min_size=1, max_size=None))
    except DeploymentError:
        return settled
    cpus = ray.cluster_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
    has_room = cpus >= now.max_size * now.num_cpus + now.task_cpus
    if free >= settled.task_cpus or not has_room or now.max_size >= settled.max_size:
        return settled
    return replace(now, min_size=min(settled.min_size, now.max_size))


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

    group = pool.group()
    if group is None:
        where: dict[str, Any] = {"num_cpus": pool.num_cpus, "num_gpus": pool.num_gpus}
    else:
        # Where a rank will be: the leader has no GPU, and who restores depends on what it computes with.
        rank = group.bundle_specs[1]
        where = {"num_cpus": rank.get("CPU", 0), "num_gpus": rank.get("GPU", 0)}
        where["scheduling_strategy"] = in_bundle(group, 1)
    asked = ray.remote(**where)(ask).options(name="identifying").remote()
    while not ray.wait([asked], timeout=_REMINDER_SECONDS)[0]:
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
