"""The stages of a diffusion model: encode, transform, decode, and finishing what leaves.

Each stage is made for one segment and turns a stream into a stream. What a stage keeps on the device between two
pieces stands in its docstring; beyond that there are the piece it works on and the weights.

Inference mode stands at the steps and not around the streams: it would leak into the caller at every yield.

Shape letters: B clips, T frames or latents, C channels, H height, W width, L text tokens.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor

from seedvr2_ray.frames import Frames, to_codes, to_unit_range
from seedvr2_ray.models.seedvr2.sampler import sample
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.transformer.execution import Execution
from seedvr2_ray.models.seedvr2.vae.config import PLAIN, VAEOptions
from seedvr2_ray.models.seedvr2.vae.state import VAEState
from seedvr2_ray.models.seedvr2.vae.tiles import decode_tiled, encode_tiled
from seedvr2_ray.models.seedvr2.vae.video_vae import Posterior, VideoVAE
from seedvr2_ray.restoration.colour.alpha import fill_transparent, scale_alpha
from seedvr2_ray.restoration.colour.colour_match import match_colour, wavelet_original
from seedvr2_ray.restoration.diffusion.chunks import Chunk, frames_behind
from seedvr2_ray.restoration.diffusion.finite import FiniteChecks
from seedvr2_ray.restoration.diffusion.frame_stream import SourceFrame, batched, regroup
from seedvr2_ray.restoration.diffusion.noise import latent_frame_number
from seedvr2_ray.restoration.diffusion.padding import crop_frames, pad_frames, pad_in_time
from seedvr2_ray.restoration.diffusion.placement import Placement
from seedvr2_ray.restoration.diffusion.preprocess import (
    from_model_range,
    preprocess_reference,
    resize_frames,
    to_model_range,
)
from seedvr2_ray.restoration.diffusion.stitch import stitch_chunk
from seedvr2_ray.restoration.planning.reference_size import ReferenceSize
from seedvr2_ray.restoration.planning.segment_plan import SegmentPlan
from seedvr2_ray.restoration.restorer import SegmentTask

Given = TypeVar("Given")
Stage = Literal["encode", "transform", "decode", "finish"]
"""Encoding includes scaling the source; finishing is colours, alpha, rounding and the way to the host."""
Network = Literal["vae", "transformer"]
_BAND_TOKENS_ON_CPU = 16_384
"""A CPU gains nothing from longer bands, and buffers of one size are used again where larger ones find no room."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusionModel:
    """The loaded networks of one catalogue entry."""

    transformer: SeedVR2Transformer
    vae: VideoVAE
    positive_LC: Tensor
    """Embedding of the fixed prompt."""
    negative_LC: Tensor
    """Of the prompt that guidance moves away from."""
    anchor_rows: int
    """See :func:`~seedvr2_ray.restoration.diffusion.padding.plan_padding`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workbench:
    """What every stage of every segment works with on this machine."""

    model: DiffusionModel
    device: torch.device
    placement: Placement[Network]
    execution: Execution
    draw: Callable[[int, list[int], tuple[int, int, int]], Tensor]
    """Makes noise from seed, frame numbers and latent size."""
    watch: Callable[[Stage], AbstractContextManager[object]]
    """Entered around every step of a stage, to measure it."""

    def vae_options(self, plan: SegmentPlan) -> VAEOptions:
        """Return how the VAE computes for a segment: the machine's way or the plain one, in the steps that fit."""
        knobs = plan.memory.knobs
        options = PLAIN if plan.task.plain_path else self.model.vae.options
        in_flight = knobs.frames_in_flight or options.frames_in_flight
        most = self.model.vae.options.conv_elements
        most = most and min(most, knobs.conv_elements)
        return replace(options, frames_in_flight=in_flight, conv_elements=most)

    def execution_for(self, plan: SegmentPlan) -> Execution:
        """Return how the transformer is carried out for a segment."""
        band_tokens = plan.memory.knobs.band_tokens
        if self.device.type == "cpu":
            band_tokens = min(band_tokens, _BAND_TOKENS_ON_CPU)
        return replace(Execution() if plan.task.plain_path else self.execution, band_tokens=band_tokens)

    def begin_step(self, plan: SegmentPlan, network: Network) -> None:
        """Have a network where it works, unless the job was cancelled."""
        plan.task.check_cancelled()
        self.placement.bring(network, alone=plan.memory.knobs.offload)


class EncodeStage:
    """Source frames to latents, slice by slice; keeps what the VAE's encoder remembers of the slice before.

    With tiles the whole segment is encoded at once, and its scaled frames wait in host memory.
    """

    def __init__(self, bench: Workbench, plan: SegmentPlan, checks: FiniteChecks) -> None:
        self._bench = bench
        self._plan = plan
        self._checks = checks
        self._vae = bench.model.vae
        self._options = bench.vae_options(plan)
        self._state: VAEState | None = None

    def run(self, source: Iterable[SourceFrame]) -> Iterator[Tensor]:
        """Yield the segment's latents as the transformer takes them, float32 T x H x W x C per slice, on the device."""
        plan, stride = self._plan, self._vae.config.temporal_stride
        padded = pad_in_time(source, plan.task.known_frames, stride, "repeat" if plan.reference else "mirror")
        batches = batched(padded, 1 + plan.slice_latents * stride, plan.slice_latents * stride)
        if plan.tiling is not None:
            frames_BCTHW = torch.cat([self._pictures(batch).cpu() for batch in batches], dim=2)
            yield self._step(range(plan.task.known_frames), self._encode_tiles, frames_BCTHW)
            return
        first = 0
        for batch in batches:
            yield self._step(range(first, first + len(batch)), self._encode_slice, batch)
            first += len(batch)
        self._state = None

    def _step(self, frames: range, encode: Callable[[Given], Tensor], given: Given) -> Tensor:
        self._bench.begin_step(self._plan, "vae")
        with self._bench.watch("encode"):
            latents_THWC = encode(given)
            self._checks.ask("encode", frames, latents_THWC)
        return latents_THWC

    @torch.inference_mode()
    def _pictures(self, batch: list[SourceFrame]) -> Tensor:
        """Return frames as the VAE takes them, B x C x T x H x W."""
        pictures_TCHW = pad_frames(scaled_source(self._bench, self._plan, batch), self._plan.padding, black=-1.0)
        return pictures_TCHW.to(compute_dtype(self._vae)).transpose(0, 1)[None]

    @torch.inference_mode()
    def _encode_slice(self, batch: list[SourceFrame]) -> Tensor:
        clip_BCTHW = self._pictures(batch)
        if self._plan.is_one_slice:
            return self._scaled(self._vae.encode(clip_BCTHW, options=self._options))
        moments_BCTHW, self._state = self._vae.encode_slice(
            clip_BCTHW, self._state, overwrite=True, options=self._options
        )
        return self._scaled(Posterior.from_moments(moments_BCTHW))

    @torch.inference_mode()
    def _encode_tiles(self, frames_BCTHW: Tensor) -> Tensor:
        assert self._plan.tiling is not None
        posterior = encode_tiled(
            self._vae,
            frames_BCTHW,
            self._plan.tiling,
            slice_frames=self._plan.slice_latents * self._vae.config.temporal_stride,
            options=self._options,
            check_cancelled=self._plan.task.check_cancelled,
        )
        return self._scaled(posterior)

    def _scaled(self, posterior: Posterior) -> Tensor:
        # Not the sampled latents of the published script: those would depend on who else drew random numbers.
        return self._vae.scale(posterior.mode.float())[0].permute(1, 2, 3, 0)


class TransformStage:
    """Latents to restored latents, chunk by chunk.

    Keeps the latents that the next chunk reads again, and the restored ones into which it will fade.
    """

    def __init__(self, bench: Workbench, plan: SegmentPlan, checks: FiniteChecks) -> None:
        self._bench = bench
        self._plan = plan
        self._checks = checks

    def run(self, latents: Iterator[Tensor]) -> Iterator[Tensor]:
        """Yield restored latents as soon as no later chunk will touch them, on the device."""
        plan, stride = self._plan, self._bench.model.vae.config.temporal_stride
        held_THWC, first = next(latents), 0
        tail_THWC: Tensor | None = None
        for chunk, after in zip(plan.chunks, [*plan.chunks[1:], None], strict=True):
            while first + len(held_THWC) < chunk.stop:
                held_THWC = torch.cat([held_THWC, next(latents)])
            held_THWC, first = held_THWC[chunk.start - first :], chunk.start
            self._bench.begin_step(plan, "transformer")
            with self._bench.watch("transform"):
                restored_THWC = self._transform_chunk(chunk, held_THWC[: len(chunk)])
                self._checks.ask("transform", frames_behind(chunk.start, chunk.stop, stride), restored_THWC)
            final_THWC, tail_THWC = stitch_chunk(tail_THWC, chunk, restored_THWC, after)
            yield final_THWC

    @torch.inference_mode()
    def _transform_chunk(self, chunk: Chunk, condition_THWC: Tensor) -> Tensor:
        bench, task, settings = self._bench, self._plan.task, self._plan.task.settings
        model, stride = bench.model, bench.model.vae.config.temporal_stride
        numbers = [latent_frame_number(task.first_frame, j, stride) for j in range(chunk.start, chunk.stop)]
        _, height, width, channels = condition_THWC.shape
        return sample(
            model.transformer,
            bench.draw(settings.seed, numbers, (height, width, channels)).to(bench.device),
            condition_THWC,
            model.positive_LC,
            model.negative_LC,
            steps=settings.sample_steps,
            cfg_scale=settings.cfg_scale,
            cfg_rescale=settings.cfg_rescale,
            execution=bench.execution_for(self._plan),
            check_cancelled=task.check_cancelled,
        )


class DecodeStage:
    """Restored latents to pictures, slice by slice; keeps what the VAE's decoder remembers of the slice before.

    With tiles the whole segment is decoded at once, and its frames wait in host memory.
    """

    def __init__(self, bench: Workbench, plan: SegmentPlan, checks: FiniteChecks) -> None:
        self._bench = bench
        self._plan = plan
        self._checks = checks
        self._vae = bench.model.vae
        self._options = bench.vae_options(plan)
        self._state: VAEState | None = None

    def run(self, latents: Iterator[Tensor]) -> Iterator[Tensor]:
        """Yield restored pictures T x 3 x H x W in about -1..1 on the device, the fill around them cut off."""
        plan = self._plan
        if plan.tiling is not None:
            frames_TCHW = self._step(0, self._decode_tiles, torch.cat(list(latents)))
            for clip_TCHW in torch.split(frames_TCHW, plan.slice_latents * self._vae.config.temporal_stride):
                plan.task.check_cancelled()
                yield crop_frames(clip_TCHW.to(self._bench.device), plan.padding)
            return
        first = 0
        for slice_THWC in regroup(latents, 1 + plan.slice_latents, plan.slice_latents):
            clip_TCHW = self._step(first, self._decode_slice, slice_THWC)
            first += len(clip_TCHW)
            yield crop_frames(clip_TCHW, plan.padding)
        self._state = None

    def _step(self, first: int, decode: Callable[[Tensor], Tensor], latents_THWC: Tensor) -> Tensor:
        self._bench.begin_step(self._plan, "vae")
        with self._bench.watch("decode"):
            clip_TCHW = decode(latents_THWC)
            self._checks.ask("decode", range(first, first + len(clip_TCHW)), clip_TCHW)
        return clip_TCHW

    @torch.inference_mode()
    def _decode_slice(self, latents_THWC: Tensor) -> Tensor:
        latents_BCTHW = self._unscaled(latents_THWC)
        if self._plan.is_one_slice:
            clip_BCTHW = self._vae.decode(latents_BCTHW, options=self._options)
        else:
            clip_BCTHW, self._state = self._vae.decode_slice(
                latents_BCTHW, self._state, overwrite=True, options=self._options
            )
        return clip_BCTHW[0].transpose(0, 1)

    @torch.inference_mode()
    def _decode_tiles(self, latents_THWC: Tensor) -> Tensor:
        """Return all frames of the segment, in host memory."""
        assert self._plan.tiling is not None
        frames_BCTHW = decode_tiled(
            self._vae,
            self._unscaled(latents_THWC),
            self._plan.tiling,
            slice_latents=self._plan.slice_latents,
            keep_on=torch.device("cpu"),
            options=self._options,
            check_cancelled=self._plan.task.check_cancelled,
        )
        return frames_BCTHW[0].transpose(0, 1)

    def _unscaled(self, latents_THWC: Tensor) -> Tensor:
        return self._vae.unscale(latents_THWC).to(compute_dtype(self._vae)).permute(3, 0, 1, 2)[None]


class FinishBench(Protocol):
    """What finishing works with, whichever kind of model decoded."""

    @property
    def device(self) -> torch.device:
        """Where pictures are decoded."""

    @property
    def watch(self) -> Callable[[Stage], AbstractContextManager[object]]:
        """Entered around every step of a stage, to measure it."""


class FinishPlan(Protocol):
    """What finishing must know about a segment, whichever kind of model decoded."""

    @property
    def task(self) -> SegmentTask:
        """What was asked for."""

    @property
    def reference(self) -> ReferenceSize | None:
        """How SeedVR2's published script would scale the source, where that is followed."""


class FinishStage:
    """Decoded pictures to the frames that leave; keeps nothing on the device."""

    def __init__(self, bench: FinishBench, plan: FinishPlan, checks: FiniteChecks, waiting: deque[SourceFrame]) -> None:
        """Begin a segment.

        Args:
            waiting: source frames that were encoded and whose pictures have not left yet, in host memory.
        """
        self._bench = bench
        self._plan = plan
        self._checks = checks
        self._waiting = waiting
        self._num_left = 0

    def run(self, decoded: Iterable[Tensor]) -> Iterator[Frames]:
        """Yield frames in host memory; the fill at the end of the clip is dropped."""
        for decoded_TCHW in decoded:
            with self._bench.watch("finish"):
                batch = [self._waiting.popleft() for _ in range(min(len(decoded_TCHW), len(self._waiting)))]
                frames = self._finish(decoded_TCHW[: len(batch)], batch) if batch else None
            # What comes next is made while this name would still hold what has left.
            del decoded_TCHW
            if frames is not None:
                self._num_left += len(frames)
                yield frames

    @torch.inference_mode()
    def _finish(self, decoded_TCHW: Tensor, batch: list[SourceFrame]) -> Frames:
        """Match colours, restore alpha and round."""
        plan, task = self._plan, self._plan.task
        decoded_TCHW = decoded_TCHW.float()
        if task.settings.colour_match != "none":
            source_TCHW = scaled_source(self._bench, plan, batch)
            if plan.reference is not None and task.settings.colour_match == "wavelet":
                decoded_TCHW = wavelet_original(decoded_TCHW, source_TCHW)
            else:
                decoded_TCHW = match_colour(decoded_TCHW, source_TCHW, task.settings.colour_match)
            self._checks.ask("colour match", range(self._num_left, self._num_left + len(batch)), decoded_TCHW)
        # Before the clamp, which would make white of infinity.
        self._checks.require()
        restored_TCHW = from_model_range(decoded_TCHW)
        if batch[0].codes_CHW.shape[0] == 4:
            alpha_T1HW = to_unit_range(torch.stack([frame.codes_CHW[3:] for frame in batch]).to(self._bench.device))
            restored_TCHW = torch.cat([restored_TCHW, scale_alpha(alpha_T1HW, restored_TCHW)], dim=1)
        codes = to_codes(restored_TCHW, torch.uint8 if task.output_depth == 8 else torch.uint16)
        return Frames(codes.cpu(), tuple(frame.pts for frame in batch), batch[0].time_base)


def source_colours(device: torch.device, batch: Sequence[SourceFrame]) -> Tensor:
    """Return the colours of source frames at their own size, float32 in 0..1; invisible pixels are filled."""
    codes_TCHW = torch.stack([frame.codes_CHW for frame in batch])
    unit_TCHW = to_unit_range(codes_TCHW.to(device))
    colours_TCHW = unit_TCHW[:, :3]
    return colours_TCHW if unit_TCHW.shape[1] == 3 else fill_transparent(colours_TCHW, unit_TCHW[:, 3:])


def scaled_source(bench: FinishBench, plan: FinishPlan, batch: list[SourceFrame]) -> Tensor:
    """Return the colours of source frames at the output's size, float32 in -1..1 on the device."""
    colours_TCHW = source_colours(bench.device, batch)
    if plan.reference is not None:
        return preprocess_reference(colours_TCHW, plan.reference)
    return to_model_range(resize_frames(colours_TCHW, plan.task.geometry.height, plan.task.geometry.width))


def compute_dtype(vae: VideoVAE) -> torch.dtype:
    """Return what a VAE takes and computes in."""
    return vae.decoder.conv_in.weight.dtype
