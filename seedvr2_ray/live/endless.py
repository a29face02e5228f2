"""Any restorer as an endless stream: those that take streams as they are, the others segment after segment."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch

from seedvr2_ray.frames import Frames
from seedvr2_ray.models.swiftvr.config import SwiftVRConfig
from seedvr2_ray.models.weights.catalogue import ModelEntry
from seedvr2_ray.restoration.diffusion.frame_stream import batched, split_frames
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.restoration.restorer import Restorer, SegmentTask
from seedvr2_ray.settings import RestoreSettings

_FILTER_FRAMES = 8
_LONGEST_WARM_UP = 20.0
"""Seconds; what has not given a frame by then is slow enough to be told apart."""


@dataclass(frozen=True, slots=True)
class EndlessRestorer:
    """A loaded restorer and how it is fed."""

    restorer: Restorer
    takes_streams: bool
    frames_at_once: int
    """Frames that it waits for before any of them comes out."""
    settings: RestoreSettings

    def restore(
        self,
        batches: Iterable[Frames],
        geometry: Geometry,
        check_cancelled: Callable[[], None] = lambda: None,
    ) -> Iterator[Frames]:
        """Restore frames until no more come: as many out as in, whenever that is.

        A restorer that must know how many frames there are is given one chunk of them after another. Its chunks know
        nothing of each other: in a live stream nobody can wait for the frames of the next one to blend them.
        """
        if self.takes_streams:
            yield from self.restorer.restore(batches, self._task(geometry, 0, None, check_cancelled))
            return
        first = 0
        for group in batched(split_frames(batches), self.frames_at_once, self.frames_at_once):
            frames = Frames(
                torch.stack([frame.codes_CHW for frame in group]),
                tuple(frame.pts for frame in group),
                group[0].time_base,
            )
            yield from self.restorer.restore([frames], self._task(geometry, first, len(group), check_cancelled))
            first += len(group)

    def _task(
        self, geometry: Geometry, first: int, num_frames: int | None, check_cancelled: Callable[[], None]
    ) -> SegmentTask:
        return SegmentTask(
            first_frame=first,
            num_frames=num_frames,
            geometry=geometry,
            settings=self.settings,
            output_depth=8,
            check_cancelled=check_cancelled,
        )


def make_endless(restorer: Restorer, entry: ModelEntry, settings: RestoreSettings) -> EndlessRestorer:
    """Say how a model of the catalogue is fed."""
    if isinstance(entry.networks, SwiftVRConfig):
        at_once = entry.networks.clip_frames
    elif entry.networks is None:
        at_once = _FILTER_FRAMES
    else:
        at_once = settings.chunk_frames
    return EndlessRestorer(restorer, entry.takes_streams, at_once, settings)


def measure_rate(endless: EndlessRestorer, sample: Frames, geometry: Geometry) -> tuple[float, Frames]:
    """Measure how many frames per second come out, on a picture of the stream itself shown again and again.

    What a model does once - compile, fill its caches - is not counted: of three chunks the last two are.

    Args:
        sample: one frame, at least; the first is used.

    Returns:
        Frames per second, and the first that came out.
    """
    num_frames = 3 * endless.frames_at_once
    began = time.perf_counter()

    def picture() -> Iterator[Frames]:
        for number in range(num_frames):
            if time.perf_counter() - began > _LONGEST_WARM_UP:
                return
            yield Frames(sample.data_TCHW[:1], (number,), Fraction(1, 1000))

    done, first_out, at_first = 0, began, 0
    first: Frames | None = None
    for batch in endless.restore(picture(), geometry):
        first = first or batch
        done += len(batch)
        if done >= endless.frames_at_once and at_first == 0:
            first_out, at_first = time.perf_counter(), done
    ended = time.perf_counter()
    assert first is not None, "a frame went in"
    if done > at_first > 0 and ended > first_out:
        return (done - at_first) / (ended - first_out), first
    return done / max(ended - began, 1e-9), first
