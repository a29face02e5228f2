"""How visible a join inside a shot is: what it adds to the change from one frame to the next.

The source's changes are measured while it goes by to be restored, the result's when the two segments
are blended; nothing is decoded for it.

Shape letters: H height, W width.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from seedvr2_ray.frames import Frames, to_unit_range
from seedvr2_ray.restoration.planning.plan import Segment
from seedvr2_ray.restoration.report.quality import luma_of_rgb, step_between

REACH = 2
"""Frames on either side of a join that are compared."""


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


def step_across(lumas_HW: Sequence[Tensor], join: int) -> float | None:
    """Return by how much the change across a join exceeds those around it, in codes of 8 bits.

    Args:
        lumas_HW: of consecutive frames, in 0..1.
        join: position of the first frame after the join.

    Returns:
        None when there are too few frames to say.
    """
    if len(lumas_HW) < 3 or not 1 <= join < len(lumas_HW):
        return None
    changes = [float((later - earlier).abs().mean()) * 255.0 for earlier, later in pairwise(lumas_HW)]
    return step_between(changes, join)
