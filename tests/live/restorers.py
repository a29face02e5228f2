"""Restorers that stand in for models. Not a test module."""

import time
from collections.abc import Iterable, Iterator

from seedvr2_ray.frames import Frames
from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.restorer import RestorerIdentity, SegmentTask


class ChunkedRestorer:
    """Enlarges like the filter, and must know how many frames a segment has, as diffusion models must."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.segments: list[tuple[int, int]] = []
        self._seconds = seconds

    @property
    def identity(self) -> RestorerIdentity:
        return LANCZOS

    def restore(self, frames: Iterable[Frames], task: SegmentTask) -> Iterator[Frames]:
        self.segments.append((task.first_frame, task.known_frames))
        time.sleep(self._seconds)
        yield from LanczosRestorer().restore(frames, task)
