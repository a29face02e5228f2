"""What a plan will need of a device's memory, said before any weights are here."""

from dataclasses import dataclass

import torch

from seedvr2_ray.errors import CapacityError
from seedvr2_ray.models.weights.catalogue import ModelEntry, find_entry
from seedvr2_ray.restoration.families import family_of
from seedvr2_ray.restoration.planning.device_memory import DeviceMemory
from seedvr2_ray.restoration.planning.memory import MemoryCosts
from seedvr2_ray.restoration.planning.plan import Plan
from seedvr2_ray.restoration.restorer import SegmentTask

_GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryForecast:
    """What the longest segment of a plan needs on a device that holds nothing else."""

    device: str
    peak_bytes: int | None
    """None when it does not fit."""
    free_bytes: int
    refusal: str = ""
    """Why it does not fit, and what would."""
    costs: str
    """Where the figures come from."""
    gang_size: int = 1
    """GPUs that restore a segment together; the peak is that of each."""

    def __str__(self) -> str:
        if self.peak_bytes is None:
            return f"does not fit: {self.refusal}"
        by_whom = "" if self.gang_size == 1 else f"a gang of {self.gang_size} GPUs, each "
        return (
            f"{by_whom}{self.peak_bytes / _GIB:.1f} GiB at the peak; {self.free_bytes / _GIB:.1f} GiB are free "
            f"({self.device})"
        )


def forecast_memory(
    plan: Plan, entry: ModelEntry, device: DeviceMemory, *, gang_size: int | None = 1
) -> MemoryForecast | None:
    """Predict the memory of a plan's longest segment; allocates nothing.

    Args:
        gang_size: GPUs that restore a segment together; None chooses the fewest that can.

    Returns:
        None for a classical filter, which needs no more than a few frames.

    Raises:
        SettingsError: so many GPUs cannot share this work, or are not in one machine.
    """
    task = longest_task(plan)
    costs, family = MemoryCosts.for_device(device.name), family_of(entry)
    peak, refusal, size = None, "", gang_size or 1
    try:
        foreseen = family.foresee_memory(entry, task, costs, device, gang_size=gang_size)
        if foreseen is None:
            return None
        peak, size = foreseen.peak_bytes, foreseen.gang_size
    except CapacityError as error:
        refusal = str(error)
    return MemoryForecast(
        device=device.name,
        peak_bytes=peak,
        free_bytes=device.free_bytes,
        refusal=refusal,
        costs=family.memory_source(costs),
        gang_size=size,
    )


def longest_task(plan: Plan) -> SegmentTask:
    """Return the segment of a plan that needs most memory, as a restorer is told of it."""
    longest = max(plan.segments, key=lambda segment: segment.num_frames)
    return SegmentTask(
        first_frame=longest.span.start,
        num_frames=longest.num_frames,
        geometry=plan.recipe.geometry,
        settings=plan.recipe.settings,
        output_depth=plan.recipe.master.working_depth,
    )


def foresee_on_gpus(plan: Plan, memory_bytes: int, gang_size: int) -> MemoryForecast | None:
    """Predict the memory of a plan's longest segment on other machines' GPUs, of which only their size is known."""
    device = DeviceMemory(name="gpu", kind="cuda", dtype=torch.bfloat16, free_bytes=memory_bytes, num_devices=gang_size)
    return forecast_memory(plan, find_entry(plan.recipe.restorer.name), device, gang_size=gang_size)
