"""``finish``: from restored segments to an encoded one, anywhere: what of a video it takes, and what has served then.

It commits atomically under an address and does nothing when the commit is there. No tensor is made here: intermediates
are already in the master's pixel format.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from seedvr2_ray.media.output.encode import PartWriter
from seedvr2_ray.media.picture.blend import blend_frames
from seedvr2_ray.media.picture.luma import luma_of
from seedvr2_ray.restoration.planning.plan import Recipe, Segment
from seedvr2_ray.restoration.report.joins import REACH, step_across
from seedvr2_ray.restoration.work.pieces import read_frames
from seedvr2_ray.restoration.work.remaining import PARTS, RESTORED, is_needed
from seedvr2_ray.storage.commits import CommitStore
from seedvr2_ray.storage.records import Commit, LostWorkError


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
    if segment.has_part and store.find(PARTS, segment.part_address) is None:
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
    no intermediate stays behind. Those of an excerpt stay: the whole needs them for other parts.
    """
    finish_segment(
        recipe, around.segment, around.predecessor, store, workspace=workspace, check_cancelled=check_cancelled
    )
    if recipe.settings.excerpt:
        return
    beside = {segment.part_address for segment in around.segments}
    parts = {address for address in beside if store.find(PARTS, address) is not None}
    for position in range(max(0, around.position - 1), around.position + 1):
        if not is_needed(around.segments, position, parts):
            store.discard(RESTORED, around.segments[position].address)


def finish_segment(
    recipe: Recipe,
    segment: Segment,
    predecessor: Segment | None,
    store: CommitStore,
    *,
    workspace: Path,
    check_cancelled: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Blend a restored segment with its predecessor's overlap and commit it in the master's codec.

    Args:
        predecessor: the segment before, when ``segment`` shares frames with it.

    Returns:
        The commit's record.

    Raises:
        LostWorkError: an intermediate this part needs is not committed, or no more.
    """
    committed = store.find(PARTS, segment.part_address)
    if committed is not None:
        return committed
    return finish_restored(
        recipe, segment, predecessor, store, {}, workspace=workspace, check_cancelled=check_cancelled
    ).record


def finish_restored(
    recipe: Recipe,
    segment: Segment,
    predecessor: Segment | None,
    store: CommitStore,
    known: Mapping[str, Commit],
    *,
    workspace: Path,
    check_cancelled: Callable[[], None] = lambda: None,
) -> Commit:
    """Do as :func:`finish_segment` does for a caller who knows that the part is not committed.

    Args:
        known: commits of intermediates, by address, as far as the caller has them; others are asked for.

    Returns:
        The part's commit; of several the first counts.
    """
    began = time.perf_counter()
    commits = {
        each.address: known.get(each.address) or _require_restored(each, store)
        for each in (segment, predecessor)
        if each is not None
    }
    path = workspace / f"{segment.part_address}.part"
    around_join: list[Any] = []
    full_range = recipe.master.colour.full_range
    with PartWriter(str(path), recipe.master) as writer:
        for position, frame in _finished_frames(segment, predecessor, store, commits, workspace):
            check_cancelled()
            if position >= segment.encoded.stop:
                break
            if predecessor is not None and position < REACH:
                around_join.append(luma_of(frame, full_range=full_range))
            if position in segment.encoded:
                writer.write(frame)
    source_step = None if predecessor is None else commits[predecessor.address].record.get("source_step")
    record = {
        "segment": segment.index,
        "frames": [segment.span.start + bound for bound in (segment.encoded.start, segment.encoded.stop)],
        "blended_frames": segment.overlap,
        "boundary_step": _boundary_step(around_join, predecessor, source_step),
        "seconds": round(time.perf_counter() - began, 3),
        # The intermediate is deleted once it has served; what was noted about it goes on from here.
        "restored": commits[segment.address].record,
    }
    commit, _ = store.settle(PARTS, segment.part_address, record, path)
    path.unlink(missing_ok=True)
    return commit


def _require_restored(segment: Segment, store: CommitStore) -> Commit:
    commit = store.look(RESTORED, segment.address)
    if commit is None:
        raise LostWorkError(f"segment {segment.index} is to be finished and is not restored; restore it first")
    return commit


def _finished_frames(
    segment: Segment,
    predecessor: Segment | None,
    store: CommitStore,
    commits: Mapping[str, Commit],
    workspace: Path,
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield the part's frames, numbered from 0; before them, below 0, the last ones of the part before."""
    own = enumerate(read_frames(segment, 0, segment.part_frames, store, commits[segment.address], workspace))
    if predecessor is not None:
        before = min(REACH, predecessor.part_frames)
        start, commit = predecessor.part_frames - before, commits[predecessor.address]
        tail = read_frames(predecessor, start, predecessor.num_frames, store, commit, workspace)
        for position, earlier in enumerate(tail, start=-before):
            if position < 0:
                yield position, earlier
            else:
                _, later = next(own)
                yield position, blend_frames(earlier, later, position=position, length=segment.overlap)
    yield from own


def _boundary_step(lumas_HW: Sequence[Any], predecessor: Segment | None, source_step: float | None) -> float | None:
    """Return what a join adds to the source's own change there; None without a join."""
    if predecessor is None:
        return None
    restored = step_across(lumas_HW, min(REACH, predecessor.part_frames))
    return None if source_step is None or restored is None else round(restored - source_step, 4)
