"""What a plan will need of this machine's memory, said before any weights are here."""

from dataclasses import dataclass

import torch

from seedvr2_ray.errors import CapacityError
from seedvr2_ray.models.catalogue import ModelEntry
from seedvr2_ray.models.seedvr2.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.vae import VideoVAE
from seedvr2_ray.models.seedvr2.vae_config import fastest_options
from seedvr2_ray.restoration.device import default_dtype, device_name, free_bytes
from seedvr2_ray.restoration.memory import MemoryCosts, plan_memory
from seedvr2_ray.restoration.plan import Plan
from seedvr2_ray.restoration.restorer import SegmentTask
from seedvr2_ray.restoration.segment_plan import ModelFacts, describe_model, describe_segment

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


def forecast_memory(plan: Plan, entry: ModelEntry, device: torch.device) -> MemoryForecast | None:
    """Predict the memory of a plan's longest segment; allocates nothing.

    Returns:
        None for a classical filter, which needs no more than a few frames.
    """
    facts = _facts_of(entry, device)
    if facts is None:
        return None
    longest = max(plan.segments, key=lambda segment: segment.num_frames)
    task = SegmentTask(
        first_frame=longest.span.start,
        num_frames=longest.num_frames,
        geometry=plan.recipe.geometry,
        settings=plan.recipe.settings,
        output_depth=plan.recipe.master.working_depth,
    )
    name, free = device_name(device), free_bytes(device)
    costs = MemoryCosts.for_device(name)
    peak, refusal = None, ""
    try:
        demand = describe_segment(task, facts)
        peak = plan_memory(demand, costs, free, may_offload=device.type != "cpu").stages.peak
    except CapacityError as error:
        refusal = str(error)
    return MemoryForecast(device=name, peak_bytes=peak, free_bytes=free, refusal=refusal, costs=costs.source)


def _facts_of(entry: ModelEntry, device: torch.device) -> ModelFacts | None:
    if entry.transformer is None or entry.vae is None:
        return None
    dtype = default_dtype(device)
    # Shapes without numbers: sizes are known from the configuration alone.
    with torch.device("meta"):
        transformer = SeedVR2Transformer(entry.transformer).to(dtype)
        vae = VideoVAE(entry.vae).to(dtype)
    options = fastest_options(device.type)
    return describe_model(transformer, vae, options, dtype=dtype, anchor_rows=entry.anchor_rows)
