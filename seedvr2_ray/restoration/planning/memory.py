"""What fits into memory, decided before anything is allocated.

Two kinds of knobs. Exact ones do not change the picture and are turned freely, fastest setting first. Inexact ones do;
they are part of a segment's address, so a machine that needs them says so instead of turning them by itself.

Units: bytes, and padded output pixels of one frame.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from seedvr2_ray.errors import DeviceMemoryError
from seedvr2_ray.models.seedvr2.config import DiTConfig
from seedvr2_ray.models.seedvr2.transformer.memory import transform_bytes
from seedvr2_ray.models.seedvr2.vae.config import VAEConfig
from seedvr2_ray.models.seedvr2.vae.memory import Work, decode_bytes, encode_bytes
from seedvr2_ray.restoration.planning.chunks import frames_for_latents, latents_for_frames
from seedvr2_ray.restoration.planning.schedule import Lengths, Step, distinct_steps

_SUGGESTED_TILES = (1536, 1024, 768, 512, 256)
"""Tried from large to small where nothing else fits: the smaller the tile, the more it changes the picture."""
_TABLE = Path(__file__).parent / "memory_costs.json"
_GIB = 2**30
_WHOLE = 2**62
"""More elements than any convolution has."""
_MOST_FINISHED = 1
"""Alpha and codes of 16 bits take a picture more per frame, and matching colours as much as one frame more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryCosts:
    """What one kind of device needs, as multiples of the sizes of a model's own tensors."""

    source: str
    """Where the numbers come from: a measurement with its date, or what they are estimated from."""
    slack: float
    """What is counted of the networks' activations is multiplied by it: for what a count leaves out."""
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
    conv_elements: int
    """Most elements of a convolution's input or output in the VAE; larger ones are done in bands of rows."""
    band_tokens: int
    """Tokens per step inside the transformer's layers."""
    encode_first: bool
    """Encode the whole segment before restoring any of it: the encoder's memory of the past is then
    gone before the decoder's begins, and the source's frames wait in host memory instead."""
    offload: bool
    """Keep the network that is not at work in host memory."""


_STREAMING = ExactKnobs(
    slice_groups=4,
    frames_in_flight=None,
    conv_elements=2**29,
    band_tokens=131_072,
    encode_first=False,
    offload=False,
)
_ENCODE_FIRST = replace(_STREAMING, slice_groups=1, encode_first=True)
_SMALL_STEPS = replace(_ENCODE_FIRST, frames_in_flight=1, conv_elements=2**28, band_tokens=32_768)
LADDER = (
    _STREAMING,
    replace(_STREAMING, slice_groups=2),
    replace(_STREAMING, slice_groups=1),
    replace(_STREAMING, slice_groups=1, frames_in_flight=2),
    _ENCODE_FIRST,
    replace(_ENCODE_FIRST, frames_in_flight=2),
    _SMALL_STEPS,
    replace(_SMALL_STEPS, offload=True),
    replace(_SMALL_STEPS, offload=True, band_tokens=8_192, conv_elements=2**26),
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
    cuts_convolutions: bool
    """Whether the VAE honours :attr:`ExactKnobs.conv_elements`; a CPU's way does not."""
    padded_height: int
    padded_width: int
    num_frames: int
    chunk_frames: int
    chunk_overlap: int
    vae_tile: int = 0
    """Side of the VAE's tiles; 0 takes frames whole."""
    num_ranks: int = 1
    """GPUs that restore the segment together. What is predicted is that of the one with most rows."""

    @property
    def own_height(self) -> int:
        """Rows of a padded frame that one rank's VAE works on: whole rows of latents, shared evenly."""
        stride = self.vae.spatial_stride
        return -(-(self.padded_height // stride) // self.num_ranks) * stride

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
            return self.own_height * self.padded_width
        return min(self.vae_tile, self.padded_height) * min(self.vae_tile, self.padded_width)

    @property
    def num_latents(self) -> int:
        """Of the whole segment."""
        return latents_for_frames(self.num_frames, self.vae.temporal_stride)

    @property
    def chunk_latents(self) -> int:
        """Of one chunk."""
        return min(self.num_latents, latents_for_frames(self.chunk_frames, self.vae.temporal_stride))

    def lengths(self, knobs: ExactKnobs) -> Lengths:
        """Return what decides in which order slices and chunks run; tiles are whole segments, and run before others."""
        return Lengths(
            num_latents=self.num_latents,
            slice_latents=knobs.slice_groups,
            chunk_latents=self.chunk_latents,
            chunk_overlap=min(self.chunk_overlap, self.chunk_latents - 1),
            encode_first=knobs.encode_first or self.is_tiled,
            decode_last=knobs.offload or self.is_tiled,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StageBytes:
    """Peak of each stage, weights included."""

    encode: int
    transform: int
    decode: int
    finish: int

    @property
    def peak(self) -> int:
        """Of the stage that needs most."""
        return max(self.encode, self.transform, self.decode, self.finish)


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


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryLesson:
    """Memory that ran out although a plan fitted: kept for the process, so that nothing as large is planned again."""

    knobs: ExactKnobs
    stage: str | None
    """At work then; None between stages, while networks moved."""
    planned_bytes: int
    """For that stage; for all of them between stages."""

    def speaks_against(self, knobs: ExactKnobs, stages: StageBytes) -> bool:
        """Whether a way is as large as the one that failed, and no smaller in its steps."""
        needed = stages.peak if self.stage is None else int(getattr(stages, self.stage))
        is_later = self.knobs not in LADDER or LADDER.index(knobs) > LADDER.index(self.knobs)
        return needed >= self.planned_bytes and not is_later


def _describe_lesson(lessons: Sequence[MemoryLesson]) -> str:
    if not lessons:
        return ""
    last = lessons[-1]
    where = "while networks were moved" if last.stage is None else f"in the stage {last.stage!r}"
    return f", but memory ran out {where} with {last.planned_bytes / _GIB:.1f} GiB planned"


def plan_memory(
    demand: MemoryDemand,
    costs: MemoryCosts,
    available_bytes: int,
    *,
    may_offload: bool,
    may_change_picture: bool = False,
    lessons: Sequence[MemoryLesson] = (),
) -> MemoryPlan:
    """Choose the fastest way to restore a segment that fits.

    Args:
        available_bytes: what is free on the device, plus what the networks' weights occupy on it already.
        may_offload: whether there is another memory to move weights to.
        may_change_picture: also try shorter chunks; each differs slightly in its picture.
        lessons: where memory ran out before although it should have been enough.

    Raises:
        DeviceMemoryError: nothing fits; names what is needed, what there is, and what would fit.
    """
    usable = _usable_bytes(costs, available_bytes)
    for candidate in _chunk_lengths(demand):
        if candidate.chunk_frames != demand.chunk_frames and not may_change_picture:
            break
        for knobs, stages in _fitting(candidate, costs, usable, may_offload=may_offload):
            if any(lesson.speaks_against(knobs, stages) for lesson in lessons):
                continue
            return MemoryPlan(
                knobs=knobs,
                chunk_frames=candidate.chunk_frames,
                stages=stages,
                available_bytes=available_bytes,
                changes=_describe_change(demand, candidate),
            )
    raise DeviceMemoryError(_explain(demand, costs, usable, may_offload=may_offload, lessons=lessons))


def fits(demand: MemoryDemand, costs: MemoryCosts, available_bytes: int, *, may_offload: bool) -> bool:
    """Say whether :func:`plan_memory` finds a way, without looking for what would do instead."""
    return any(_fitting(demand, costs, _usable_bytes(costs, available_bytes), may_offload=may_offload))


def _usable_bytes(costs: MemoryCosts, available_bytes: int) -> int:
    return int(available_bytes * (1 - costs.reserve_share)) - costs.workspace_bytes


def predict(demand: MemoryDemand, costs: MemoryCosts, knobs: ExactKnobs) -> StageBytes:
    """Return what each stage will hold at its peak with given knobs, kernels' scratch space left out."""
    peaks = dict.fromkeys(("encode", "transform", "decode", "finish"), 0)
    for step in distinct_steps(demand.lengths(knobs)):
        for stage, needed in _step_bytes(demand, costs, knobs, step).items():
            peaks[stage] = max(peaks[stage], round(needed))
    return StageBytes(**peaks)


def _step_bytes(demand: MemoryDemand, costs: MemoryCosts, knobs: ExactKnobs, step: Step) -> dict[str, float]:
    """Return what one step holds; that of decoding also finishes what it decoded."""
    held = 2 * 4 * demand.num_latents * demand.vae.latent_channels * demand.pixels / demand.vae.spatial_stride**2
    past_of_encoder = demand.encode_cache_bytes * demand.vae_pixels * step.encoder_remembers
    past_of_decoder = demand.decode_cache_bytes * demand.vae_pixels * step.decoder_remembers
    if step.stage == "transform":
        grid = (demand.padded_height // demand.vae.spatial_stride, demand.padded_width // demand.vae.spatial_stride)
        activations = transform_bytes(
            demand.transformer,
            (step.num_latents, *grid),
            band_tokens=knobs.band_tokens,
            item_bytes=demand.item_bytes,
            num_ranks=demand.num_ranks,
        )
        network = demand.transformer_bytes + (0 if knobs.offload else demand.vae_bytes)
        past = 0.0 if demand.is_tiled else past_of_encoder + past_of_decoder
        return {"transform": network + held + past + costs.slack * activations}
    work, keeps = _work(demand, knobs, starts_clip=step.starts_clip), not demand.lengths(knobs).is_one_slice
    resident = demand.vae_bytes + (0 if knobs.offload else demand.transformer_bytes) + held
    num_frames = step.num_latents * demand.vae.temporal_stride
    if step.starts_clip:
        num_frames = frames_for_latents(step.num_latents, demand.vae.temporal_stride)
    # Whole frames, of which each rank has some; on the way to and from its rows they exist twice.
    own_frames = -(-num_frames // demand.num_ranks)
    pictures = (costs.frame_tensors + _MOST_FINISHED) * demand.pixels * 3 * 4 * (own_frames + _MOST_FINISHED)
    if demand.num_ranks > 1:
        pictures += 2 * 3 * 4 * demand.vae_pixels * num_frames
    tile_clip = 0
    if demand.is_tiled:
        # A tile runs through the whole segment by itself: nothing of it is left for other stages, but all its frames
        # are held.
        tile_clip = 2 * 3 * 4 * demand.vae_pixels * frames_for_latents(demand.num_latents, demand.vae.temporal_stride)
    if step.stage == "encode":
        encoding = costs.slack * encode_bytes(demand.vae, work, num_frames, keeps=keeps)
        other = 0.0 if demand.is_tiled else past_of_decoder
        return {"encode": resident + tile_clip + other + max(encoding, past_of_encoder + pictures)}
    decoding = costs.slack * decode_bytes(demand.vae, work, step.num_latents, keeps=keeps)
    other = 0.0 if demand.is_tiled else past_of_encoder
    own = demand.decode_cache_bytes * demand.vae_pixels * (not step.is_last and not demand.is_tiled)
    return {"decode": resident + tile_clip + other + decoding, "finish": resident + other + own + pictures}


def _work(demand: MemoryDemand, knobs: ExactKnobs, *, starts_clip: bool) -> Work:
    height, width = demand.own_height, demand.padded_width
    if demand.is_tiled:
        height, width = min(demand.vae_tile, height), min(demand.vae_tile, width)
    return Work(
        height=height,
        width=width,
        item_bytes=demand.item_bytes,
        conv_elements=knobs.conv_elements if demand.cuts_convolutions else _WHOLE,
        frames_in_flight=knobs.frames_in_flight,
        starts_clip=starts_clip,
        num_ranks=1 if demand.is_tiled else demand.num_ranks,
    )


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


def _explain(
    demand: MemoryDemand, costs: MemoryCosts, usable: int, *, may_offload: bool, lessons: Sequence[MemoryLesson]
) -> str:
    smallest = [knobs for knobs in LADDER if may_offload or not knobs.offload][-1]
    stages = predict(demand, costs, smallest)
    needed = stages.peak
    stage = max(("encode", "transform", "decode", "finish"), key=lambda name: int(getattr(stages, name)))
    size = f"{demand.padded_width}x{demand.padded_height}"
    text = (
        f"{size} in chunks of {demand.chunk_frames} frames needs {needed / _GIB:.1f} GiB "
        f"(in the stage {stage!r}) and {usable / _GIB:.1f} GiB can be used{_describe_lesson(lessons)}; "
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
