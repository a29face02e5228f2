"""What a caller writes to have a few seconds of a video restored instead of all of it.

``1:02.5-1:10`` is a stretch of time, ``1:02.5-`` one to the end, ``-10`` one from the beginning; ``frames 250-324``
counts frames from 0, the last one included, and ``frames 250`` is one frame. Which frames a time means is known when
the video's own times are.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from seedvr2_ray.errors import SettingsError

_TIME = re.compile(r"(?:(?:(?P<hours>\d{1,4}):)?(?P<minutes>\d{1,4}):)?(?P<seconds>\d{1,9}(?:\.\d{1,9})?)")
_FRAMES = re.compile(r"frames? +(?P<first>\d{1,12})(?: *- *(?P<last>\d{1,12}))?")
_WAYS = "write 10-13.5, 1:02-1:10, 10-, -13 or 'frames 250-324'"


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bounds of an excerpt, as they were asked for."""

    unit: str
    """``seconds`` after the first frame, or ``frames`` from 0."""
    start: Fraction
    stop: Fraction | None
    """The first that is not wanted any more; None goes to the end."""


def parse_excerpt(text: str) -> Stretch:
    """Read what a caller wrote.

    Raises:
        SettingsError: it is not understood, or nothing lies in it.
    """
    text = text.strip()
    counted = _FRAMES.fullmatch(text)
    if counted is not None:
        first = int(counted["first"])
        last = first if counted["last"] is None else int(counted["last"])
        if last < first:
            raise SettingsError(f"the excerpt '{text}' ends before it begins; name its first and its last frame")
        return Stretch("frames", Fraction(first), Fraction(last + 1))
    begin, dash, end = (part.strip() for part in text.partition("-"))
    if not dash or not (begin or end):
        raise SettingsError(f"the excerpt {text!r} is not understood; {_WAYS}")
    start = parse_time(begin) if begin else Fraction(0)
    stop = parse_time(end) if end else None
    if stop is not None and stop <= start:
        raise SettingsError(f"the excerpt '{text}' holds nothing, as it ends where it begins or before; {_WAYS}")
    return Stretch("seconds", start, stop)


def parse_time(text: str) -> Fraction:
    """Read ``75.5``, ``1:15.5`` or ``0:01:15.5`` as seconds.

    Raises:
        SettingsError: it is no time.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise SettingsError(f"the time {text!r} is not understood; write seconds (75.5), 1:15.5 or 0:01:15.5")
    hours, minutes, seconds = (Fraction(found[name] or 0) for name in ("hours", "minutes", "seconds"))
    if (found["minutes"] and seconds >= 60) or (found["hours"] and minutes >= 60):
        raise SettingsError(f"the time {text!r} has a part of 60 or more; write seconds (75.5), 1:15.5 or 0:01:15.5")
    return hours * 3600 + minutes * 60 + seconds


def excerpt_of(start: str = "", stop: str = "", frames: str = "") -> str:
    """Write down as one text what the options ``--from``, ``--to`` and ``--frames`` say; empty for the whole.

    Raises:
        SettingsError: times and frames are both given, or one of them is not understood.
    """
    if frames and (start or stop):
        raise SettingsError("an excerpt is bounded by times or by frames; give --from and --to, or --frames")
    if not (frames or start or stop):
        return ""
    for time in (start, stop):
        if time:
            parse_time(time)
    text = f"frames {frames.strip()}" if frames else f"{start.strip()}-{stop.strip()}"
    if frames and _FRAMES.fullmatch(text) is None:
        raise SettingsError(
            f"the frames {frames!r} are not understood; write the first and the last, as 250-324, or one"
        )
    parse_excerpt(text)
    return text
