"""What the loader and the planner ask of every family of models: SeedVR2's, SwiftVR's, and the filter's.

Nobody else asks of which family a model is: who restores sees a :class:`~seedvr2_ray.restoration.restorer.Restorer`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch

from seedvr2_ray.models.backends import AttentionBackend, SpStrategy
from seedvr2_ray.models.parallel import SequenceParallel
from seedvr2_ray.models.seedvr2.config import SeedVR2Config
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer, fold_timestep
from seedvr2_ray.models.seedvr2.transformer.precision import parameter_dtype
from seedvr2_ray.models.seedvr2.vae.config import fastest_options
from seedvr2_ray.models.seedvr2.vae.upsampler import Upsampler
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE
from seedvr2_ray.models.swiftvr.config import SwiftVRConfig
from seedvr2_ray.models.weights.catalogue import ModelEntry, Role
from seedvr2_ray.models.weights.download import FoundFile
from seedvr2_ray.restoration.diffusion.load import identify_diffusion, load_diffusion
from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.planning.device_memory import DeviceMemory
from seedvr2_ray.restoration.planning.gang import choose_gang, require_one_machine
from seedvr2_ray.restoration.planning.memory import MemoryCosts, plan_memory
from seedvr2_ray.restoration.planning.segment_plan import ModelFacts, describe_model, describe_segment
from seedvr2_ray.restoration.restorer import Restorer, RestorerIdentity, SegmentTask
from seedvr2_ray.restoration.swiftvr.load import identify_swiftvr, load_swiftvr, require_swiftvr_settings
from seedvr2_ray.restoration.swiftvr.memory import (
    SOURCE,
    SwiftVRFacts,
    foresee_swiftvr,
    padded_size,
    plan_swiftvr_memory,
)
from seedvr2_ray.settings import RestoreSettings


@dataclass(frozen=True, slots=True)
class ForeseenMemory:
    """What a segment will need of each device that restores it."""

    peak_bytes: int
    gang_size: int = 1
    """Devices that restore it together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loading:
    """Onto what a model is loaded, and how it is to compute there."""

    device: torch.device
    dtype: torch.dtype
    attention: AttentionBackend
    compile_transformer: bool
    parallel: SequenceParallel
    """The rank that loads its part; alone where no others share the work."""
    sp_strategy: SpStrategy


class ModelFamily(Protocol):
    """Models that are loaded and planned alike."""

    def require_settings(self, settings: RestoreSettings) -> None:
        """Refuse what these models have no use for.

        Raises:
            SettingsError: names the setting and why.
        """

    def identify(self, entry: ModelEntry, hashes: Mapping[Role, str], dtype: torch.dtype) -> RestorerIdentity:
        """Say who a model is, from its files' SHA-256; loads nothing."""

    def load(self, entry: ModelEntry, files: Mapping[Role, FoundFile], how: Loading) -> Restorer:
        """Load a model onto a device, or a rank's part of it; filters are never shared by ranks."""

    def foresee_memory(
        self,
        entry: ModelEntry,
        task: SegmentTask,
        costs: MemoryCosts,
        device: DeviceMemory,
        *,
        gang_size: int | None,
    ) -> ForeseenMemory | None:
        """Say how many bytes a segment needs at its peak on a device that holds nothing else.

        Args:
            gang_size: such devices that restore a segment together; None chooses the fewest that can.

        Returns:
            None where a few frames are all that is ever in memory.

        Raises:
            CapacityError: it does not fit.
            SettingsError: so many cannot share this work, or are not in one machine.
        """

    def memory_source(self, costs: MemoryCosts) -> str:
        """Say where the figures of :meth:`foresee_memory` come from."""


def family_of(entry: ModelEntry) -> ModelFamily:
    """Return the family that an entry of the catalogue belongs to, by the type of its networks."""
    if isinstance(entry.networks, SeedVR2Config):
        return _SeedVR2Family()
    if isinstance(entry.networks, SwiftVRConfig):
        return _SwiftVRFamily()
    return _FilterFamily()


class _SeedVR2Family:
    def require_settings(self, settings: RestoreSettings) -> None:
        pass

    def identify(self, entry: ModelEntry, hashes: Mapping[Role, str], dtype: torch.dtype) -> RestorerIdentity:
        return identify_diffusion(entry, hashes, dtype)

    def load(self, entry: ModelEntry, files: Mapping[Role, FoundFile], how: Loading) -> Restorer:
        return load_diffusion(
            entry,
            files,
            device=how.device,
            dtype=how.dtype,
            attention=how.attention,
            compile_transformer=how.compile_transformer,
            parallel=how.parallel,
            sp_strategy=how.sp_strategy,
        )

    def foresee_memory(
        self,
        entry: ModelEntry,
        task: SegmentTask,
        costs: MemoryCosts,
        device: DeviceMemory,
        *,
        gang_size: int | None,
    ) -> ForeseenMemory:
        demand = describe_segment(task, facts_of(entry.seedvr2, device.kind, device.dtype))
        may_offload = device.kind != "cpu"
        if not may_offload and (gang_size or 1) == 1:
            # A gang of processors would share the memory it lacks.
            return ForeseenMemory(plan_memory(demand, costs, device.free_bytes, may_offload=False).stages.peak)
        choice = choose_gang(
            demand,
            costs,
            device.free_bytes,
            node_gpus=device.num_devices,
            asked=gang_size,
            may_offload=may_offload,
        )
        return ForeseenMemory(choice.bytes_per_rank, choice.size)

    def memory_source(self, costs: MemoryCosts) -> str:
        return costs.source


class _SwiftVRFamily:
    def require_settings(self, settings: RestoreSettings) -> None:
        require_swiftvr_settings(settings)

    def identify(self, entry: ModelEntry, hashes: Mapping[Role, str], dtype: torch.dtype) -> RestorerIdentity:
        return identify_swiftvr(entry, hashes, dtype)

    def load(self, entry: ModelEntry, files: Mapping[Role, FoundFile], how: Loading) -> Restorer:
        return load_swiftvr(
            entry,
            files,
            device=how.device,
            dtype=how.dtype,
            attention=how.attention,
            compile_transformer=how.compile_transformer,
            parallel=how.parallel,
        )

    def foresee_memory(
        self,
        entry: ModelEntry,
        task: SegmentTask,
        costs: MemoryCosts,
        device: DeviceMemory,
        *,
        gang_size: int | None,
    ) -> ForeseenMemory:
        size = gang_size or 1
        require_one_machine(size, device.num_devices)
        height, width = padded_size(task.geometry, entry.swiftvr)
        facts = _swiftvr_facts(entry.swiftvr, device.dtype)
        # A rank has whole chunks, and so it needs what one device needs.
        return ForeseenMemory(plan_swiftvr_memory(facts, costs, height, width, device.free_bytes).stages.peak, size)

    def memory_source(self, costs: MemoryCosts) -> str:
        return SOURCE


class _FilterFamily:
    def require_settings(self, settings: RestoreSettings) -> None:
        pass

    def identify(self, entry: ModelEntry, hashes: Mapping[Role, str], dtype: torch.dtype) -> RestorerIdentity:
        return LANCZOS

    def load(self, entry: ModelEntry, files: Mapping[Role, FoundFile], how: Loading) -> Restorer:
        return LanczosRestorer()

    def foresee_memory(
        self,
        entry: ModelEntry,
        task: SegmentTask,
        costs: MemoryCosts,
        device: DeviceMemory,
        *,
        gang_size: int | None,
    ) -> None:
        return None

    def memory_source(self, costs: MemoryCosts) -> str:
        return costs.source


@lru_cache(maxsize=8)
def _swiftvr_facts(config: SwiftVRConfig, dtype: torch.dtype) -> SwiftVRFacts:
    return foresee_swiftvr(config, dtype)


@lru_cache(maxsize=8)
def facts_of(config: SeedVR2Config, kind: str, dtype: torch.dtype) -> ModelFacts:
    """Return what a restorer would know of its loaded networks, from their configuration alone."""
    # Shapes without numbers: sizes are known from the configuration alone.
    options = fastest_options(kind)
    with torch.device("meta"):
        transformer, vae = SeedVR2Transformer(config.transformer), VideoVAE(config.vae, options)
        for network in (transformer, vae):
            for name, tensor in (*network.named_parameters(), *network.named_buffers()):
                tensor.data = tensor.data.to(parameter_dtype(dtype, name))
        # What a restorer derives from weights is as large as on a device.
        fold_timestep(transformer)
        for module in vae.modules():
            if isinstance(module, Upsampler) and options.fused_upsampler:
                module.fuse()
    return describe_model(transformer, vae, options, dtype=dtype, anchor_rows=config.anchor_rows)
