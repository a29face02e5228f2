"""How visible a join inside a shot is: what it adds to the change from one frame to the next.

The source's changes are measured while it goes by to be restored, the result's when the two segments
are blended; nothing is decoded for it.

Shape letters: H height, W width.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

REACH = 2
"""Frames on either side of a join that are compared."""


def step_across(lumas_HW: Sequence[Any], join: int) -> float | None:
    """Return by how much the change across a join exceeds those around it, in codes of 8 bits.

    Args:
        lumas_HW: of consecutive frames, in 0..1: tensors where frames are restored, arrays where they are finished.
        join: position of the first frame after the join.

    Returns:
        None when there are too few frames to say.
    """
    if len(lumas_HW) < 3 or not 1 <= join < len(lumas_HW):
        return None
    changes = [float(abs(later - earlier).mean()) * 255.0 for earlier, later in pairwise(lumas_HW)]
    return step_between(changes, join)


def step_between(changes: Sequence[float], join: int) -> float:
    """Return by how much the change across a join exceeds the mean of those around it.

    Args:
        changes: from each frame to the next.
        join: position of the first frame after the join.
    """
    others = [*changes[: join - 1], *changes[join:]]
    return changes[join - 1] - sum(others) / len(others)
