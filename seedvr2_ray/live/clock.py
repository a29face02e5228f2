"""One clock for a stream whose own timestamps jump, wrap and start anew."""

from dataclasses import dataclass, field
from fractions import Fraction

JITTER = Fraction(1, 10)
"""Seconds by which a track may go back before that counts as a jump."""
FURTHEST = Fraction(2)
"""Seconds of silence that are believed: what lies further ahead than anything that came is another clock."""
_WRAPS = (Fraction(2**33, 90000), Fraction(2**32, 1000))
"""Seconds after which the counters of MPEG-TS and of RTMP begin again."""


@dataclass(slots=True)
class _Track:
    epoch: int
    end: Fraction | None = None
    """When what came last was over."""


@dataclass(slots=True)
class StreamClock:
    """Puts the samples of all tracks on one line that begins at 0 and never goes back.

    A source's pictures and sound share its clock, so they share the offset from it: where the clock jumps, one offset
    is chosen for all tracks, and each goes over to it with its own first sample behind the jump, as those before it may
    still be under way. Nothing is ever estimated between jumps, so sound and picture cannot drift apart. Times
    without a source, such as the seconds a sender was gone, are left out.
    """

    _offsets: list[Fraction] = field(default_factory=list)
    _tracks: dict[str, _Track] = field(default_factory=dict)
    num_jumps: int = 0
    """How often the source's clock was another one than before."""

    def place(self, track: str, at: Fraction | None, duration: Fraction) -> Fraction:
        """Return when a sample is due.

        Args:
            track: whose samples are in order of time.
            at: seconds by the source's clock; None where it does not say.
            duration: of the sample, in seconds.
        """
        known = self._tracks.get(track)
        if known is None:
            known = self._tracks[track] = _Track(epoch=max(0, len(self._offsets) - 1))
        if not self._offsets and at is not None:
            self._offsets.append(self._end - at)
        placed = self._latest(known) if at is None else self._placed(known, at)
        known.end = max(placed + duration, placed if known.end is None else known.end)
        return placed

    def begin_anew(self) -> None:
        """Expect another clock: the source was opened again, and its times have nothing to do with those before."""
        if self._offsets:
            self.num_jumps += 1
            for track in self._tracks.values():
                track.epoch = -1

    def _placed(self, track: _Track, at: Fraction) -> Fraction:
        if track.epoch >= 0:
            placed = at + self._offsets[track.epoch]
            if track.end is None or self._follows(track, placed):
                return placed
        newest = len(self._offsets) - 1
        if track.epoch != newest and self._is_in_use(newest):
            placed = at + self._offsets[newest]
            own_end = self._latest(track)
            if own_end - FURTHEST <= placed <= self._end + FURTHEST:
                # It had more to say before the jump than the others: all of them wait for it, so that it loses nothing.
                if placed < own_end - JITTER:
                    self._offsets[newest] += own_end - placed
                    placed = own_end
                track.epoch = newest
                return placed
        return self._start_epoch(track, at)

    def _start_epoch(self, track: _Track, at: Fraction) -> Fraction:
        if track.epoch >= 0:
            self.num_jumps += 1
            for wrap in _WRAPS:
                offset = self._offsets[track.epoch] + wrap
                if self._follows(track, at + offset):
                    return self._adopt(track, offset, at)
        return self._adopt(track, self._end - at, at)

    def _adopt(self, track: _Track, offset: Fraction, at: Fraction) -> Fraction:
        self._offsets.append(offset)
        track.epoch = len(self._offsets) - 1
        return at + offset

    def _is_in_use(self, epoch: int) -> bool:
        return any(track.epoch == epoch for track in self._tracks.values())

    def _follows(self, track: _Track, placed: Fraction) -> bool:
        return self._latest(track) - JITTER <= placed <= self._end + FURTHEST

    def _latest(self, track: _Track) -> Fraction:
        return self._end if track.end is None else track.end

    @property
    def _end(self) -> Fraction:
        return max((track.end for track in self._tracks.values() if track.end is not None), default=Fraction(0))
