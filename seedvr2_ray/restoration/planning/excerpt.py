"""An excerpt of a video: which frames a stretch of time means, and what the source is when they are all there is."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from seedvr2_ray.errors import InputError
from seedvr2_ray.excerpts import Stretch, parse_excerpt
from seedvr2_ray.media.info import Chapter, MediaInfo, Notice


@dataclass(frozen=True, kw_only=True, slots=True)
class Excerpt:
    """Frames ``start`` to ``stop - 1`` of a video."""

    start: int
    stop: int
    of_frames: int
    """How many the video has."""
    start_seconds: Fraction
    """After the first frame of the video, as is ``stop_seconds``."""
    stop_seconds: Fraction
    whole_restored_frames: int
    """Frames, overlaps included, that restoring all of it takes."""

    @property
    def notice(self) -> Notice:
        """Say that the rest is missing."""
        reason = (
            f"this is an excerpt, frames {self.start} to {self.stop - 1} of {self.of_frames} "
            f"({float(self.start_seconds):.3f} to {float(self.stop_seconds):.3f} s); without its bounds the same "
            "request restores the whole and does not repeat what is restored here"
        )
        return Notice("left_out", "the rest of the video", reason)

    def summary(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "first_frame": self.start,
            "last_frame": self.stop - 1,
            "of_frames": self.of_frames,
            "start_seconds": round(float(self.start_seconds), 6),
            "stop_seconds": round(float(self.stop_seconds), 6),
            "frames_to_restore_for_the_whole": self.whole_restored_frames,
        }


def find_excerpt(media: MediaInfo, text: str, *, whole_restored_frames: int) -> Excerpt:
    """Say which frames an excerpt means.

    Time is counted from the first frame. The excerpt begins with the frame that is shown at its beginning, and no
    frame belongs to it that begins where it ends or later.

    Raises:
        InputError: the source is an image, or the excerpt does not lie in the video.
    """
    stretch, total = parse_excerpt(text), media.video.num_frames
    if media.kind == "image":
        raise InputError("an image has no stretch of time to take an excerpt of; leave the excerpt away")
    start, stop = _by_number(stretch, total) if stretch.unit == "frames" else _by_time(stretch, media)
    origin, time_base, end = media.frame_pts[0], media.video.time_base, media.duration_seconds
    return Excerpt(
        start=start,
        stop=stop,
        of_frames=total,
        start_seconds=(media.frame_pts[start] - origin) * time_base,
        stop_seconds=end if stop == total else (media.frame_pts[stop] - origin) * time_base,
        whole_restored_frames=whole_restored_frames,
    )


def _by_number(stretch: Stretch, total: int) -> tuple[int, int]:
    start, stop = int(stretch.start), int(stretch.stop if stretch.stop is not None else total)
    if stop > total:
        raise InputError(f"the video has frames 0 to {total - 1}; frames {start} to {stop - 1} are not all in it")
    return start, stop


def _by_time(stretch: Stretch, media: MediaInfo) -> tuple[int, int]:
    end, origin, time_base = media.duration_seconds, media.frame_pts[0], media.video.time_base
    latest = stretch.start if stretch.stop is None else stretch.stop
    if stretch.start >= end or latest > end:
        raise InputError(
            f"the video ends at {float(end):.3f} s; an excerpt from {float(stretch.start):g} s"
            f"{'' if stretch.stop is None else f' to {float(stretch.stop):g} s'} does not lie in it"
        )
    pts = media.frame_pts
    start = max(0, bisect_right(pts, origin + stretch.start / time_base) - 1)
    stop = len(pts) if stretch.stop is None else bisect_left(pts, origin + stretch.stop / time_base)
    return start, max(stop, start + 1)


def excerpted(media: MediaInfo, excerpt: Excerpt) -> MediaInfo:
    """Return the source as if the excerpt were all there is. Streams and tags are the whole's."""
    pts, video = media.frame_pts, media.video
    is_last = excerpt.stop == excerpt.of_frames
    # The last frame is shown until the one that follows in the source.
    last_ticks = video.last_ticks if is_last else pts[excerpt.stop] - pts[excerpt.stop - 1]
    return replace(
        media,
        frame_pts=pts[excerpt.start : excerpt.stop],
        video=replace(video, num_frames=excerpt.stop - excerpt.start, last_ticks=last_ticks),
        damaged_frames=tuple(
            (max(start, excerpt.start) - excerpt.start, min(stop, excerpt.stop) - excerpt.start)
            for start, stop in media.damaged_frames
            if start < excerpt.stop and stop > excerpt.start
        ),
        chapters=_chapters(media, excerpt),
    )


def _chapters(media: MediaInfo, excerpt: Excerpt) -> tuple[Chapter, ...]:
    origin = media.frame_pts[0] * media.video.time_base
    begin, end = origin + excerpt.start_seconds, origin + excerpt.stop_seconds
    return tuple(chapter for chapter in media.chapters if chapter.start_seconds < end and chapter.end_seconds > begin)
