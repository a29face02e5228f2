"""Watching the source around a join while it goes by to be restored; see :mod:`seedvr2_ray.restoration.report.joins`.

Shape letters: H height, W width.
"""

from collections.abc import Iterable, Iterator

from torch import Tensor

from seedvr2_ray.frames import Frames, to_unit_range
from seedvr2_ray.restoration.planning.plan import Segment
from seedvr2_ray.restoration.report.joins import REACH, step_across
from seedvr2_ray.restoration.report.quality import luma_of_rgb


class SourceStep:
    """Watches the source around the join of a segment with the next one of its shot."""

    def __init__(self, segment: Segment) -> None:
        start = max(0, segment.part_frames - REACH)
        is_joined = segment.part_frames < segment.num_frames
        self._wanted = frozenset(segment.span.pts[start : segment.part_frames + REACH] if is_joined else ())
        self._join = segment.part_frames - start
        self._lumas: list[Tensor] = []

    def watch(self, frames: Iterable[Frames]) -> Iterator[Frames]:
        """Pass the decoded frames on."""
        for batch in frames:
            for index, pts in enumerate(batch.pts):
                if pts in self._wanted:
                    self._lumas.append(luma_of_rgb(to_unit_range(batch.data_TCHW[index : index + 1, :3]))[0, 0])
            yield batch

    def measure(self) -> float | None:
        """Return the step of the source there, in codes of 8 bits; None without a join or enough frames."""
        return step_across(self._lumas, self._join)
