"""What travels through Ray Data: descriptions of segments, a few kilobytes each. Frames never do."""

import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from seedvr2_ray.batch.execution.machines import NO_LOSSES, Losses
from seedvr2_ray.batch.execution.videos import Video, VideoOutcome
from seedvr2_ray.restoration.planning.plan import Recipe, Segment
from seedvr2_ray.restoration.work.encoded_segments import blended_part_of
from seedvr2_ray.restoration.work.failures import Failure
from seedvr2_ray.storage.records import Commit
from seedvr2_ray.storage.sources import Pinned

BURST = 16
"""Segments that one video sends before others get their turn: a long one must not hold up the short ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentRow:
    """One segment to restore."""

    video_number: int
    """Of the manifest row."""
    recipe: Recipe
    segment: Segment
    blended_part: str | None
    """Address of the successor's part, when it needs this segment's last frames."""
    source: Pinned
    video: Video | None
    """The whole video, with the first segment it sends: whoever finishes it learns of it from here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideosRow:
    """Videos for which nothing has to be restored: finished ones, refused ones, ones that want only assembling."""

    outcomes: tuple[VideoOutcome, ...]
    videos: tuple[Video, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentResult:
    """What became of one segment."""

    video_number: int
    content: str
    """Of the video's source: what is true of an intermediate is true for all videos of one content."""
    index: int
    address: str
    part_address: str
    state: Literal["restored", "found", "not_needed", "failed"]
    num_frames: int
    seconds: float
    video: Video | None
    commit: Commit | None = None
    """Of the intermediate, or of the part where that is all there is: nobody need ask the store for it again."""
    failure: Failure | None = None
    losses: Losses = NO_LOSSES
    """Earlier attempts of this run at it."""
    worker: str = ""
    """Which process did it."""
    worker_busy_seconds: float = 0.0
    """What that process has spent on segments since it started."""
    worker_alive_seconds: float = 0.0


def rows_of_video(video: Video) -> Iterator[SegmentRow]:
    """Yield a row for every segment that is still to be restored; the video itself goes with the first."""
    segments = video.plan.segments
    for position, index in enumerate(video.work().to_restore):
        segment = segments[index]
        yield SegmentRow(
            video_number=video.row.number,
            recipe=video.plan.recipe,
            segment=segment,
            blended_part=blended_part_of(segments, index),
            source=video.source,
            video=video if position == 0 else None,
        )


def take_turns(planned: Iterable[Video | VideoOutcome], burst: int = BURST) -> Iterator[SegmentRow | VideosRow]:
    """Send the segments of videos in bursts, a new video after each.

    A video with a thousand segments occupies every worker when it is alone, and shares them with those that
    are planned after it. At most one shard's videos are under way at a time.
    """
    under_way: list[Iterator[SegmentRow]] = []
    outcomes: list[VideoOutcome] = []
    videos: list[Video] = []
    for item in planned:
        if isinstance(item, VideoOutcome):
            outcomes.append(item)
            continue
        if not item.work().to_restore:
            videos.append(item)
            continue
        under_way.append(rows_of_video(item))
        yield from _one_turn(under_way, burst)
    if outcomes or videos:
        yield VideosRow(outcomes=tuple(outcomes), videos=tuple(videos))
    while under_way:
        yield from _one_turn(under_way, burst)


def _one_turn(under_way: list[Iterator[SegmentRow]], burst: int) -> Iterator[SegmentRow]:
    for rows in list(under_way):
        sent = list(islice(rows, burst))
        yield from sent
        if len(sent) < burst:
            under_way.remove(rows)


def to_columns(row: SegmentRow | VideosRow) -> dict[str, Any]:
    """Turn a row into plain columns: a few to be read in Ray's dashboard, and the row itself."""
    described: dict[str, Any] = {"video": -1, "segment": -1, "frames": 0}
    if isinstance(row, SegmentRow):
        described = {
            "video": row.video_number,
            "segment": row.segment.index,
            "frames": row.segment.num_frames,
        }
    return {**described, "payload": pickle.dumps(row)}


def from_payload(payload: bytes) -> Any:
    """Read back what :func:`to_columns` or :func:`result_columns` wrote.

    Rows live only between the processes of one job, which trust one another as all of Ray's do.
    """
    return pickle.loads(payload)


def result_columns(results: Sequence[SegmentResult | VideosRow]) -> dict[str, list[Any]]:
    """Turn results into columns."""
    return {"payload": [pickle.dumps(result) for result in results]}
