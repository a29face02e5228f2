"""What a plan will need of a device's memory, said before any weights are here."""

from dataclasses import dataclass

import torch

from seedvr2_ray.errors import CapacityError
from seedvr2_ray.models.weights.catalogue import ModelEntry
from seedvr2_ray.restoration.device import default_dtype, device_name, free_bytes
from seedvr2_ray.restoration.families import family_of
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

    def __str__(self) -> str:
        if self.peak_bytes is None:
            return f"does not fit: {self.refusal}"
        return (
            f"{self.peak_bytes / _GIB:.1f} GiB at the peak; {self.free_bytes / _GIB:.1f} GiB are free ({self.device})"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceMemory:
    """A device that may be another machine's: what has to be known of it to say what fits."""

    name: str
    """Under which memory costs are stored."""
    kind: str
    """As torch says it: ``cuda`` or ``cpu``."""
    dtype: torch.dtype
    free_bytes: int


def look_at_device(device: torch.device) -> DeviceMemory:
    """Describe a device of this machine as it is now."""
    return DeviceMemory(
        name=device_name(device), kind=device.type, dtype=default_dtype(device), free_bytes=free_bytes(device)
    )


def forecast_memory(plan: Plan, entry: ModelEntry, device: DeviceMemory) -> MemoryForecast | None:
    """Predict the memory of a plan's longest segment; allocates nothing.

    Returns:
        None for a classical filter, which needs no more than a few frames.
    """
    longest = max(plan.segments, key=lambda segment: segment.num_frames)
    task = SegmentTask(
        first_frame=longest.span.start,
        num_frames=longest.num_frames,
        geometry=plan.recipe.geometry,
        settings=plan.recipe.settings,
        output_depth=plan.recipe.master.working_depth,
    )
    costs, family = MemoryCosts.for_device(device.name), family_of(entry)
    peak, refusal = None, ""
    try:
        peak = family.foresee_memory(
            entry, task, costs, kind=device.kind, dtype=device.dtype, free_bytes=device.free_bytes
        )
        if peak is None:
            return None
    except CapacityError as error:
        refusal = str(error)
    return MemoryForecast(
        device=device.name,
        peak_bytes=peak,
        free_bytes=device.free_bytes,
        refusal=refusal,
        costs=family.memory_source(costs),
    )
