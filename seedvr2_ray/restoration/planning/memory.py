"""What fits into memory, decided before anything is allocated.

Two kinds of knobs. Exact ones do not change the picture and are turned freely, fastest setting first. Inexact ones do;
they are part of a segment's address, so a machine that needs them says so instead of turning them by itself.

Units: bytes, and padded output pixels of one frame.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

from seedvr2_ray.errors import CapacityError
from seedvr2_ray.models.seedvr2.config import DiTConfig
from seedvr2_ray.models.seedvr2.vae.config import VAEConfig
from seedvr2_ray.restoration.diffusion.chunks import frames_for_latents, latents_for_frames

_SUGGESTED_TILES = (1536, 1024, 768, 512, 256)
"""Tried from large to small where nothing else fits: the smaller the tile, the more it changes the picture."""
_TABLE = Path(__file__).parent / "memory_costs.json"
_GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryCosts:
    """What one kind of device needs, as multiples of the sizes of a model's own tensors."""

    source: str
    """Where the numbers come from: a measurement with its date, or what they are estimated from."""
    encode_tensors: float
    """Activations in flight per frame while encoding, in tensors of the first level's width at full size."""
    decode_tensors: float
    """The same while decoding, in tensors of the second level's width at full size."""
    token_tensors: float
    """Transformer: what exists for every token at once, in vectors of the model's width."""
    band_tensors: float
    """Transformer: what exists for the tokens of a band, in vectors of the MLP's width."""
    frame_tensors: float
    """Beside the networks: float32 pictures per frame of a slice, for scaling, colour and rounding."""
    workspace_bytes: int
    """Kernels' scratch space and what the allocator loses to fragments."""
    reserve_share: float
    """Share of the free memory that is left alone."""

    @classmethod
    def for_device(cls, device_name: str) -> Self:
        """Return what is stored for a device, by the longest name that occurs in its own.

        Args:
            device_name: ``cpu``, or as CUDA reports it: ``NVIDIA H200``.
        """
        table = json.loads(_TABLE.read_text())
        matching = [name for name in table if name.lower() in device_name.lower()]
        return cls(**table[max(matching, key=len, default="default")])


@dataclass(frozen=True, kw_only=True, slots=True)
class ExactKnobs:
    """How a segment is computed without a change to what is computed."""

    slice_groups: int
    """Groups of ``temporal_stride`` frames that go through the VAE at once."""
    frames_in_flight: int | None
    """Frames per step at the VAE's large levels; None takes the whole slice."""
    bands: int
    """Horizontal bands that each convolution of the VAE is cut into."""
    band_tokens: int
    """Tokens per step inside the transformer's layers."""
    encode_first: bool
    """Encode the whole segment before restoring any of it: the encoder's memory of the past is then
    gone before the decoder's begins, and the source's frames wait in host memory instead."""
    offload: bool
    """Keep the network that is not at work in host memory."""


_STREAMING = ExactKnobs(
    slice_groups=4, frames_in_flight=None, bands=1, band_tokens=131_072, encode_first=False, offload=False
)
_ENCODE_FIRST = replace(_STREAMING, slice_groups=1, encode_first=True)
_SMALL_STEPS = replace(_ENCODE_FIRST, frames_in_flight=1, band_tokens=32_768)
LADDER = (
    _STREAMING,
    replace(_STREAMING, slice_groups=2),
    replace(_STREAMING, slice_groups=1),
    replace(_STREAMING, slice_groups=1, frames_in_flight=2),
    _ENCODE_FIRST,
    replace(_ENCODE_FIRST, frames_in_flight=2),
    _SMALL_STEPS,
    replace(_SMALL_STEPS, offload=True),
    replace(_SMALL_STEPS, offload=True, band_tokens=8_192, bands=4),
)
"""From fast to small."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryDemand:
    """A segment and the networks that will restore it."""

    transformer: DiTConfig
    vae: VAEConfig
    transformer_bytes: int
    """Of the weights as loaded."""
    vae_bytes: int
    encode_cache_bytes: float
    """What the encoder remembers between slices, per pixel."""
    decode_cache_bytes: float
    item_bytes: int
    """Of one number while computing: 2 for bfloat16."""
    padded_height: int
    padded_width: int
    num_frames: int
    chunk_frames: int
    chunk_overlap: int
    vae_tile: int = 0
    """Side of the VAE's tiles; 0 takes frames whole."""

    @property
    def pixels(self) -> int:
        """Of one padded frame."""
        return self.padded_height * self.padded_width

    @property
    def is_tiled(self) -> bool:
        """Whether the VAE sees less than a frame at a time."""
        return 0 < self.vae_tile < max(self.padded_height, self.padded_width)

    @property
    def vae_pixels(self) -> int:
        """Of what the VAE sees of a frame at a time."""
        if not self.is_tiled:
            return self.pixels
        return min(self.vae_tile, self.padded_height) * min(self.vae_tile, self.padded_width)

    @property
    def num_latents(self) -> int:
        """Of the whole segment."""
        return latents_for_frames(self.num_frames, self.vae.temporal_stride)

    @property
    def chunk_latents(self) -> int:
        """Of one chunk."""
        return min(self.num_latents, latents_for_frames(self.chunk_frames, self.vae.temporal_stride))


@dataclass(frozen=True, kw_only=True, slots=True)
class StageBytes:
    """Peak of each stage, weights included."""

    encode: int
    transform: int
    decode: int

    @property
    def peak(self) -> int:
        """Of the stage that needs most."""
        return max(self.encode, self.transform, self.decode)


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """What was decided for one segment; plain numbers, for provenance and logs."""

    knobs: ExactKnobs
    chunk_frames: int
    """The asked length, unless only a shorter one fits and the caller allowed that."""
    stages: StageBytes
    available_bytes: int
    changes: tuple[str, ...]
    """Inexact knobs that were turned, in words; empty means the picture is the one that was asked for."""


def plan_memory(
    demand: MemoryDemand,
    costs: MemoryCosts,
    available_bytes: int,
    *,
    may_offload: bool,
    may_change_picture: bool = False,
    skip: int = 0,
) -> MemoryPlan:
    """Choose the fastest way to restore a segment that fits.

    Args:
        available_bytes: what is free on the device, plus what the networks' weights occupy on it already.
        may_offload: whether there is another memory to move weights to.
        may_change_picture: also try shorter chunks; each differs slightly in its picture.
        skip: leave out so many of the fastest exact settings that fit: used after one of them failed.

    Raises:
        CapacityError: nothing fits; names what is needed, what there is, and what would fit.
    """
    usable = int(available_bytes * (1 - costs.reserve_share))
    for candidate in _chunk_lengths(demand):
        if candidate.chunk_frames != demand.chunk_frames and not may_change_picture:
            break
        fitting = list(_fitting(candidate, costs, usable, may_offload=may_offload))[skip:]
        if fitting:
            knobs, stages = fitting[0]
            return MemoryPlan(
                knobs=knobs,
                chunk_frames=candidate.chunk_frames,
                stages=stages,
                available_bytes=available_bytes,
                changes=_describe_change(demand, candidate),
            )
    raise CapacityError(_explain(demand, costs, usable, may_offload=may_offload))


def predict(demand: MemoryDemand, costs: MemoryCosts, knobs: ExactKnobs) -> StageBytes:
    """Return what each stage will need at its peak with given knobs."""
    stride = demand.vae.temporal_stride
    slice_frames = min(knobs.slice_groups * stride + 1, frames_for_latents(demand.num_latents, stride))
    in_flight = min(slice_frames, knobs.frames_in_flight or slice_frames)
    is_one_step = in_flight >= frames_for_latents(demand.num_latents, stride)
    encode_cache, decode_cache = (
        0 if is_one_step else per_pixel * demand.vae_pixels
        for per_pixel in (demand.encode_cache_bytes, demand.decode_cache_bytes)
    )
    widths = demand.vae.block_out_channels
    per_tensor = demand.vae_pixels * demand.item_bytes * in_flight / knobs.bands
    encode = costs.encode_tensors * widths[0] * per_tensor
    decode = costs.decode_tensors * widths[min(1, len(widths) - 1)] * per_tensor
    pictures = costs.frame_tensors * demand.pixels * 3 * 4 * slice_frames
    latents = 2 * 4 * demand.num_latents * demand.vae.latent_channels * demand.pixels / demand.vae.spatial_stride**2
    held = latents + costs.workspace_bytes
    vae_resident = demand.vae_bytes + (0 if knobs.offload else demand.transformer_bytes)
    transformer_resident = demand.transformer_bytes + (0 if knobs.offload else demand.vae_bytes)
    # Streaming alternates between the stages, so both caches exist at once. A tile runs through the whole segment
    # by itself: nothing of it is left for the other stages, but all its frames are held.
    alternates = not demand.is_tiled
    encoders_past = encode_cache if alternates and not knobs.encode_first else 0
    decoders_past = decode_cache if alternates and not knobs.offload else 0
    decoder_waits = alternates and not knobs.encode_first
    tile_frames = frames_for_latents(demand.num_latents, stride) if demand.is_tiled else 0
    tile_clip = 2 * 3 * demand.item_bytes * demand.vae_pixels * tile_frames
    return StageBytes(
        encode=round(
            vae_resident + held + encode_cache + (decode_cache if decoder_waits else 0) + encode + pictures + tile_clip
        ),
        transform=round(
            transformer_resident + held + encoders_past + decoders_past + _transformer_activations(demand, costs, knobs)
        ),
        decode=round(vae_resident + held + encoders_past + decode_cache + decode + pictures + tile_clip),
    )


def _transformer_activations(demand: MemoryDemand, costs: MemoryCosts, knobs: ExactKnobs) -> float:
    config = demand.transformer
    tokens = demand.chunk_latents * demand.pixels / (demand.vae.spatial_stride * config.patch) ** 2
    whole = costs.token_tensors * tokens * config.width
    band = costs.band_tensors * min(tokens, knobs.band_tokens) * max(config.mlp_width, 3 * config.inner_width)
    return (whole + band) * demand.item_bytes


def _fitting(
    demand: MemoryDemand, costs: MemoryCosts, usable: int, *, may_offload: bool
) -> Iterator[tuple[ExactKnobs, StageBytes]]:
    for knobs in LADDER:
        if knobs.offload and not may_offload:
            continue
        stages = predict(demand, costs, knobs)
        if stages.peak <= usable:
            yield knobs, stages


def _chunk_lengths(demand: MemoryDemand) -> Iterator[MemoryDemand]:
    """Yield the demand as it is, then with ever shorter chunks that still hold their overlap."""
    for chunk_frames in range(demand.chunk_frames, 0, -4):
        latents = latents_for_frames(chunk_frames, demand.vae.temporal_stride)
        if latents > demand.chunk_overlap:
            yield replace(demand, chunk_frames=chunk_frames)


def _describe_change(demand: MemoryDemand, chosen: MemoryDemand) -> tuple[str, ...]:
    if chosen.chunk_frames == demand.chunk_frames:
        return ()
    return (f"chunk_frames {demand.chunk_frames} -> {chosen.chunk_frames}, the longest that fits",)


def _explain(demand: MemoryDemand, costs: MemoryCosts, usable: int, *, may_offload: bool) -> str:
    smallest = [knobs for knobs in LADDER if may_offload or not knobs.offload][-1]
    needed = predict(demand, costs, smallest).peak
    size = f"{demand.padded_width}x{demand.padded_height}"
    text = (
        f"{size} in chunks of {demand.chunk_frames} frames needs {needed / _GIB:.1f} GiB "
        f"and {usable / _GIB:.1f} GiB can be used; "
    )
    ways_out = []
    for candidate in _chunk_lengths(demand):
        if any(_fitting(candidate, costs, usable, may_offload=may_offload)):
            ways_out.append(f"chunk_frames {candidate.chunk_frames}")
            break
    for tile in _SUGGESTED_TILES:
        if (not demand.vae_tile or tile < demand.vae_tile) and any(
            _fitting(replace(demand, vae_tile=tile), costs, usable, may_offload=may_offload)
        ):
            ways_out.append(f"vae_tile {tile}")
            break
    if ways_out:
        return f"{text}{' or '.join(ways_out)} would fit, and so would a smaller resolution"
    return f"{text}choose a smaller resolution or a device with more memory"


def costs_as_json(costs: MemoryCosts) -> dict[str, object]:
    """Return what the table stores, for a measurement that is to be added to it."""
    return {field.name: getattr(costs, field.name) for field in fields(costs)}
