"""Finishing one part anywhere: what of a video it takes, and which intermediates have served afterwards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seedvr2_ray.restoration.planning.plan import Recipe, Segment
from seedvr2_ray.restoration.work.pieces import RESTORED
from seedvr2_ray.restoration.work.remaining import is_needed
from seedvr2_ray.restoration.work.segment import PARTS, finish_segment
from seedvr2_ray.storage.commits import CommitStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Neighbourhood:
    """A segment with those beside it: all that is needed of a video to finish the segment's part."""

    segments: tuple[Segment, ...]
    """The one before, the segment itself and the one after, as far as there are such."""
    position: int
    """Of the segment among them."""

    @property
    def segment(self) -> Segment:
        """The segment whose part it is."""
        return self.segments[self.position]

    @property
    def predecessor(self) -> Segment | None:
        """The segment before, if it is blended with this one."""
        return self.segments[self.position - 1] if self.segment.overlap else None


def neighbourhood_of(segments: Sequence[Segment], index: int) -> Neighbourhood:
    """Take a segment and its neighbours out of a video."""
    first = max(0, index - 1)
    return Neighbourhood(segments=tuple(segments[first : index + 2]), position=index - first)


def blended_part_of(segments: Sequence[Segment], index: int) -> str | None:
    """Return the address of the next part, if it takes frames of segment ``index`` too."""
    successor = segments[index + 1] if index + 1 < len(segments) else None
    return successor.part_address if successor is not None and successor.overlap else None


def has_served(segment: Segment, blended_part: str | None, store: CommitStore) -> bool:
    """Whether the parts that take frames of a segment are finished, by whomever, so that nobody needs it again."""
    if store.find(PARTS, segment.part_address) is None:
        return False
    return blended_part is None or store.find(PARTS, blended_part) is not None


def finish_part(
    recipe: Recipe,
    around: Neighbourhood,
    store: CommitStore,
    *,
    workspace: Path,
    check_cancelled: Callable[[], None] = lambda: None,
) -> None:
    """Blend, encode and commit one part, and delete the intermediates that have served.

    Of two neighbours that are finished at the same time at least the later one sees both parts, so that
    no intermediate stays behind.
    """
    finish_segment(
        recipe, around.segment, around.predecessor, store, workspace=workspace, check_cancelled=check_cancelled
    )
    beside = {segment.part_address for segment in around.segments}
    parts = {address for address in beside if store.find(PARTS, address) is not None}
    for position in range(max(0, around.position - 1), around.position + 1):
        if not is_needed(around.segments, position, parts):
            store.discard(RESTORED, around.segments[position].address)
