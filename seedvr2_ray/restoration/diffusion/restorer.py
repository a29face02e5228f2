"""Restoring a segment with a diffusion model, as a stream of slices and chunks.

Encode (VAE, slice by slice) -> transform (chunks that overlap) -> stitch (in latent space) -> decode (VAE, slice by
slice) -> colours of the source -> codes. Each step is a generator over the one before, so what exists at a time is
a chunk of latents and a slice of pictures, however long the segment is.

Shape letters: B clips, T frames or latents, C channels, H height, W width, L text tokens.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from seedvr2_ray.errors import CapacityError, DeploymentError
from seedvr2_ray.frames import Frames, to_codes, to_unit_range
from seedvr2_ray.models.backends import AttentionBackend
from seedvr2_ray.models.seedvr2.sampler import sample
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer, compile_layers, fold_timestep
from seedvr2_ray.models.seedvr2.transformer.execution import Execution
from seedvr2_ray.models.seedvr2.vae.config import PLAIN, VAEOptions
from seedvr2_ray.models.seedvr2.vae.state import VAEState
from seedvr2_ray.models.seedvr2.vae.tiles import decode_tiled, encode_tiled
from seedvr2_ray.models.seedvr2.vae.video_vae import Posterior, VideoVAE
from seedvr2_ray.restoration.colour.alpha import fill_transparent, scale_alpha
from seedvr2_ray.restoration.colour.colour_match import match_colour, wavelet_original
from seedvr2_ray.restoration.device import device_name, free_bytes, is_out_of_memory, release_memory
from seedvr2_ray.restoration.diffusion.chunks import Chunk
from seedvr2_ray.restoration.diffusion.frame_stream import (
    Rewindable,
    SourceFrame,
    batched,
    copy_to,
    regroup,
    split_frames,
)
from seedvr2_ray.restoration.diffusion.noise import draw_noise, latent_frame_number
from seedvr2_ray.restoration.diffusion.padding import crop_frames, pad_frames, pad_in_time
from seedvr2_ray.restoration.diffusion.placement import Placement
from seedvr2_ray.restoration.diffusion.preprocess import (
    from_model_range,
    preprocess_reference,
    resize_frames,
    to_model_range,
)
from seedvr2_ray.restoration.diffusion.stitch import stitch_chunk
from seedvr2_ray.restoration.planning.memory import MemoryCosts, plan_memory
from seedvr2_ray.restoration.planning.segment_plan import (
    SegmentPlan,
    describe_model,
    describe_segment,
    plan_segment,
)
from seedvr2_ray.restoration.restorer import RestorerIdentity, SegmentTask

Item = TypeVar("Item")
Stage = Literal["encode", "transform", "decode", "finish"]
"""Encoding includes scaling the source; finishing is colours, alpha, rounding and the way to the host."""
_GIB = 2**30
_BAND_TOKENS_ON_CPU = 16_384
"""A CPU gains nothing from longer bands, and buffers of one size are used again where larger ones find no room."""
_WARM_UP_SIZES = ((1, 32, 32), (3, 32, 48))
"""Latent sizes of the passes that compile: two, so that what is compiled is general."""


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


class DiffusionRestorer:
    """A loaded diffusion model behind the :class:`~seedvr2_ray.restoration.restorer.Restorer` seam."""

    def __init__(
        self,
        model: DiffusionModel,
        identity: RestorerIdentity,
        *,
        device: torch.device,
        attention: AttentionBackend = "sdpa",
        vae_options: VAEOptions = PLAIN,
        costs: MemoryCosts | None = None,
        may_change_picture: bool = False,
        draw: Callable[[int, list[int], tuple[int, int, int]], Tensor] = draw_noise,
        watch: Callable[[Stage], AbstractContextManager[object]] = lambda stage: nullcontext(),
    ) -> None:
        """Take over networks that are ready for inference, wherever their weights lie.

        Args:
            attention: kernel of the transformer.
            vae_options: exact ways to run the VAE.
            costs: what this device needs; by default what is stored for its name.
            may_change_picture: shorten chunks where nothing else fits; the plan says so.
            draw: makes noise from seed, frame numbers and latent size; replaced to reproduce somebody else's.
            watch: entered around every step of a stage, to measure it.
        """
        self._model = model
        self._identity = identity
        self._device = device
        self._execution = Execution(attention=attention)
        self._vae_options = vae_options
        self._costs = costs or MemoryCosts.for_device(device_name(device))
        self._may_change_picture = may_change_picture
        self._draw = draw
        self._watch = watch
        self._dtype = model.vae.decoder.conv_in.weight.dtype
        networks: dict[Literal["vae", "transformer"], nn.Module] = {
            "vae": model.vae,
            "transformer": model.transformer,
        }
        self._placement = Placement(networks, device)
        # One step is the rule, and several still work.
        fold_timestep(model.transformer)
        self._facts = describe_model(
            model.transformer, model.vae, vae_options, dtype=self._dtype, anchor_rows=model.anchor_rows
        )

    @property
    def identity(self) -> RestorerIdentity:
        """Who this is."""
        return self._identity

    def compile(self) -> float:
        """Fuse the transformer's small operations with ``torch.compile``; changes speed and rounding only.

        What is compiled serves every size. It is kept on disk by torch, so that the next process is faster here.

        Returns:
            Seconds until the first passes were through: the warm-up that later calls are spared.

        Raises:
            DeploymentError: this machine cannot compile, for instance because it lacks a compiler for C++.
        """
        began = time.perf_counter()
        self._placement.bring("transformer", alone=True)
        compile_layers(self._model.transformer)
        try:
            for size in _WARM_UP_SIZES:
                self._warm_up(size)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).strip().splitlines()[0]
            raise DeploymentError(f"torch.compile does not work on this machine ({reason}); run without it") from error
        return time.perf_counter() - began

    @torch.inference_mode()
    def _warm_up(self, size_THW: tuple[int, int, int]) -> None:
        model = self._model
        latents_THWC = torch.zeros(*size_THW, model.vae.config.latent_channels, device=self._device)
        sample(model.transformer, latents_THWC, latents_THWC, model.positive_LC, execution=self._execution)

    def plan(self, task: SegmentTask, *, skip: int = 0) -> SegmentPlan:
        """Decide how a segment will be restored; allocates nothing.

        Args:
            skip: leave out so many of the fastest ways that should fit.

        Raises:
            CapacityError: no way fits into this machine's memory.
            SettingsError: the settings contradict the geometry.
        """
        demand = describe_segment(task, self._facts)
        memory = plan_memory(
            demand,
            self._costs,
            free_bytes(self._device) + self._placement.resident_bytes(),
            may_offload=self._device.type != "cpu",
            may_change_picture=self._may_change_picture and not task.settings.reference,
            skip=skip,
        )
        return plan_segment(task, self._facts, memory)

    def restore(self, frames: Iterable[Frames], task: SegmentTask) -> Iterator[Frames]:
        """Restore one segment as a stream; see :class:`~seedvr2_ray.restoration.restorer.Restorer`.

        When memory runs out before the first frame is done (later steps need no more than the first), the
        segment is begun once more with the next smaller exact settings.
        """
        plan = self.plan(task)
        source = Rewindable(split_frames(frames))
        failed = False
        try:
            yield from self._run(plan, source)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if not source.can_rewind:
                raise _out_of_memory(plan) from error
            failed = True
        # Outside the handler: the exception would keep the tensors of the failed attempt alive.
        if not failed:
            return
        release_memory(self._device)
        source.rewind()
        plan = self.plan(task, skip=1)
        try:
            yield from self._run(plan, source)
        except Exception as error:
            if is_out_of_memory(error):
                raise _out_of_memory(plan) from error
            raise

    def _run(self, plan: SegmentPlan, source: Rewindable) -> Iterator[Frames]:
        knobs = plan.memory.knobs
        in_flight = knobs.frames_in_flight or self._vae_options.frames_in_flight
        self._prepare_vae(replace(self._vae_options, frames_in_flight=in_flight, bands=knobs.bands))
        waiting: deque[SourceFrame] = deque()
        latents = self._encode(plan, copy_to(waiting, source))
        if knobs.encode_first:
            latents = iter(list(latents))
        restored = self._transform(plan, latents)
        if knobs.offload:
            restored = iter(list(restored))
        for decoded_TCHW in self._decode(plan, restored):
            with self._watch("finish"):
                frames = self._finish(plan, decoded_TCHW, waiting)
            source.forget()
            if frames is not None:
                yield frames

    def _encode(self, plan: SegmentPlan, source: Iterable[SourceFrame]) -> Iterator[Tensor]:
        """Yield the segment's latents as the transformer takes them, float32 T x H x W x C per slice."""
        stride = self._model.vae.config.temporal_stride
        padded = pad_in_time(source, plan.task.num_frames, stride, "repeat" if plan.reference else "mirror")
        batches = batched(padded, 1 + plan.slice_latents * stride, plan.slice_latents * stride)
        if plan.tiling is not None:
            # Every tile runs through the whole segment, whose frames wait in host memory.
            frames_BCTHW = torch.cat([self._pictures(plan, batch).cpu() for batch in batches], dim=2)
            self._placement.bring("vae", alone=plan.memory.knobs.offload)
            with self._watch("encode"):
                yield self._encode_tiles(plan, frames_BCTHW)
            return
        state: VAEState | None = None
        for batch in batches:
            plan.task.check_cancelled()
            self._placement.bring("vae", alone=plan.memory.knobs.offload)
            with self._watch("encode"):
                latents_THWC, state = self._encode_slice(plan, batch, state)
            yield latents_THWC

    def _transform(self, plan: SegmentPlan, latents: Iterator[Tensor]) -> Iterator[Tensor]:
        """Yield restored latents as soon as no later chunk will touch them."""
        held_THWC, first = next(latents), 0
        tail_THWC: Tensor | None = None
        for chunk, after in zip(plan.chunks, [*plan.chunks[1:], None], strict=True):
            while first + len(held_THWC) < chunk.stop:
                held_THWC = torch.cat([held_THWC, next(latents)])
            held_THWC, first = held_THWC[chunk.start - first :], chunk.start
            plan.task.check_cancelled()
            self._placement.bring("transformer", alone=plan.memory.knobs.offload)
            with self._watch("transform"):
                restored_THWC = self._transform_chunk(plan, chunk, held_THWC[: len(chunk)])
            final_THWC, tail_THWC = stitch_chunk(tail_THWC, chunk, restored_THWC, after)
            yield final_THWC

    def _decode(self, plan: SegmentPlan, latents: Iterator[Tensor]) -> Iterator[Tensor]:
        """Yield restored pictures T x 3 x H x W in about -1..1, the fill around them cut off."""
        if plan.tiling is not None:
            latents_THWC = torch.cat(list(latents))
            self._placement.bring("vae", alone=plan.memory.knobs.offload)
            with self._watch("decode"):
                frames_TCHW = self._decode_tiles(plan, latents_THWC)
            for clip_TCHW in torch.split(frames_TCHW, plan.slice_latents * self._model.vae.config.temporal_stride):
                plan.task.check_cancelled()
                yield crop_frames(clip_TCHW.to(self._device), plan.padding)
            return
        state: VAEState | None = None
        for slice_THWC in regroup(latents, 1 + plan.slice_latents, plan.slice_latents):
            plan.task.check_cancelled()
            self._placement.bring("vae", alone=plan.memory.knobs.offload)
            with self._watch("decode"):
                clip_TCHW, state = self._decode_slice(plan, slice_THWC, state)
            yield crop_frames(clip_TCHW, plan.padding)

    # Inference mode stands at these steps and not around the generators above: it would leak into the caller
    # at every yield. The VAE's fast ways hold only where no gradients are recorded.

    @torch.inference_mode()
    def _pictures(self, plan: SegmentPlan, batch: list[SourceFrame]) -> Tensor:
        """Return frames as the VAE takes them, B x C x T x H x W."""
        pictures_TCHW = pad_frames(self._resized(plan, batch), plan.padding, black=-1.0)
        return pictures_TCHW.to(self._dtype).transpose(0, 1)[None]

    @torch.inference_mode()
    def _encode_slice(
        self, plan: SegmentPlan, batch: list[SourceFrame], state: VAEState | None
    ) -> tuple[Tensor, VAEState | None]:
        vae, clip_BCTHW = self._model.vae, self._pictures(plan, batch)
        if plan.is_one_slice:
            posterior = vae.encode(clip_BCTHW)
        else:
            moments_BCTHW, state = vae.encode_slice(clip_BCTHW, state, overwrite=True)
            posterior = Posterior.from_moments(moments_BCTHW)
        return self._scaled(posterior), state

    @torch.inference_mode()
    def _encode_tiles(self, plan: SegmentPlan, frames_BCTHW: Tensor) -> Tensor:
        assert plan.tiling is not None
        posterior = encode_tiled(
            self._model.vae,
            frames_BCTHW,
            plan.tiling,
            slice_frames=plan.slice_latents * self._model.vae.config.temporal_stride,
            check_cancelled=plan.task.check_cancelled,
        )
        return self._scaled(posterior)

    def _scaled(self, posterior: Posterior) -> Tensor:
        # Not the sampled latents of the published script: those would depend on who else drew random numbers.
        return self._model.vae.scale(posterior.mode.float())[0].permute(1, 2, 3, 0)

    @torch.inference_mode()
    def _transform_chunk(self, plan: SegmentPlan, chunk: Chunk, condition_THWC: Tensor) -> Tensor:
        model, task, settings = self._model, plan.task, plan.task.settings
        stride = model.vae.config.temporal_stride
        band_tokens = plan.memory.knobs.band_tokens
        if self._device.type == "cpu":
            band_tokens = min(band_tokens, _BAND_TOKENS_ON_CPU)
        numbers = [latent_frame_number(task.first_frame, j, stride) for j in range(chunk.start, chunk.stop)]
        _, height, width, channels = condition_THWC.shape
        return sample(
            model.transformer,
            self._draw(settings.seed, numbers, (height, width, channels)).to(self._device),
            condition_THWC,
            model.positive_LC,
            model.negative_LC,
            steps=settings.sample_steps,
            cfg_scale=settings.cfg_scale,
            cfg_rescale=settings.cfg_rescale,
            execution=replace(self._execution, band_tokens=band_tokens),
            check_cancelled=task.check_cancelled,
        )

    @torch.inference_mode()
    def _decode_slice(
        self, plan: SegmentPlan, latents_THWC: Tensor, state: VAEState | None
    ) -> tuple[Tensor, VAEState | None]:
        vae, latents_BCTHW = self._model.vae, self._unscaled(latents_THWC)
        if plan.is_one_slice:
            clip_BCTHW = vae.decode(latents_BCTHW)
        else:
            clip_BCTHW, state = vae.decode_slice(latents_BCTHW, state, overwrite=True)
        return clip_BCTHW[0].transpose(0, 1), state

    @torch.inference_mode()
    def _decode_tiles(self, plan: SegmentPlan, latents_THWC: Tensor) -> Tensor:
        """Return all frames of the segment, in host memory."""
        assert plan.tiling is not None
        frames_BCTHW = decode_tiled(
            self._model.vae,
            self._unscaled(latents_THWC),
            plan.tiling,
            slice_latents=plan.slice_latents,
            keep_on=torch.device("cpu"),
            check_cancelled=plan.task.check_cancelled,
        )
        return frames_BCTHW[0].transpose(0, 1)

    def _unscaled(self, latents_THWC: Tensor) -> Tensor:
        return self._model.vae.unscale(latents_THWC).to(self._dtype).permute(3, 0, 1, 2)[None]

    @torch.inference_mode()
    def _finish(self, plan: SegmentPlan, decoded_TCHW: Tensor, waiting: deque[SourceFrame]) -> Frames | None:
        """Match colours, restore alpha and round; the fill at the end of the clip is dropped."""
        task = plan.task
        batch = [waiting.popleft() for _ in range(min(len(decoded_TCHW), len(waiting)))]
        if not batch:
            return None
        decoded_TCHW = decoded_TCHW[: len(batch)].float()
        if task.settings.colour_match != "none":
            source_TCHW = self._resized(plan, batch)
            if plan.reference is not None and task.settings.colour_match == "wavelet":
                decoded_TCHW = wavelet_original(decoded_TCHW, source_TCHW)
            else:
                decoded_TCHW = match_colour(decoded_TCHW, source_TCHW, task.settings.colour_match)
        restored_TCHW = from_model_range(decoded_TCHW)
        if batch[0].codes_CHW.shape[0] == 4:
            alpha_T1HW = to_unit_range(torch.stack([frame.codes_CHW[3:] for frame in batch]).to(self._device))
            restored_TCHW = torch.cat([restored_TCHW, scale_alpha(alpha_T1HW, restored_TCHW)], dim=1)
        codes = to_codes(restored_TCHW, torch.uint8 if task.output_depth == 8 else torch.uint16)
        return Frames(codes.cpu(), tuple(frame.pts for frame in batch), batch[0].time_base)

    def _resized(self, plan: SegmentPlan, batch: list[SourceFrame]) -> Tensor:
        """Return the colours of source frames at the output's size, float32 in -1..1 on the device."""
        codes_TCHW = torch.stack([frame.codes_CHW for frame in batch])
        unit_TCHW = to_unit_range(codes_TCHW.to(self._device))
        colours_TCHW = unit_TCHW[:, :3]
        if unit_TCHW.shape[1] == 4:
            colours_TCHW = fill_transparent(colours_TCHW, unit_TCHW[:, 3:])
        if plan.reference is not None:
            return preprocess_reference(colours_TCHW, plan.reference)
        return to_model_range(resize_frames(colours_TCHW, plan.task.geometry.height, plan.task.geometry.width))

    def _prepare_vae(self, options: VAEOptions) -> None:
        if self._model.vae.options != options:
            self._model.vae.prepare(options)


def _out_of_memory(plan: SegmentPlan) -> CapacityError:
    padding, memory = plan.padding, plan.memory
    return CapacityError(
        f"memory ran out at {padding.padded_width}x{padding.padded_height} although "
        f"{memory.stages.peak / _GIB:.1f} GiB should have been enough and "
        f"{memory.available_bytes / _GIB:.1f} GiB were free; "
        "choose a smaller resolution or chunk_frames, or leave the device to this job alone"
    )
