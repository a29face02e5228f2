"""What is left to do for a video, given what is committed: the heart of resume, as a pure function."""

from collections.abc import Container, Sequence
from dataclasses import dataclass

from seedvr2_ray.restoration.planning.plan import Segment

RESTORED = "restored"
"""Kind of the commits that hold a segment's lossless intermediate."""
PARTS = "parts"
"""Kind of the commits that hold a segment in the codec of the master."""


@dataclass(frozen=True, slots=True)
class Work:
    """Segment numbers, in order."""

    to_restore: tuple[int, ...]
    """No intermediate is committed, and a part that is missing needs it."""
    to_finish: tuple[int, ...]
    """No part is committed, and all intermediates it needs are."""

    @property
    def is_done(self) -> bool:
        """Whether every part is committed."""
        return not self.to_restore and not self.to_finish


def is_needed(segments: Sequence[Segment], index: int, parts: Container[str]) -> bool:
    """Say whether a missing part still needs the intermediate of segment ``index``."""
    if segments[index].has_part and segments[index].part_address not in parts:
        return True
    successor = segments[index + 1] if index + 1 < len(segments) else None
    return successor is not None and successor.overlap > 0 and successor.part_address not in parts


def plan_work(segments: Sequence[Segment], restored: Container[str], parts: Container[str]) -> Work:
    """Say which segments to restore and to finish next.

    Args:
        segments: all segments of one plan, in order.
        restored: addresses of the committed intermediates.
        parts: addresses of the committed parts.
    """
    to_restore, to_finish = [], []
    for index, segment in enumerate(segments):
        if segment.address not in restored and is_needed(segments, index, parts):
            to_restore.append(index)
        has_inputs = segment.address in restored and (segment.overlap == 0 or segments[index - 1].address in restored)
        if segment.has_part and segment.part_address not in parts and has_inputs:
            to_finish.append(index)
    return Work(tuple(to_restore), tuple(to_finish))
