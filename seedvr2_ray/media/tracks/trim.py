"""What an excerpt keeps of the tracks beside its pictures: what is heard or read while they are shown."""

from __future__ import annotations  # av.Packet is generic for type checkers only

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

from seedvr2_ray.media.container.inventory import is_cover
from seedvr2_ray.media.info import MediaInfo

_TIMECODE = re.compile(r"(\d{2}):(\d{2}):(\d{2})([:;])(\d{2})")


@dataclass(frozen=True, slots=True)
class Trim:
    """A stretch of the source's own time, in seconds."""

    start: Fraction
    stop: Fraction
    first_frame: int
    """Number in the source of the first picture."""

    def holds(self, seconds: Fraction) -> bool:
        """Whether a moment lies in it."""
        return self.start <= seconds < self.stop

    def keep(self, packet: av.Packet[Any]) -> bool:
        """Say whether a packet belongs to the excerpt; one of text is cut to it.

        Sound is cut between packets: one that begins before the first picture is left out, so that nothing has a
        time below zero, and what begins keeps its own time, so that nothing is out of step.
        """
        time = packet.pts if packet.pts is not None else packet.dts
        if is_cover(packet.stream):
            tick = packet.time_base or Fraction(1)
            packet.pts = packet.dts = int(-(-self.start // tick))  # A picture of no time goes along from the beginning.
            return True
        if time is None or not packet.time_base:
            return False
        begin, tick = time * packet.time_base, Fraction(packet.time_base)
        if packet.stream.type != "subtitle" or not packet.duration:
            return self.holds(begin)
        end = begin + packet.duration * tick
        if end <= self.start or begin >= self.stop:
            return False
        first = -(-max(begin, self.start) // tick)
        packet.pts = packet.dts = int(first)
        packet.duration = max(1, int(min(end, self.stop) // tick) - int(first))
        return True

    def chapters(self, chapters: Sequence[Any]) -> list[Any]:
        """Return the chapters that are shown, each cut to what is shown of it."""
        kept = []
        for chapter in chapters:
            tick = Fraction(chapter["time_base"] or 1)
            begin, end = chapter["start"] * tick, chapter["end"] * tick
            if end > self.start and begin < self.stop:
                first, last = -(-max(begin, self.start) // tick), min(end, self.stop) // tick
                kept.append({**chapter, "start": int(first), "end": int(max(last, first))})
        return kept

    def timecode(self, text: str, frame_rate: Fraction) -> str:
        """Return the timecode of the first picture, from that of the source's first; as it is where it is none."""
        found = _TIMECODE.fullmatch(text)
        if found is None:
            return text
        hours, minutes, seconds, frames = (int(found[index]) for index in (1, 2, 3, 5))
        per_second, drops = round(frame_rate), found[4] == ";"
        # Two numbers of 30 are left out at the beginning of every minute but each tenth, four of 60.
        left_out = per_second // 15 if drops else 0
        num_minutes = 60 * hours + minutes
        number = (60 * num_minutes + seconds) * per_second + frames - left_out * (num_minutes - num_minutes // 10)
        number += self.first_frame
        if drops:
            tens, rest = divmod(number, 600 * per_second - 9 * left_out)
            number += left_out * (9 * tens + max(0, rest - left_out) // (60 * per_second - left_out))
        seconds, frames = divmod(number, per_second)
        return f"{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{found[4]}{frames:02}"


def trim_to(media: MediaInfo, first_frame: int) -> Trim:
    """Return the stretch in which the pictures of an excerpt are shown, as the source counts time.

    Args:
        media: the excerpt, as if it were all there is.
        first_frame: number in the source of its first picture.
    """
    start = media.frame_pts[0] * media.video.time_base
    return Trim(start, start + media.duration_seconds, first_frame)
