"""One clock for a file whose own starts anew: recordings joined end to end, cells of a disc, restarted streams.

Players go on where the old clock stopped, and so does the output: every stretch of the file with a clock
of its own is moved as a whole, pictures, sound and text by the same time, so that they stay in step.
"""

from __future__ import annotations  # av.Packet is generic for type checkers only

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import av


_KEEPS_ONE_CLOCK = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "avi", "gif", "apng"})
"""Containers whose index adds up durations: their times cannot fall."""
_MAY_LEAP = frozenset({"mpegts", "mpeg", "flv", "wtv"})
"""Containers of broadcasts, whose clocks start anywhere. A gap in any other one was meant."""
_LEAP_SECONDS = 600
"""Pictures further apart than this do not belong to one recording; stills of a slide show come closer."""
_FALL_SECONDS = Fraction(1, 2)
"""By which decoding times may be disturbed without being taken for those of another recording."""
_FALL_SECONDS_OF_DISPLAY = 2
"""The same where only times of display are known, which fall within every group of pictures."""
_RETURN_SECONDS = 1
_STRAY_PACKETS = 3
"""So few with a clock of their own, with the old one going on behind them, are errors and no recording."""
_NEAR_SECONDS = 3
"""How far apart in the file pictures and sound of one moment may lie."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClockChange:
    """From where on the file's times mean something else."""

    position: int
    """In the file, of the first packet of pictures with the new clock."""
    shift: Fraction
    """Seconds to add to the file's times from there on; before the first change it is 0."""
    start: Fraction
    """When the first picture after it is shown, in seconds of the one clock."""


class ClockReader:
    """Notices, packet by packet, where the clock of the pictures starts anew or leaps by hours."""

    def __init__(self, container: str, time_base: Fraction, frame_ticks: Fraction) -> None:
        """Begin at the beginning of the file.

        Args:
            container: libav's name of the demuxer.
            frame_ticks: nominal duration of a frame.
        """
        self._time_base = time_base
        self._step = max(1, round(frame_ticks))
        self._never = container in _KEEPS_ONE_CLOCK
        self._leap = _LEAP_SECONDS / time_base if container in _MAY_LEAP else None
        self._stretches: list[_Stretch] = []
        self._position = 0

    def accept(self, packet: av.Packet[Any]) -> None:
        """Look at the next packet of pictures, in the order of the file."""
        stamp = packet.dts if packet.dts is not None else packet.pts
        self._position = packet.pos if packet.pos is not None else self._position
        if stamp is None:
            return
        if not self._stretches:
            self._stretches.append(_Stretch(0, stamp, None))
        here = self._stretches[-1]
        if not self._never and self._is_break(stamp, has_dts=packet.dts is not None):
            here = _Stretch(self._position, stamp, self._continued_by(stamp))
            self._stretches.append(here)
        here.last, here.num_packets = stamp, here.num_packets + 1
        shown = packet.pts if packet.pts is not None else stamp
        here.first_shown = shown if here.first_shown is None else min(here.first_shown, shown)
        here.last_shown = shown if here.last_shown is None else max(here.last_shown, shown)

    def changes(self) -> tuple[ClockChange, ...]:
        """Return where the clock changes, and how far each stretch is moved so that it follows the one before."""
        shifts: list[int] = [0] * len(self._stretches)
        end = 0
        found: list[ClockChange] = []
        for number, stretch in enumerate(self._stretches):
            assert stretch.first_shown is not None and stretch.last_shown is not None
            if stretch.continues is not None:
                shifts[number] = shifts[stretch.continues]
            elif number:
                shifts[number] = end + self._step - stretch.first_shown
            if number:
                shift, start = shifts[number] * self._time_base, stretch.first_shown * self._time_base
                found.append(ClockChange(position=stretch.position, shift=shift, start=start + shift))
            end = max(end, stretch.last_shown + shifts[number]) if number else stretch.last_shown
        return tuple(found)

    def _is_break(self, stamp: int, *, has_dts: bool) -> bool:
        here = self._stretches[-1]
        step = stamp - here.last
        is_short = len(self._stretches) > 1 and here.num_packets <= _STRAY_PACKETS
        if is_short and step > _RETURN_SECONDS / self._time_base and self._continued_by(stamp) is not None:
            return True
        most = _FALL_SECONDS if has_dts else _FALL_SECONDS_OF_DISPLAY
        return step < -most / self._time_base or (self._leap is not None and step > self._leap)

    def _continued_by(self, stamp: int) -> int | None:
        """The earlier stretch that goes on here: what lay between was a stray time."""
        most = _RETURN_SECONDS / self._time_base
        for number in range(len(self._stretches) - 2, -1, -1):
            if 0 < stamp - self._stretches[number].last <= most:
                return number
        return None


@dataclass(slots=True)
class _Stretch:
    """Packets with one clock."""

    position: int
    last: int
    """Time of the last packet so far, of decoding where there is one."""
    continues: int | None
    """Number of an earlier stretch with the same clock."""
    first_shown: int | None = None
    last_shown: int | None = None
    num_packets: int = 0


def shifts_in_ticks(changes: Sequence[ClockChange], positions: Sequence[int | None], time_base: Fraction) -> array[int]:
    """Return what to add to the time of each picture whose packet lies at the given place in the file.

    Args:
        positions: of the pictures in the order in which they are shown; unknown ones lie where the one before does.
    """
    starts = [change.position for change in changes]
    shifts = [0, *(round(change.shift / time_base) for change in changes)]
    found = array("q")
    last = 0
    for position in positions:
        last = position if position is not None else last
        found.append(shifts[bisect_right(starts, last)])
    return found


class TrackClock:
    """Moves the packets of sound and text onto the one clock.

    Where the clock changes, the file's streams do not change at one place: sound of the new recording
    may lie before its first picture, and sound of the old one behind it. Near a change that clock is taken
    with which a packet comes closest to the pictures beside it and to the end of its own track so far.
    """

    def __init__(self, changes: Sequence[ClockChange], video_index: int) -> None:
        """Begin at the beginning of the file.

        Args:
            video_index: the stream of which the changes are known.
        """
        self._changes = changes
        self._starts = [change.position for change in changes]
        self._shifts = [Fraction(0), *(change.shift for change in changes)]
        self._video_index = video_index
        self._position = 0
        self._now: Fraction | None = None
        self._ends: dict[int, Fraction] = {}
        self._last: dict[int, int] = {}

    def place(self, packet: av.Packet[Any]) -> bool:
        """Move a packet, all streams' in the order of the file; False when it is none to write.

        That are the pictures themselves, which only show how far the file is, and sound that a
        recording holds beyond its pictures and for which the next one leaves no time.
        """
        self._position = packet.pos if packet.pos is not None else self._position
        stamp = packet.pts if packet.pts is not None else packet.dts
        if packet.stream_index == self._video_index:
            if stamp is not None:
                self._now = stamp * packet.time_base + self._shifts[bisect_right(self._starts, self._position)]
            return False
        if stamp is None:
            return True
        index = packet.stream_index
        is_sound = packet.stream.type == "audio"
        number = self._choose(stamp * packet.time_base, self._ends.get(index) if is_sound else None)
        time = stamp * packet.time_base + self._shifts[number]
        duration = (packet.duration or 0) * packet.time_base
        if is_sound and number != self._last.get(index, number) and time + duration / 2 < self._ends[index]:
            return False
        self._last[index] = number
        self._ends[index] = time + duration
        ticks = round(self._shifts[number] / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts + ticks
        packet.dts = None if packet.dts is None else packet.dts + ticks
        return True

    def _choose(self, time: Fraction, end: Fraction | None) -> int:
        """The number of the clock that a time belongs to."""
        here = bisect_right(self._starts, self._position)
        now = self._now
        if now is None:
            return here
        choices = [here]
        if here < len(self._changes) and abs(self._changes[here].start - now) < _NEAR_SECONDS:
            choices.append(here + 1)
        if here and abs(now - self._changes[here - 1].start) < _NEAR_SECONDS:
            choices.append(here - 1)

        def distance(number: int) -> Fraction:
            moved = time + self._shifts[number]
            return abs(moved - now) + (abs(moved - end) if end is not None else 0)

        return min(choices, key=distance)
