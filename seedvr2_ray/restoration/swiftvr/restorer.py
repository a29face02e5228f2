"""Restoring a segment with SwiftVR, as a stream of chunks: encode, take the velocity off, decode, colours, codes.

A segment is a stream of its own. What exists at a time is a chunk of latents, a few frames at full size, and the
frames of the source that wait for theirs.

Shape letters: T frames or latents, C channels, H height, W width.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seedvr2_ray.errors import CapacityError, DeploymentError
from seedvr2_ray.frames import Frames
from seedvr2_ray.models.backends import AttentionBackend
from seedvr2_ray.models.swiftvr.config import TIME_STRIDE
from seedvr2_ray.models.swiftvr.execution import Execution, compiled_steps
from seedvr2_ray.models.swiftvr.reae import Memories
from seedvr2_ray.models.swiftvr.schedule import Intake, ReadyChunk
from seedvr2_ray.models.swiftvr.stream import (
    EncoderState,
    SwiftVR,
    decode_latents,
    encode_chunk,
    front_of,
    prepare_frames,
    restore_latents,
)
from seedvr2_ray.restoration.device import device_name, free_bytes, is_out_of_memory
from seedvr2_ray.restoration.diffusion.finish import FinishStage, Stage, source_colours
from seedvr2_ray.restoration.diffusion.finite import FiniteChecks
from seedvr2_ray.restoration.diffusion.frame_stream import SourceFrame, copy_to, split_frames
from seedvr2_ray.restoration.planning.memory import MemoryCosts
from seedvr2_ray.restoration.restorer import RestorerIdentity, SegmentTask
from seedvr2_ray.restoration.swiftvr.memory import (
    SwiftVRMemory,
    describe_swiftvr,
    padded_size,
    plan_swiftvr_memory,
)

_GIB = 2**30
_WARM_UP_SIZES = ((1, 32, 32), (7, 32, 48))
"""Latent sizes of the passes that compile: two, so that what is compiled is general."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SwiftVRPlan:
    """Everything decided about one segment before its first frame is decoded."""

    task: SegmentTask
    padded_height: int
    padded_width: int
    memory: SwiftVRMemory
    reference: None = None
    """What SeedVR2's published script would do is never followed."""


class SwiftVRRestorer:
    """SwiftVR behind the :class:`~seedvr2_ray.restoration.restorer.Restorer` seam."""

    def __init__(
        self,
        model: SwiftVR,
        identity: RestorerIdentity,
        *,
        device: torch.device,
        attention: AttentionBackend = "sdpa",
        costs: MemoryCosts | None = None,
        watch: Callable[[Stage], AbstractContextManager[object]] = lambda stage: nullcontext(),
    ) -> None:
        """Take over networks that are folded and on the device.

        Args:
            attention: kernel of the transformer.
            costs: what this device needs; by default what is stored for its name.
            watch: entered around every step of a stage, to measure it.
        """
        self._model = model
        self._identity = identity
        self.device = device
        """Where the networks are."""
        self._execution = Execution(attention=attention)
        self._costs = costs or MemoryCosts.for_device(device_name(device))
        self.watch = watch
        """Entered around every step of a stage."""
        self._facts = describe_swiftvr(model)

    @property
    def identity(self) -> RestorerIdentity:
        """Who this is."""
        return self._identity

    def compile(self) -> float:
        """Fuse the transformer's small operations with ``torch.compile``; changes speed and rounding only.

        Returns:
            Seconds until the first passes were through: the warm-up that later calls are spared.

        Raises:
            DeploymentError: this machine cannot compile, for instance because it lacks a compiler for C++.
        """
        began = time.perf_counter()
        self._execution = replace(self._execution, steps=compiled_steps())
        try:
            for size in _WARM_UP_SIZES:
                self._warm_up(size)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).strip().splitlines()[0]
            raise DeploymentError(f"torch.compile does not work on this machine ({reason}); run without it") from error
        return time.perf_counter() - began

    def plan(self, task: SegmentTask) -> SwiftVRPlan:
        """Decide how a segment will be restored; allocates nothing.

        Raises:
            CapacityError: no way fits into this machine's memory.
        """
        height, width = padded_size(task.geometry, self._model.config)
        memory = plan_swiftvr_memory(self._facts, self._costs, height, width, self._available_bytes())
        return SwiftVRPlan(task=task, padded_height=height, padded_width=width, memory=memory)

    def restore(self, frames: Iterable[Frames], task: SegmentTask) -> Iterator[Frames]:
        """Restore one segment as a stream; see :class:`~seedvr2_ray.restoration.restorer.Restorer`."""
        plan = self.plan(task)
        try:
            yield from self._run(plan, split_frames(frames))
        except Exception as error:
            if is_out_of_memory(error):
                raise _out_of_memory(plan) from error
            raise

    def _available_bytes(self) -> int:
        """Return what is free, and what the weights take already."""
        return free_bytes(self.device) + self._facts.weight_bytes

    def _run(self, plan: SwiftVRPlan, source: Iterable[SourceFrame]) -> Iterator[Frames]:
        checks = FiniteChecks(plan.task.first_frame, plan.task.num_frames, plain_path=plan.task.plain_path)
        waiting: deque[SourceFrame] = deque()
        # What was decoded of repeats of the last frame has no frame that waits for it, and goes no further.
        decoded = self._decoded(plan, copy_to(waiting, source), checks)
        yield from FinishStage(self, plan, checks, waiting).run(decoded)

    def _decoded(self, plan: SwiftVRPlan, source: Iterable[SourceFrame], checks: FiniteChecks) -> Iterator[Tensor]:
        """Yield restored pictures T x 3 x H x W in about -1..1, the fill around them cut off."""
        encoder, memories, first = EncoderState(), None, 0
        for ready in self._chunks(source):
            plan.task.check_cancelled()
            before, chunk = encoder, ready.chunk
            with self.watch("encode"):
                degraded_TCHW, encoder = self._encode(plan, ready, before)
            checks.ask("encode", range(chunk.start, chunk.start + max(chunk.count, 1)), degraded_TCHW)
            plan.task.check_cancelled()
            with self.watch("transform"):
                restored_TCHW = self._transform(
                    plan, degraded_TCHW, before, front_of(chunk, before, self._model.config)
                )
            checks.ask("transform", range(first, first + chunk.num_decoded), restored_TCHW)
            for piece_TCHW in torch.split(restored_TCHW, plan.memory.latents_at_once):
                plan.task.check_cancelled()
                with self.watch("decode"):
                    pictures_TCHW, memories = self._decode(plan, piece_TCHW, memories)
                checks.ask("decode", range(first, first + len(pictures_TCHW)), pictures_TCHW)
                first += len(pictures_TCHW)
                # Handed over and not kept: the next chunk is encoded while these are on their way.
                handed_over = [pictures_TCHW]
                del pictures_TCHW
                yield handed_over.pop()
            del degraded_TCHW, restored_TCHW, piece_TCHW

    def _chunks(self, source: Iterable[SourceFrame]) -> Iterator[ReadyChunk[SourceFrame]]:
        intake: Intake[SourceFrame] = Intake(clip_frames=self._model.config.clip_frames)
        for frame in source:
            ready, intake = intake.take([frame])
            yield from ready
        yield from intake.finish()

    # Inference mode stands at these steps and not around the generators above: it would leak into the caller
    # at every yield.

    @torch.inference_mode()
    def _encode(
        self, plan: SwiftVRPlan, ready: ReadyChunk[SourceFrame], state: EncoderState
    ) -> tuple[Tensor, EncoderState]:
        group = TIME_STRIDE * plan.memory.latents_at_once
        groups = (ready.items[start : start + group] for start in range(0, len(ready.items), group))
        return encode_chunk(self._model, (self._prepared(plan, frames) for frames in groups), state)

    @torch.inference_mode()
    def _transform(self, plan: SwiftVRPlan, degraded_TCHW: Tensor, before: EncoderState, front: int) -> Tensor:
        execution = Execution() if plan.task.plain_path else self._execution
        return restore_latents(self._model, degraded_TCHW, before.recent_TCHW, front=front, execution=execution)

    @torch.inference_mode()
    def _decode(self, plan: SwiftVRPlan, restored_TCHW: Tensor, memories: Memories | None) -> tuple[Tensor, Memories]:
        unit_TCHW, memories = decode_latents(self._model, restored_TCHW, memories)
        unit_TCHW = unit_TCHW[..., : plan.task.geometry.height, : plan.task.geometry.width]
        return unit_TCHW.float().mul_(2.0).sub_(1.0), memories

    @torch.inference_mode()
    def _prepared(self, plan: SwiftVRPlan, batch: Sequence[SourceFrame]) -> Tensor:
        geometry, multiple = plan.task.geometry, self._model.config.multiple
        colours_TCHW = source_colours(self.device, batch)
        return prepare_frames(colours_TCHW, geometry.height, geometry.width, multiple).to(self._model.reae.dtype)

    @torch.inference_mode()
    def _warm_up(self, size_THW: tuple[int, int, int]) -> None:
        channels = self._model.config.transformer.latent_channels
        latents_BCTHW = torch.zeros(1, channels, *size_THW, device=self.device)
        self._model.transformer(latents_BCTHW, self._execution)


def _out_of_memory(plan: SwiftVRPlan) -> CapacityError:
    return CapacityError(
        f"memory ran out at {plan.padded_width}x{plan.padded_height} although "
        f"{plan.memory.stages.peak / _GIB:.1f} GiB should have been enough and "
        f"{plan.memory.available_bytes / _GIB:.1f} GiB were free; "
        "choose a smaller resolution, or leave the device to this job alone"
    )
