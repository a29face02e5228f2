"""When every frame of the output is shown: the source's times, exactly, as far as the container can say them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

from seedvr2_ray.media.info import MediaInfo, Notice
from seedvr2_ray.media.output.master import MasterFormat

_ARBITRARY_START = frozenset({"mpegts", "mpeg", "mpegtsraw"})
"""Transport and programme streams, whose clocks start anywhere; their first timestamp becomes zero."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """The output's clock."""

    pts: tuple[int, ...]
    """When each frame is shown, in ticks of ``time_base``, increasing."""
    time_base: Fraction
    origin_seconds: Fraction
    """The source's time that becomes zero; all streams are moved by it."""
    notices: tuple[Notice, ...]
    last_ticks: int = 0
    """How long the last frame is shown; 0 for as long as a frame nominally lasts."""

    def step(self, frame_rate: Fraction) -> int:
        """Ticks a frame lasts nominally."""
        return max(1, round(1 / (frame_rate * self.time_base)))


def plan_timeline(
    source: av.container.InputContainer,
    media: MediaInfo,
    master: MasterFormat,
    frame_pts: Sequence[int],
    *,
    is_excerpt: bool = False,
) -> Timeline:
    """Choose the output's tick and every frame's time.

    Times stay what they are, with three exceptions. Transport streams start at zero instead of
    anywhere. A constant rate that the source could only write in milliseconds is put back on its
    exact grid where the output's tick allows. AVI has no times, only a rate.

    Args:
        frame_pts: in ticks of ``master.time_base``.
        is_excerpt: they are not all of the source's; the first of them becomes zero.
    """
    origin = frame_pts[0] if is_excerpt else _origin(source, media, master)
    notices: list[Notice] = []
    if origin and not is_excerpt:
        seconds = float(origin * master.time_base)
        reason = f"the timeline starts {abs(seconds):.3f} s {'earlier' if seconds > 0 else 'later'}, at zero"
        notices.append(Notice("converted", "timestamps", reason))
    start = (frame_pts[0] - origin) * master.time_base
    exact = _exact_grid(media, master, frame_pts)
    if exact is None:
        pts = tuple(tick - origin for tick in frame_pts)
        return Timeline(pts, master.time_base, origin * master.time_base, tuple(notices), media.video.last_ticks)
    period = exact.denominator
    tick = Fraction(1, exact.numerator)
    first = round(start / tick)
    if master.container == "avi":
        first, period, tick = 0, 1, 1 / exact
        notices += [] if is_excerpt else _lost_offsets(source, frame_pts[0] * master.time_base, exact)
    places: Sequence[int] = range(len(frame_pts))
    if master.container == "avi" and media.video.is_variable_rate:
        # Places of dropped frames stay empty: the one before is shown on.
        places = [round((stamp - frame_pts[0]) * master.time_base * exact) for stamp in frame_pts]
    pts = tuple(first + place * period for place in places)
    if any(ours != (stamp - origin) * master.time_base / tick for ours, stamp in zip(pts, frame_pts, strict=True)):
        reason = f"rounded times become exact multiples of 1/{exact} s"
        notices.append(Notice("converted", "timestamps", reason))
    held = media.video.last_ticks * master.time_base
    if held and master.container == "avi":
        reason = f"avi stores no durations: the last frame is not held for {float(held):.3f} s; choose .mkv or .mp4"
        notices.append(Notice("left_out", "last frame", reason))
        held = Fraction(0)
    return Timeline(pts, tick, origin * master.time_base, tuple(notices), round(held / tick))


def _exact_grid(media: MediaInfo, master: MasterFormat, frame_pts: Sequence[int]) -> Fraction | None:
    """Return the rate whose grid the times should be put on, or nothing when they are best as they are."""
    if master.container == "avi":
        return master.frame_rate
    if master.container not in ("mp4", "mov") or media.video.is_variable_rate or len(frame_pts) < 2:
        return None
    period = 1 / (master.frame_rate * master.time_base)
    if period.denominator == 1:
        return None
    on_grid = all(abs(pts - frame_pts[0] - index * period) <= 1 for index, pts in enumerate(frame_pts))
    return master.frame_rate if on_grid else None


def _origin(source: av.container.InputContainer, media: MediaInfo, master: MasterFormat) -> int:
    if master.container == "avi":
        return media.frame_pts[0]
    if source.format.name not in _ARBITRARY_START:
        return 0
    starts = [*_starts(source.streams), Fraction(media.frame_pts[0]) * master.time_base]
    return int(min(starts) // master.time_base)


def _lost_offsets(source: av.container.InputContainer, picture_start: Fraction, frame_rate: Fraction) -> list[Notice]:
    offsets = [
        start - picture_start for start in _starts(source.streams.audio) if abs(start - picture_start) > 1 / frame_rate
    ]
    if not offsets:
        return []
    furthest = float(max(offsets, key=abs))
    reason = f"avi stores no start times: sound {furthest:+.3f} s off the first picture may begin with it; choose .mkv"
    return [Notice("left_out", "timestamps", reason)]


def _starts(streams: Iterable[Any]) -> list[Fraction]:
    return [
        Fraction(stream.start_time) * stream.time_base
        for stream in streams
        if stream.start_time is not None and stream.time_base is not None
    ]
