"""Finishing what a model decoded: colours of the source, alpha, codes, and the way to the host.

Inference mode stands at the steps and not around the streams: it would leak into the caller at every yield.

Shape letters: T frames, C channels, H height, W width.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

import torch
from torch import Tensor

from seedvr2_ray.frames import Frames, to_codes, to_unit_range
from seedvr2_ray.restoration.colour.alpha import fill_transparent, scale_alpha
from seedvr2_ray.restoration.colour.colour_match import match_colour, wavelet_original
from seedvr2_ray.restoration.diffusion.finite import FiniteChecks
from seedvr2_ray.restoration.diffusion.frame_stream import SourceFrame
from seedvr2_ray.restoration.diffusion.preprocess import (
    from_model_range,
    preprocess_reference,
    to_model_range,
)
from seedvr2_ray.restoration.diffusion.ranks import PictureShare
from seedvr2_ray.restoration.planning.reference_size import ReferenceSize
from seedvr2_ray.restoration.resize import resize_frames
from seedvr2_ray.restoration.restorer import SegmentTask

Stage = Literal["encode", "transform", "decode", "finish"]
"""Encoding includes scaling the source; finishing is colours, alpha, rounding and the way to the host."""


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

    def __init__(
        self,
        bench: FinishBench,
        plan: FinishPlan,
        checks: FiniteChecks,
        waiting: deque[SourceFrame],
        share: PictureShare | None = None,
    ) -> None:
        """Begin a segment.

        Args:
            waiting: source frames that were encoded and whose pictures have not left yet, in host memory.
            share: which part of decoded pictures is here; None where they are whole.
        """
        self._bench = bench
        self._plan = plan
        self._checks = checks
        self._waiting = waiting
        self._share = share or PictureShare()
        self._num_left = 0
        self._has_alpha = False

    def run(self, decoded: Iterable[Tensor]) -> Iterator[Frames]:
        """Yield frames in host memory, on rank 0 only; the fill around them and at the end of the clip is dropped."""
        for decoded_TCHW in decoded:
            with self._bench.watch("finish"):
                batch = [self._waiting.popleft() for _ in range(min(len(decoded_TCHW), len(self._waiting)))]
                frames = self._finish(decoded_TCHW[: len(batch)], batch) if batch else None
            # What comes next is made while this name would still hold what has left.
            del decoded_TCHW
            self._num_left += len(batch)
            if frames is not None:
                yield frames

    @torch.inference_mode()
    def _finish(self, decoded_TCHW: Tensor, batch: list[SourceFrame]) -> Frames | None:
        """Match colours, restore alpha and round, a rank its own frames; rank 0 gathers the codes."""
        self._has_alpha = batch[0].codes_CHW.shape[0] == 4
        codes = self._codes(self._share.whole_frames(decoded_TCHW).float(), self._share.frames(batch), len(batch))
        whole = self._share.collect(codes, len(batch))
        if whole is None:
            return None
        return Frames(whole.cpu(), tuple(frame.pts for frame in batch), batch[0].time_base)

    def _codes(self, decoded_TCHW: Tensor, batch: Sequence[SourceFrame], num_frames: int) -> Tensor:
        """Return the codes of some of the frames that leave now; there may be none of them on this rank."""
        plan, task = self._plan, self._plan.task
        if task.settings.colour_match != "none" and batch:
            source_TCHW = scaled_source(self._bench, plan, batch)
            if plan.reference is not None and task.settings.colour_match == "wavelet":
                decoded_TCHW = wavelet_original(decoded_TCHW, source_TCHW)
            else:
                decoded_TCHW = match_colour(decoded_TCHW, source_TCHW, task.settings.colour_match)
        if task.settings.colour_match != "none":
            self._checks.ask("colour match", range(self._num_left, self._num_left + num_frames), decoded_TCHW)
        # Before the clamp, which would make white of infinity.
        self._checks.require()
        restored_TCHW = from_model_range(decoded_TCHW)
        if self._has_alpha and batch:
            alpha_T1HW = to_unit_range(torch.stack([frame.codes_CHW[3:] for frame in batch]).to(self._bench.device))
            restored_TCHW = torch.cat([restored_TCHW, scale_alpha(alpha_T1HW, restored_TCHW)], dim=1)
        elif self._has_alpha:
            restored_TCHW = restored_TCHW.new_zeros(0, 4, *restored_TCHW.shape[2:])
        return to_codes(restored_TCHW, torch.uint8 if task.output_depth == 8 else torch.uint16)


def source_colours(device: torch.device, batch: Sequence[SourceFrame]) -> Tensor:
    """Return the colours of source frames at their own size, float32 in 0..1; invisible pixels are filled."""
    codes_TCHW = torch.stack([frame.codes_CHW for frame in batch])
    unit_TCHW = to_unit_range(codes_TCHW.to(device))
    colours_TCHW = unit_TCHW[:, :3]
    return colours_TCHW if unit_TCHW.shape[1] == 3 else fill_transparent(colours_TCHW, unit_TCHW[:, 3:])


def scaled_source(bench: FinishBench, plan: FinishPlan, batch: Sequence[SourceFrame]) -> Tensor:
    """Return the colours of source frames at the output's size, float32 in -1..1 on the device."""
    colours_TCHW = source_colours(bench.device, batch)
    if plan.reference is not None:
        return preprocess_reference(colours_TCHW, plan.reference)
    return to_model_range(resize_frames(colours_TCHW, plan.task.geometry.height, plan.task.geometry.width))
