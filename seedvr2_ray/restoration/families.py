"""What the loader and the planner ask of every family of models: SeedVR2's, SwiftVR's, and the filter's.

Nobody else asks of which family a model is: who restores sees a :class:`~seedvr2_ray.restoration.restorer.Restorer`.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol

import torch

from seedvr2_ray.models.backends import AttentionBackend
from seedvr2_ray.models.seedvr2.config import SeedVR2Config
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.vae.config import fastest_options
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE
from seedvr2_ray.models.swiftvr.config import SwiftVRConfig
from seedvr2_ray.models.weights.catalogue import ModelEntry, Role
from seedvr2_ray.models.weights.download import FoundFile
from seedvr2_ray.restoration.diffusion.load import identify_diffusion, load_diffusion
from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
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


class ModelFamily(Protocol):
    """Models that are loaded and planned alike."""

    def require_settings(self, settings: RestoreSettings) -> None:
        """Refuse what these models have no use for.

        Raises:
            SettingsError: names the setting and why.
        """

    def identify(self, entry: ModelEntry, hashes: Mapping[Role, str], dtype: torch.dtype) -> RestorerIdentity:
        """Say who a model is, from its files' SHA-256; loads nothing."""

    def load(
        self,
        entry: ModelEntry,
        files: Mapping[Role, FoundFile],
        *,
        device: torch.device,
        dtype: torch.dtype,
        attention: AttentionBackend,
        compile_transformer: bool,
    ) -> Restorer:
        """Load a model onto a device."""

    def foresee_memory(
        self,
        entry: ModelEntry,
        task: SegmentTask,
        costs: MemoryCosts,
        *,
        kind: str,
        dtype: torch.dtype,
        free_bytes: int,
    ) -> int | None:
        """Say how many bytes a segment needs at its peak on a device that holds nothing else.

        Args:
            kind: of the device, as torch says it.

        Returns:
            None where a few frames are all that is ever in memory.

        Raises:
            CapacityError: it does not fit.
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

    def load(
        self,
        entry: ModelEntry,
        files: Mapping[Role, FoundFile],
        *,
        device: torch.device,
        dtype: torch.dtype,
        attention: AttentionBackend,
        compile_transformer: bool,
    ) -> Restorer:
        return load_diffusion(
            entry, files, device=device, dtype=dtype, attention=attention, compile_transformer=compile_transformer
        )

    def foresee_memory(
        self,
        entry: ModelEntry,
        task: SegmentTask,
        costs: MemoryCosts,
        *,
        kind: str,
        dtype: torch.dtype,
        free_bytes: int,
    ) -> int:
        demand = describe_segment(task, _seedvr2_facts(entry.seedvr2, kind, dtype))
        return plan_memory(demand, costs, free_bytes, may_offload=kind != "cpu").stages.peak

    def memory_source(self, costs: MemoryCosts) -> str:
        return costs.source


class _SwiftVRFamily:
    def require_settings(self, settings: RestoreSettings) -> None:
        require_swiftvr_settings(settings)

    def identify(self, entry: ModelEntry, hashes: Mapping[Role, str], dtype: torch.dtype) -> RestorerIdentity:
        return identify_swiftvr(entry, hashes, dtype)

    def load(
        self,
        entry: ModelEntry,
        files: Mapping[Role, FoundFile],
        *,
        device: torch.device,
        dtype: torch.dtype,
        attention: AttentionBackend,
        compile_transformer: bool,
    ) -> Restorer:
        return load_swiftvr(
            entry, files, device=device, dtype=dtype, attention=attention, compile_transformer=compile_transformer
        )

    def foresee_memory(
        self,
        entry: ModelEntry,
        task: SegmentTask,
        costs: MemoryCosts,
        *,
        kind: str,
        dtype: torch.dtype,
        free_bytes: int,
    ) -> int:
        height, width = padded_size(task.geometry, entry.swiftvr)
        facts = _swiftvr_facts(entry.swiftvr, dtype)
        return plan_swiftvr_memory(facts, costs, height, width, free_bytes).stages.peak

    def memory_source(self, costs: MemoryCosts) -> str:
        return SOURCE


class _FilterFamily:
    def require_settings(self, settings: RestoreSettings) -> None:
        pass

    def identify(self, entry: ModelEntry, hashes: Mapping[Role, str], dtype: torch.dtype) -> RestorerIdentity:
        return LANCZOS

    def load(
        self,
        entry: ModelEntry,
        files: Mapping[Role, FoundFile],
        *,
        device: torch.device,
        dtype: torch.dtype,
        attention: AttentionBackend,
        compile_transformer: bool,
    ) -> Restorer:
        return LanczosRestorer()

    def foresee_memory(
        self,
        entry: ModelEntry,
        task: SegmentTask,
        costs: MemoryCosts,
        *,
        kind: str,
        dtype: torch.dtype,
        free_bytes: int,
    ) -> None:
        return None

    def memory_source(self, costs: MemoryCosts) -> str:
        return costs.source


@lru_cache(maxsize=8)
def _swiftvr_facts(config: SwiftVRConfig, dtype: torch.dtype) -> SwiftVRFacts:
    return foresee_swiftvr(config, dtype)


@lru_cache(maxsize=8)
def _seedvr2_facts(config: SeedVR2Config, kind: str, dtype: torch.dtype) -> ModelFacts:
    # Shapes without numbers: sizes are known from the configuration alone.
    with torch.device("meta"):
        transformer, vae = SeedVR2Transformer(config.transformer).to(dtype), VideoVAE(config.vae).to(dtype)
    return describe_model(transformer, vae, fastest_options(kind), dtype=dtype, anchor_rows=config.anchor_rows)
