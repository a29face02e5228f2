"""The stages of a diffusion model: encode, transform, decode.

Each stage is made for one segment and turns a stream into a stream. What a stage keeps on the device between two
pieces stands in its docstring; beyond that there are the piece it works on and the weights.

Inference mode stands at the steps and not around the streams: it would leak into the caller at every yield.

Shape letters: B clips, T frames or latents, C channels, H height, W width, L text tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from seedvr2_ray.models.seedvr2.sampler import sample
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.transformer.execution import Execution
from seedvr2_ray.models.seedvr2.vae.config import PLAIN, VAEOptions
from seedvr2_ray.models.seedvr2.vae.state import VAEState
from seedvr2_ray.models.seedvr2.vae.tiles import decode_tiled, encode_tiled
from seedvr2_ray.models.seedvr2.vae.video_vae import Posterior, VideoVAE
from seedvr2_ray.restoration.diffusion.finish import Stage, scaled_source
from seedvr2_ray.restoration.diffusion.finite import FiniteChecks
from seedvr2_ray.restoration.diffusion.frame_stream import SourceFrame, batched, regroup
from seedvr2_ray.restoration.diffusion.noise import latent_frame_number
from seedvr2_ray.restoration.diffusion.padding import pad_frames, pad_in_time
from seedvr2_ray.restoration.diffusion.placement import Placement
from seedvr2_ray.restoration.diffusion.ranks import InStep, PictureShare
from seedvr2_ray.restoration.diffusion.stitch import stitch_chunk
from seedvr2_ray.restoration.planning.chunks import Chunk, frames_behind
from seedvr2_ray.restoration.planning.segment_plan import SegmentPlan
from seedvr2_ray.restoration.restorer import SegmentTask

Given = TypeVar("Given")
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
    in_step: InStep
    """The ranks this machine restores with; it may be the only one."""

    def vae_options(self, plan: SegmentPlan, share: PictureShare) -> VAEOptions:
        """Return how the VAE computes for a segment: the machine's way or the plain one, in the steps that fit."""
        knobs = plan.memory.knobs
        options = PLAIN if plan.task.plain_path else self.model.vae.options
        in_flight = knobs.frames_in_flight or options.frames_in_flight
        most = self.model.vae.options.conv_elements
        most = most and min(most, knobs.conv_elements)
        # Tiles are small, and approximate: each rank does all of them.
        rows = share.rows if plan.tiling is None else None
        return replace(options, frames_in_flight=in_flight, conv_elements=most, rows=rows)

    def execution_for(self, plan: SegmentPlan) -> Execution:
        """Return how the transformer is carried out for a segment."""
        band_tokens = plan.memory.knobs.band_tokens
        if self.device.type == "cpu":
            band_tokens = min(band_tokens, _BAND_TOKENS_ON_CPU)
        execution = Execution(sharing=self.execution.sharing) if plan.task.plain_path else self.execution
        return replace(execution, band_tokens=band_tokens)

    def checking(self, task: SegmentTask) -> Callable[[], None]:
        """Return what is called between steps: it raises on all ranks when the job was cancelled on one."""
        return lambda: self.in_step.check(task.check_cancelled)

    def begin_step(self, plan: SegmentPlan, network: Network) -> None:
        """Have a network where it works, unless the job was cancelled."""
        self.in_step.check(plan.task.check_cancelled)
        self.placement.bring(network, alone=plan.memory.knobs.offload)


class EncodeStage:
    """Source frames to latents, slice by slice; keeps what the VAE's encoder remembers of the slice before.

    With tiles the whole segment is encoded at once, and its scaled frames wait in host memory.
    """

    def __init__(self, bench: Workbench, plan: SegmentPlan, checks: FiniteChecks, share: PictureShare) -> None:
        self._bench = bench
        self._plan = plan
        self._checks = checks
        self._share = share
        self._vae = bench.model.vae
        self._options = bench.vae_options(plan, share)
        self._state: VAEState | None = None

    def run(self, source: Iterable[SourceFrame]) -> Iterator[Tensor]:
        """Yield the segment's latents as the transformer takes them, float32 T x H x W x C per slice, on the device."""
        plan, stride = self._plan, self._vae.config.temporal_stride
        padded = pad_in_time(source, plan.task.known_frames, stride, "repeat" if plan.reference else "mirror")
        batches = batched(padded, 1 + plan.slice_latents * stride, plan.slice_latents * stride)
        if plan.tiling is not None:
            frames_BCTHW = torch.cat([self._clip(self._pictures(batch)).cpu() for batch in batches], dim=2)
            yield self._step(range(plan.task.known_frames), self._encode_tiles, frames_BCTHW)
            return
        first = 0
        for batch in batches:
            latents_THWC = self._step(range(first, first + len(batch)), self._encode_slice, batch)
            first += len(batch)
            if first == plan.padded_frames(stride):
                # The next stages may run before anybody asks for what comes after the last slice.
                self._state = None
            yield latents_THWC
            del latents_THWC

    def _step(self, frames: range, encode: Callable[[Given], Tensor], given: Given) -> Tensor:
        self._bench.begin_step(self._plan, "vae")
        with self._bench.watch("encode"):
            latents_THWC = encode(given)
            self._checks.ask("encode", frames, latents_THWC)
        return latents_THWC

    @torch.inference_mode()
    def _pictures(self, batch: Sequence[SourceFrame]) -> Tensor:
        """Return frames scaled and filled up, T x C x H x W."""
        padding, dtype = self._plan.padding, compute_dtype(self._vae)
        if not batch:  # fewer frames than ranks
            size = (padding.padded_height, padding.padded_width)
            return torch.zeros(0, 3, *size, dtype=dtype, device=self._bench.device)
        return pad_frames(scaled_source(self._bench, self._plan, batch), padding, black=-1.0).to(dtype)

    def _clip(self, pictures_TCHW: Tensor) -> Tensor:
        """Return frames as the VAE takes them, B x C x T x H x W."""
        return pictures_TCHW.transpose(0, 1)[None]

    @torch.inference_mode()
    def _encode_slice(self, batch: list[SourceFrame]) -> Tensor:
        share = self._share
        clip_BCTHW = self._clip(share.to_rows(self._pictures(share.frames(batch)), len(batch)))
        if self._plan.is_one_slice:
            return share.whole_latents(self._scaled(self._vae.encode(clip_BCTHW, options=self._options)))
        moments_BCTHW, self._state = self._vae.encode_slice(
            clip_BCTHW, self._state, overwrite=True, options=self._options
        )
        return share.whole_latents(self._scaled(Posterior.from_moments(moments_BCTHW)))

    @torch.inference_mode()
    def _encode_tiles(self, frames_BCTHW: Tensor) -> Tensor:
        assert self._plan.tiling is not None
        posterior = encode_tiled(
            self._vae,
            frames_BCTHW,
            self._plan.tiling,
            slice_frames=self._plan.slice_latents * self._vae.config.temporal_stride,
            options=self._options,
            check_cancelled=self._bench.checking(self._plan.task),
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
            check_cancelled=bench.checking(task),
        )


class DecodeStage:
    """Restored latents to pictures, slice by slice; keeps what the VAE's decoder remembers of the slice before.

    With tiles the whole segment is decoded at once, and its frames wait in host memory.
    """

    def __init__(self, bench: Workbench, plan: SegmentPlan, checks: FiniteChecks, share: PictureShare) -> None:
        self._bench = bench
        self._plan = plan
        self._checks = checks
        self._share = share
        self._vae = bench.model.vae
        self._options = bench.vae_options(plan, share)
        self._state: VAEState | None = None

    def run(self, latents: Iterator[Tensor]) -> Iterator[Tensor]:
        """Yield restored pictures T x 3 x H x W in about -1..1 on the device, this rank's rows of them."""
        plan = self._plan
        if plan.tiling is not None:
            frames_TCHW = self._step(0, self._decode_tiles, torch.cat(list(latents)))
            for clip_TCHW in torch.split(frames_TCHW, plan.slice_latents * self._vae.config.temporal_stride):
                self._bench.in_step.check(plan.task.check_cancelled)
                yield self._share.rows_of(clip_TCHW).to(self._bench.device)
            return
        first = 0
        for slice_THWC in regroup(latents, 1 + plan.slice_latents, plan.slice_latents):
            clip_TCHW = self._step(first, self._decode_slice, slice_THWC)
            first += len(clip_TCHW)
            if first == plan.padded_frames(self._vae.config.temporal_stride):
                self._state = None
            yield clip_TCHW
            # What comes next is made while this name would still hold what has left.
            del clip_TCHW

    def _step(self, first: int, decode: Callable[[Tensor], Tensor], latents_THWC: Tensor) -> Tensor:
        self._bench.begin_step(self._plan, "vae")
        with self._bench.watch("decode"):
            clip_TCHW = decode(latents_THWC)
            self._checks.ask("decode", range(first, first + len(clip_TCHW)), clip_TCHW)
        return clip_TCHW

    @torch.inference_mode()
    def _decode_slice(self, latents_THWC: Tensor) -> Tensor:
        latents_BCTHW = self._unscaled(self._share.latents(latents_THWC))
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
            check_cancelled=self._bench.checking(self._plan.task),
        )
        return frames_BCTHW[0].transpose(0, 1)

    def _unscaled(self, latents_THWC: Tensor) -> Tensor:
        return self._vae.unscale(latents_THWC).to(compute_dtype(self._vae)).permute(3, 0, 1, 2)[None]


def compute_dtype(vae: VideoVAE) -> torch.dtype:
    """Return what a VAE takes and computes in."""
    return vae.decoder.conv_in.weight.dtype
