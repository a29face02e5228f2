"""How many GPUs restore a segment together: one where it fits, else the fewest that can, decided before any work.

A gang never changes the picture, so its size is part of no address: only of a deployment, or of one run.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from seedvr2_ray.errors import DeviceMemoryError, SettingsError
from seedvr2_ray.models.seedvr2.vae.ranks.rows import require_rows
from seedvr2_ray.restoration.planning.memory import MemoryCosts, MemoryDemand, MemoryPlan, fits, plan_memory

_LARGEST_NAMED = 16
"""GPUs of the largest machines: larger gangs are not suggested to anybody."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GangChoice:
    """So many GPUs, and what each of them will hold."""

    size: int
    memory: MemoryPlan
    """Of the rank that needs most; the others need no more."""

    @property
    def bytes_per_rank(self) -> int:
        """At the fullest."""
        return self.memory.stages.peak


def choose_gang(
    demand: MemoryDemand,
    costs: MemoryCosts,
    device_bytes: int,
    *,
    node_gpus: int = 1,
    asked: int | None = None,
    may_offload: bool = True,
) -> GangChoice:
    """Choose how many GPUs restore a segment: the size asked for, else 1, 2, 4 ... up to a whole machine.

    Args:
        demand: of the segment; how many ranks it names does not matter.
        device_bytes: free on every GPU, weights left out.
        node_gpus: of one machine, which a gang does not go beyond.
        asked: the caller's own size; it is taken if it fits.

    Raises:
        DeviceMemoryError: nothing fits; names the size that would.
        SettingsError: so many ranks cannot share this picture, or are not in one machine.
    """
    if asked is not None:
        _require_size(demand, asked, node_gpus)
    sizes = [asked] if asked is not None else list(_sizes(demand, node_gpus))
    for size in sizes:
        shared = replace(demand, num_ranks=size)
        if fits(shared, costs, device_bytes, may_offload=may_offload):
            return GangChoice(size=size, memory=plan_memory(shared, costs, device_bytes, may_offload=may_offload))
    larger = _larger_gang(demand, costs, device_bytes, node_gpus, asked, may_offload)
    try:
        plan_memory(replace(demand, num_ranks=sizes[0]), costs, device_bytes, may_offload=may_offload)
    except DeviceMemoryError as error:
        raise DeviceMemoryError(f"{error}{larger}") from None
    raise AssertionError("what is found to fit is planned")


def _require_size(demand: MemoryDemand, size: int, node_gpus: int) -> None:
    require_one_machine(size, node_gpus)
    require_rows(_most_ranks(demand), size)


def require_one_machine(size: int, node_gpus: int) -> None:
    """Refuse a gang that no machine has the GPUs for.

    Raises:
        SettingsError: names the sizes there are.
    """
    if size < 1:
        raise SettingsError(f"a gang has at least 1 GPU, got gang_size {size}; leave it out to have it chosen")
    if size > node_gpus:
        raise SettingsError(
            f"gang_size {size} needs {size} GPUs in one machine and there {_are(node_gpus)}; "
            f"ask for at most {node_gpus}"
        )


def _sizes(demand: MemoryDemand, most: int) -> Iterator[int]:
    """Yield powers of two, and the largest there may be."""
    most = min(most, _most_ranks(demand))
    size = 1
    while size < most:
        yield size
        size *= 2
    yield max(most, 1)


def _most_ranks(demand: MemoryDemand) -> int:
    return demand.padded_height // demand.vae.spatial_stride


def _larger_gang(
    demand: MemoryDemand, costs: MemoryCosts, device_bytes: int, node_gpus: int, asked: int | None, may_offload: bool
) -> str:
    tried = asked or node_gpus
    for size in _sizes(demand, _LARGEST_NAMED):
        if size <= tried:
            continue
        if not fits(replace(demand, num_ranks=size), costs, device_bytes, may_offload=may_offload):
            continue
        where = "" if size <= node_gpus else f", in a machine with so many (here {_are(node_gpus)})"
        return f"; a gang of {size} GPUs like this one would do{where}"
    return ""


def _are(num_gpus: int) -> str:
    return "is 1" if num_gpus == 1 else f"are {num_gpus}"
