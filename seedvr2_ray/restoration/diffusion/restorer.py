"""Restoring a segment with a diffusion model, as a stream of slices and chunks.

Encode (VAE, slice by slice) -> transform (chunks that overlap) -> stitch (in latent space) -> decode (VAE, slice by
slice) -> colours of the source -> codes. Every stage pulls from the one before, so what exists at a time is a chunk of
latents and a slice of pictures, however long the segment is; ``DiffusionRestorer._run`` says where more is kept.

Shape letters: T frames or latents, H height, W width, C channels.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from seedvr2_ray.errors import CapacityError, DeploymentError
from seedvr2_ray.frames import Frames
from seedvr2_ray.models.backends import AttentionBackend, SpStrategy
from seedvr2_ray.models.parallel import ALONE, SequenceParallel
from seedvr2_ray.models.seedvr2.sampler import sample
from seedvr2_ray.models.seedvr2.transformer.dit import fold_timestep
from seedvr2_ray.models.seedvr2.transformer.execution import Execution, compiled_steps
from seedvr2_ray.models.seedvr2.transformer.ranks.choice import share_tokens
from seedvr2_ray.models.seedvr2.transformer.ranks.exchange import OneDevice
from seedvr2_ray.models.seedvr2.vae.config import PLAIN, VAEOptions
from seedvr2_ray.restoration.device import device_name, free_bytes, is_out_of_memory, release_memory
from seedvr2_ray.restoration.diffusion.finish import FinishStage, Stage
from seedvr2_ray.restoration.diffusion.finite import FiniteChecks
from seedvr2_ray.restoration.diffusion.frame_stream import SourceFrame, copy_to, split_frames
from seedvr2_ray.restoration.diffusion.noise import draw_noise
from seedvr2_ray.restoration.diffusion.placement import Placement
from seedvr2_ray.restoration.diffusion.progress import FinishedStage, MemoryLessons
from seedvr2_ray.restoration.diffusion.ranks import InStep, PictureShare
from seedvr2_ray.restoration.diffusion.stages import (
    DecodeStage,
    DiffusionModel,
    EncodeStage,
    Network,
    TransformStage,
    Workbench,
    compute_dtype,
)
from seedvr2_ray.restoration.planning.memory import MemoryCosts, MemoryLesson, plan_memory
from seedvr2_ray.restoration.planning.segment_plan import (
    SegmentPlan,
    describe_model,
    describe_segment,
    plan_segment,
)
from seedvr2_ray.restoration.restorer import RestorerIdentity, SegmentTask
from seedvr2_ray.restoration.rewind import Rewindable

_log = logging.getLogger(__name__)
_GIB = 2**30
_WARM_UPS = (((1, 32, 32), 1), ((3, 32, 48), 2))
"""Latent size and number of steps of the passes that compile: two, so that what is compiled is general."""


class DiffusionRestorer:
    """A loaded diffusion model behind the :class:`~seedvr2_ray.restoration.restorer.Restorer` seam."""

    def __init__(
        self,
        model: DiffusionModel,
        identity: RestorerIdentity,
        *,
        device: torch.device,
        attention: AttentionBackend = "sdpa",
        vae_options: VAEOptions | None = None,
        costs: MemoryCosts | None = None,
        may_change_picture: bool = False,
        parallel: SequenceParallel = ALONE,
        sp_strategy: SpStrategy = "auto",
        draw: Callable[[int, list[int], tuple[int, int, int]], Tensor] = draw_noise,
        watch: Callable[[Stage], AbstractContextManager[object]] = lambda stage: nullcontext(),
    ) -> None:
        """Take over networks that are ready for inference, wherever their weights lie.

        Args:
            attention: kernel of the transformer.
            vae_options: how the VAE computes, if otherwise than it was built to.
            costs: what this device needs; by default what is stored for its name.
            may_change_picture: shorten chunks where nothing else fits; the plan says so.
            parallel: this rank, where several restore together. Each calls the same methods with the same arguments;
                rank 0 yields the frames, and the others nothing.
            sp_strategy: how the transformer's work is spread over ranks.
            draw: makes noise from seed, frame numbers and latent size; replaced to reproduce somebody else's.
            watch: entered around every step of a stage, to measure it.
        """
        model = replace(model, vae=model.vae.with_options(vae_options or model.vae.options))
        networks: dict[Network, nn.Module] = {"vae": model.vae, "transformer": model.transformer}
        self._identity = identity
        self._lessons = MemoryLessons()
        self._bench = Workbench(
            model=model,
            device=device,
            placement=Placement(networks, device),
            execution=Execution(
                attention=attention, sharing=share_tokens(parallel, sp_strategy, model.transformer.config)
            ),
            draw=draw,
            watch=self._lessons.watching(watch),
            in_step=InStep(parallel),
        )
        self._costs = costs or MemoryCosts.for_device(device_name(device))
        self._may_change_picture = may_change_picture
        # One step is the rule, and several still work.
        fold_timestep(model.transformer)
        dtype = compute_dtype(model.vae)
        self._facts, self._plain_facts = (
            describe_model(model.transformer, model.vae, options, dtype=dtype, anchor_rows=model.anchor_rows)
            for options in (model.vae.options, replace(PLAIN, conv_elements=model.vae.options.conv_elements))
        )

    @property
    def identity(self) -> RestorerIdentity:
        """Who this is."""
        return self._identity

    @property
    def lessons(self) -> tuple[MemoryLesson, ...]:
        """Where memory ran out although a plan fitted, here or in whoever stood here before."""
        return tuple(self._lessons.learned)

    def heed(self, lessons: Sequence[MemoryLesson]) -> None:
        """Plan nothing that was too large for whoever stood here before; all ranks of a gang are told the same."""
        self._lessons.learned.extend(lessons)

    def compile(self) -> float:
        """Fuse the transformer's small operations with ``torch.compile``; changes speed and rounding only.

        What is compiled serves every size and any number of steps; a shape it could not serve would be an error, not a
        slower run. It is kept on disk by torch, so that the next process is faster here.

        Returns:
            Seconds until the first passes were through: the warm-up that later calls are spared.

        Raises:
            DeploymentError: this machine cannot compile, for instance because it lacks a compiler for C++.
        """
        began = time.perf_counter()
        self._bench.placement.bring("transformer", alone=True)
        self._bench = replace(self._bench, execution=replace(self._bench.execution, steps=compiled_steps()))
        try:
            for size, steps in _WARM_UPS:
                self._warm_up(size, steps)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).strip().splitlines()[0]
            raise DeploymentError(f"torch.compile does not work on this machine ({reason}); run without it") from error
        return time.perf_counter() - began

    @torch.inference_mode()
    def _warm_up(self, size_THW: tuple[int, int, int], steps: int) -> None:
        bench, model = self._bench, self._bench.model
        latents_THWC = torch.zeros(*size_THW, model.vae.config.latent_channels, device=bench.device)
        # Every rank compiles by itself: what is compiled stands around attention and knows of no exchange.
        text_LC, execution = model.positive_LC, replace(bench.execution, sharing=OneDevice())
        sample(model.transformer, latents_THWC, latents_THWC, text_LC, steps=steps, execution=execution)

    def plan(self, task: SegmentTask) -> SegmentPlan:
        """Decide how a segment will be restored; allocates nothing.

        Raises:
            DeviceMemoryError: no way fits into this machine's memory.
            SettingsError: the settings contradict the geometry.
        """
        return self._plan(task, self._available_bytes())

    def _available_bytes(self) -> int:
        return free_bytes(self._bench.device) + self._bench.placement.resident_bytes()

    def _plan(self, task: SegmentTask, available_bytes: int) -> SegmentPlan:
        facts = self._plain_facts if task.plain_path else self._facts
        demand = describe_segment(task, facts, self._bench.in_step.parallel.size)
        memory = plan_memory(
            demand,
            self._costs,
            available_bytes,
            may_offload=self._bench.device.type != "cpu",
            may_change_picture=self._may_change_picture and not task.settings.reference,
            lessons=self._lessons.learned,
        )
        return plan_segment(task, facts, memory)

    def restore(self, frames: Iterable[Frames], task: SegmentTask) -> Iterator[Frames]:
        """Restore one segment as a stream; see :class:`~seedvr2_ray.restoration.restorer.Restorer`.

        When memory runs out before the first frame is done (later steps need no more than the first), the next
        smaller exact settings take over from the last finished stage. Later segments begin with these.
        With several ranks it is raised instead: the gang has to be started again (see
        :class:`~seedvr2_ray.restoration.diffusion.ranks.InStep`), and heeds what was learned.
        """
        in_step = self._bench.in_step
        yield from in_step.through(self._restore(split_frames(in_step.read(frames)), task))

    def _restore(self, frames: Iterator[SourceFrame], task: SegmentTask) -> Iterator[Frames]:
        in_step = self._bench.in_step
        source = Rewindable(frames)
        done: _Done | None = None
        while True:
            # All ranks take the same steps: those that fit the one with the least memory.
            available_bytes = in_step.least(self._available_bytes())
            plan = in_step.same_everywhere(partial(self._plan, task, available_bytes))
            done = done or _Done.of(plan, in_step.parallel)
            try:
                yield from self._run(plan, source, done)
                return
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                lesson = self._lessons.learn(plan.memory)
                if not source.can_rewind or in_step.parallel.size > 1:
                    raise _out_of_memory(plan, lesson.planned_bytes, in_step.parallel.size) from error
            # Outside the handler: the exception would keep the tensors of the failed attempt alive.
            release_memory(self._bench.device)
            source.rewind()
            _log.warning("memory ran out with %s; the segment goes on in smaller steps", plan.memory.knobs)

    def _run(self, plan: SegmentPlan, source: Rewindable[SourceFrame], done: "_Done") -> Iterator[Frames]:
        bench, knobs, checks = self._bench, plan.memory.knobs, done.checks
        stride = bench.model.vae.config.spatial_stride
        share = bench.in_step.same_everywhere(lambda: PictureShare(bench.in_step.parallel, plan.padding, stride))
        waiting: deque[SourceFrame] = deque()
        if done.encoded.is_complete:
            waiting.extend(source)
        latents = done.encoded.through(lambda: EncodeStage(bench, plan, checks, share).run(copy_to(waiting, source)))
        if knobs.encode_first:
            # All latents of the segment are on the device, and the encoder's memory of the past is not any more.
            latents = iter(list(latents))
        restored = done.restored.through(lambda: TransformStage(bench, plan, checks).run(latents))
        if knobs.offload:
            # All restored latents are on the device, so that the transformer leaves it once and for all.
            restored = iter(list(restored))
        decoded = DecodeStage(bench, plan, checks, share).run(restored)
        for frames in FinishStage(bench, plan, checks, waiting, share).run(decoded):
            # What comes next needs no more memory than this did, so it need not be begun again.
            source.forget()
            done.forget()
            yield frames


@dataclass(frozen=True, slots=True)
class _Done:
    """What a segment need not do again after memory ran out."""

    encoded: FinishedStage
    restored: FinishedStage
    checks: FiniteChecks

    @classmethod
    def of(cls, plan: SegmentPlan, parallel: SequenceParallel) -> Self:
        """Begin a segment."""
        task, num_latents = plan.task, plan.chunks[-1].stop
        checks = FiniteChecks(task.first_frame, task.num_frames, plain_path=task.plain_path, parallel=parallel)
        return cls(FinishedStage(num_latents), FinishedStage(num_latents), checks)

    def forget(self) -> None:
        self.encoded.forget()
        self.restored.forget()


def _out_of_memory(plan: SegmentPlan, failed_bytes: int, gang_size: int) -> CapacityError:
    padding, memory = plan.padding, plan.memory
    where = "after the first frames" if gang_size == 1 else f"on a GPU of a gang of {gang_size}"
    return CapacityError(
        f"memory ran out at {padding.padded_width}x{padding.padded_height} {where}, although "
        f"{failed_bytes / _GIB:.1f} GiB were planned and {memory.available_bytes / _GIB:.1f} GiB free at the start; "
        "try again, which takes smaller steps, or leave the device to this job alone"
    )
