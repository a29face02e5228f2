"""How one segment will be restored by a diffusion model: decided before its first frame is decoded."""

from dataclasses import dataclass

import torch

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.models.seedvr2.config import DiTConfig
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.vae.config import VAEConfig, VAEOptions
from seedvr2_ray.models.seedvr2.vae.costs import decoder_cache_bytes_per_pixel, encoder_cache_bytes_per_pixel
from seedvr2_ray.models.seedvr2.vae.tiles import Tiling
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE
from seedvr2_ray.restoration.planning.chunks import Chunk, frames_for_latents, latents_for_frames, plan_chunks
from seedvr2_ray.restoration.planning.memory import MemoryDemand, MemoryPlan
from seedvr2_ray.restoration.planning.padding import SpatialPadding, plan_padding
from seedvr2_ray.restoration.planning.reference_size import ReferenceSize, reference_size
from seedvr2_ray.restoration.restorer import SegmentTask


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """What a plan must know about loaded networks: numbers only."""

    transformer: DiTConfig
    vae: VAEConfig
    transformer_bytes: int
    vae_bytes: int
    encode_cache_bytes: float
    """What the encoder remembers between slices, per pixel."""
    decode_cache_bytes: float
    item_bytes: int
    cuts_convolutions: bool
    """Whether the VAE does large convolutions in bands of rows."""
    anchor_rows: int

    @property
    def multiple(self) -> int:
        """Pixels that padded sides are multiples of."""
        return self.vae.spatial_stride * self.transformer.patch


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentPlan:
    """Everything decided about one segment before its first frame is decoded."""

    task: SegmentTask
    reference: ReferenceSize | None
    padding: SpatialPadding
    chunks: tuple[Chunk, ...]
    memory: MemoryPlan
    tiling: Tiling | None
    """None takes frames whole, also those that fit into one tile."""
    is_one_slice: bool
    """The whole segment goes through the VAE at once, which then need not remember anything."""
    slice_latents: int

    def padded_frames(self, temporal_stride: int) -> int:
        """Return how many frames go through the VAE, those that fill the last latent included."""
        return frames_for_latents(self.chunks[-1].stop, temporal_stride)


def describe_model(
    transformer: SeedVR2Transformer, vae: VideoVAE, options: VAEOptions, *, dtype: torch.dtype, anchor_rows: int
) -> ModelFacts:
    """Collect what plans need to know about networks."""
    return ModelFacts(
        transformer=transformer.config,
        vae=vae.config,
        transformer_bytes=weight_bytes(transformer),
        vae_bytes=weight_bytes(vae),
        encode_cache_bytes=encoder_cache_bytes_per_pixel(vae.config, dtype.itemsize),
        decode_cache_bytes=decoder_cache_bytes_per_pixel(
            vae.config, dtype.itemsize, fused_upsampler=options.fused_upsampler
        ),
        item_bytes=dtype.itemsize,
        cuts_convolutions=options.conv_elements is not None,
        anchor_rows=anchor_rows,
    )


def describe_segment(task: SegmentTask, facts: ModelFacts, num_ranks: int = 1) -> MemoryDemand:
    """Say what a segment asks of memory, before it is known what there is.

    Args:
        num_ranks: GPUs that restore it together.

    Raises:
        SettingsError: nobody knows how many frames there are. All chunks have one length, so the last reaches back.
    """
    settings = task.settings
    padding = _plan_padding(task, facts)
    return MemoryDemand(
        transformer=facts.transformer,
        vae=facts.vae,
        transformer_bytes=facts.transformer_bytes,
        vae_bytes=facts.vae_bytes,
        encode_cache_bytes=facts.encode_cache_bytes,
        decode_cache_bytes=facts.decode_cache_bytes,
        item_bytes=facts.item_bytes,
        cuts_convolutions=facts.cuts_convolutions,
        padded_height=padding.padded_height,
        padded_width=padding.padded_width,
        num_frames=task.known_frames,
        chunk_frames=task.known_frames if settings.reference else settings.chunk_frames,
        chunk_overlap=0 if settings.reference else settings.chunk_overlap,
        vae_tile=settings.vae_tile,
        num_ranks=num_ranks,
    )


def plan_segment(task: SegmentTask, facts: ModelFacts, memory: MemoryPlan) -> SegmentPlan:
    """Settle sizes and chunks.

    Raises:
        SettingsError: the settings contradict the geometry.
    """
    stride = facts.vae.temporal_stride
    num_latents = latents_for_frames(task.known_frames, stride)
    chunk_latents = latents_for_frames(memory.chunk_frames, stride)
    overlap = 0 if task.settings.reference else min(task.settings.chunk_overlap, chunk_latents - 1)
    padding = _plan_padding(task, facts)
    return SegmentPlan(
        task=task,
        reference=_plan_reference(task) if task.settings.reference else None,
        padding=padding,
        chunks=plan_chunks(num_latents, chunk_latents, overlap),
        memory=memory,
        tiling=_plan_tiling(task.settings.vae_tile, padding),
        is_one_slice=num_latents <= 1 + memory.knobs.slice_groups,
        slice_latents=memory.knobs.slice_groups,
    )


def weight_bytes(module: torch.nn.Module) -> int:
    """Return what a network occupies: its weights, and what was derived from them."""
    tensors = (*module.parameters(), *module.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _plan_padding(task: SegmentTask, facts: ModelFacts) -> SpatialPadding:
    mode = "black" if task.settings.reference else task.settings.padding
    return plan_padding(task.geometry.height, task.geometry.width, facts.multiple, mode, anchor_rows=facts.anchor_rows)


def _plan_tiling(side: int, padding: SpatialPadding) -> Tiling | None:
    return Tiling.square(side) if 0 < side < max(padding.padded_height, padding.padded_width) else None


def _plan_reference(task: SegmentTask) -> ReferenceSize:
    geometry = task.geometry
    size = reference_size(geometry.source_height, geometry.source_width, task.settings.resolution)
    if (size.height, size.width) != (geometry.height, geometry.width):
        raise SettingsError(
            f"the published script makes {size.width}x{size.height} of {geometry.source_width}x"
            f"{geometry.source_height} and the plan asks for {geometry.width}x{geometry.height}; plan with "
            "reference_geometry, or leave reference out"
        )
    return size
