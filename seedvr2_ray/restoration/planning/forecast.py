"""What a plan will need of a device's memory, said before any weights are here."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import torch

from seedvr2_ray.errors import CapacityError, SettingsError
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer, fold_timestep
from seedvr2_ray.models.seedvr2.transformer.precision import parameter_dtype
from seedvr2_ray.models.seedvr2.vae.config import fastest_options
from seedvr2_ray.models.seedvr2.vae.upsampler import Upsampler
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE
from seedvr2_ray.models.swiftvr.config import SwiftVRConfig
from seedvr2_ray.models.weights.catalogue import ModelEntry, find_entry
from seedvr2_ray.restoration.device import default_dtype, device_name, free_bytes
from seedvr2_ray.restoration.planning.gang import choose_gang
from seedvr2_ray.restoration.planning.gpus import KnownGPU
from seedvr2_ray.restoration.planning.memory import MemoryCosts, plan_memory
from seedvr2_ray.restoration.planning.plan import Plan
from seedvr2_ray.restoration.planning.segment_plan import ModelFacts, describe_model, describe_segment
from seedvr2_ray.restoration.restorer import SegmentTask
from seedvr2_ray.restoration.swiftvr.memory import (
    SOURCE,
    SwiftVRFacts,
    foresee_swiftvr,
    padded_size,
    plan_swiftvr_memory,
)

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


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceMemory:
    """A device that may be another machine's: what has to be known of it to say what fits."""

    name: str
    """Under which memory costs are stored."""
    kind: str
    """As torch says it: ``cuda`` or ``cpu``."""
    dtype: torch.dtype
    free_bytes: int
    num_devices: int = 1
    """Of this kind in one machine."""

    @classmethod
    def of_gpu(cls, gpu: KnownGPU, num_devices: int = 1) -> Self:
        """Describe a machine of some GPUs that nobody uses, wherever it may be."""
        return cls(name=gpu.name, kind="cuda", dtype=torch.bfloat16, free_bytes=gpu.free_bytes, num_devices=num_devices)


def look_at_device(device: torch.device) -> DeviceMemory:
    """Describe a device of this machine as it is now."""
    return DeviceMemory(
        name=device_name(device),
        kind=device.type,
        dtype=default_dtype(device),
        free_bytes=free_bytes(device),
        num_devices=torch.cuda.device_count() if device.type == "cuda" else 1,
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
    if not entry.components:
        return None
    longest = max(plan.segments, key=lambda segment: segment.num_frames)
    task = SegmentTask(
        first_frame=longest.span.start,
        num_frames=longest.num_frames,
        geometry=plan.recipe.geometry,
        settings=plan.recipe.settings,
        output_depth=plan.recipe.master.working_depth,
    )
    costs = MemoryCosts.for_device(device.name)
    peak, refusal, source, size = None, "", costs.source, gang_size or 1
    try:
        if entry.swiftvr is not None:
            if size > 1:
                raise SettingsError(f"{entry.name} restores on one GPU and was asked for {size}; leave gang_size out")
            facts, source = _swiftvr_facts(entry.swiftvr, device.dtype), SOURCE
            height, width = padded_size(task.geometry, entry.swiftvr)
            peak = plan_swiftvr_memory(facts, costs, height, width, device.free_bytes).stages.peak
        else:
            demand = describe_segment(task, facts_of(entry, device.kind, device.dtype))
            if device.kind == "cpu" and size == 1:
                # A gang of processors would share the memory it lacks.
                peak = plan_memory(demand, costs, device.free_bytes, may_offload=False).stages.peak
            else:
                choice = choose_gang(demand, costs, device.free_bytes, node_gpus=device.num_devices, asked=gang_size)
                peak, size = choice.bytes_per_rank, choice.size
    except CapacityError as error:
        refusal = str(error)
    return MemoryForecast(
        device=device.name, peak_bytes=peak, free_bytes=device.free_bytes, refusal=refusal, costs=source, gang_size=size
    )


def foresee_on_gpus(plan: Plan, memory_bytes: int, gang_size: int) -> MemoryForecast | None:
    """Predict the memory of a plan's longest segment on other machines' GPUs, of which only their size is known."""
    device = DeviceMemory(name="gpu", kind="cuda", dtype=torch.bfloat16, free_bytes=memory_bytes, num_devices=gang_size)
    return forecast_memory(plan, find_entry(plan.recipe.restorer.name), device, gang_size=gang_size)


@lru_cache(maxsize=8)
def _swiftvr_facts(config: SwiftVRConfig, dtype: torch.dtype) -> SwiftVRFacts:
    return foresee_swiftvr(config, dtype)


@lru_cache(maxsize=8)
def facts_of(entry: ModelEntry, kind: str, dtype: torch.dtype) -> ModelFacts:
    """Return what a restorer would know of its loaded networks, from their configuration alone."""
    if entry.transformer is None or entry.vae is None:
        raise ValueError(f"{entry.name} is no model of SeedVR2's kind")
    # Shapes without numbers: sizes are known from the configuration alone.
    options = fastest_options(kind)
    with torch.device("meta"):
        transformer, vae = SeedVR2Transformer(entry.transformer), VideoVAE(entry.vae, options)
        for network in (transformer, vae):
            for name, tensor in (*network.named_parameters(), *network.named_buffers()):
                tensor.data = tensor.data.to(parameter_dtype(dtype, name))
        # What a restorer derives from weights is as large as on a device.
        fold_timestep(transformer)
        for module in vae.modules():
            if isinstance(module, Upsampler) and options.fused_upsampler:
                module.fuse()
    return describe_model(transformer, vae, options, dtype=dtype, anchor_rows=entry.anchor_rows)
