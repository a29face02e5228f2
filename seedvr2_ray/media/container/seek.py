"""Finding frames in a file: jump to a key frame before them, decode, and check that they are the ones.

Containers lie about where key frames are, and the pictures after a jump may lack what they were
predicted from (open GOPs). So nothing is believed that the frames' own timestamps do not confirm;
what is missing is looked for further back, at last from the beginning of the file, before it is
called damaged.
"""

from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction

import av

from seedvr2_ray.frames import FrameSpan
from seedvr2_ray.media.container.info import VideoInfo
from seedvr2_ray.media.container.source import (
    BACKTRACK_SECONDS,
    DecodedFrame,
    damaged,
    decode_packets,
    open_source,
    stamp_of,
)
from seedvr2_ray.media.stills.reader import read_still


@dataclass(frozen=True, slots=True)
class Found:
    """One frame of a span."""

    number: int
    frame: av.VideoFrame
    is_neighbour: bool = False
    """Just outside the span, given because the deinterlacer looks at it."""


def find_frames(
    path: str,
    video: VideoInfo,
    span: FrameSpan,
    *,
    salvage: bool,
    num_threads: int = 0,
    on_missing: Callable[[int], None] | None = None,
    with_neighbours: bool = False,
) -> Generator[Found]:
    """Give the frames of a span in order, each exactly once.

    Args:
        salvage: let the last frame before stand in for one that the decoder does not give, and take
            what the decoder made of one it could only half read.
        on_missing: told the number of every such frame.
        with_neighbours: also give the frame before and the frame after the span, where there are any.

    Raises:
        DamagedMediaError: a frame cannot be decoded and ``salvage`` is off.
    """
    if not len(span):
        return
    if video.is_still:
        still = read_still(path, salvage=salvage)
        if still.is_damaged and on_missing is not None:
            on_missing(0)
        yield Found(0, still.frame)
        return
    num_sound_misses = 0
    for seek_to in _starting_points(video, span, with_neighbours):
        # Two jumps that landed well and still missed the frame: decoding everything before would too.
        is_last = seek_to is None or num_sound_misses >= 2
        matcher = _Matcher(
            path, video, span, salvage=salvage, on_missing=on_missing, with_neighbours=with_neighbours, is_last=is_last
        )
        with closing(_decode_from(path, video, seek_to, num_threads, matcher.target, careful=salvage)) as frames:
            try:
                for decoded in frames:
                    yield from matcher.accept(decoded)
                    if matcher.is_done:
                        return
                yield from matcher.finish()
            except _TryFurtherBack:
                num_sound_misses += matcher.landed_well
                continue
        return
    raise damaged(path, "not one frame can be decoded")


def _starting_points(video: VideoInfo, span: FrameSpan, with_neighbours: bool) -> Iterator[int | None]:
    # The first frames need no jump, and where times mean nothing there is nowhere to jump to.
    if span.start > 0 and video.timestamps != "counted":
        target = span.pts[0] - int(with_neighbours)
        for seconds in BACKTRACK_SECONDS:
            yield target - round(Fraction(seconds) / video.time_base)
    yield None


def _decode_from(
    path: str, video: VideoInfo, seek_to: int | None, num_threads: int, target: int, *, careful: bool
) -> Generator[DecodedFrame]:
    # Decoders that work on several frames at once lose more than the damaged ones, and how many depends
    # on the machine. Salvaged pictures must not, and neither must the order that counts without times.
    with open_source(path, video.stream_index) as source:
        yield from decode_packets(
            source,
            seek_to=seek_to,
            num_threads=num_threads,
            thread_type="AUTO" if video.timestamps == "pts" and not careful else "SLICE",
            latest_start=target if video.timestamps == "pts" and seek_to is not None else None,
        )


class _TryFurtherBack(Exception):
    """The frames at the start of the span did not come; they may when decoding begins earlier."""


class _Matcher:
    """Tells which decoded frames are the wanted ones, and fills the gaps between them."""

    def __init__(
        self,
        path: str,
        video: VideoInfo,
        span: FrameSpan,
        *,
        salvage: bool,
        on_missing: Callable[[int], None] | None,
        with_neighbours: bool,
        is_last: bool,
    ) -> None:
        self._path = path
        self._video = video
        self._span = span
        self._salvage = salvage
        self._on_missing = on_missing
        self._with_neighbours = with_neighbours
        self._is_last = is_last
        self._wanted: Sequence[int] = range(span.start, span.stop) if video.timestamps == "counted" else span.pts
        self._position = 0
        self._num_decoded = 0
        self._last_stamp: int | None = None
        self._previous: av.VideoFrame | None = None
        self._has_begun = False
        # For presentation times ``decode_packets`` sees to it that decoding begins early enough.
        self._is_anchored = is_last or video.timestamps == "pts"
        self.is_done = False

    @property
    def landed_well(self) -> bool:
        """Whether decoding began early enough to give the first wanted frame."""
        return self._is_anchored and self._num_decoded > 0

    @property
    def target(self) -> int:
        """The latest presentation time at which decoding may begin."""
        return self._span.pts[0] - int(self._with_neighbours and self._span.start > 0)

    def accept(self, decoded: DecodedFrame) -> Iterator[Found]:
        """Take the next frame of the decoder; give the frames of the span that are settled by it."""
        stamp = self._last_stamp = self._stamp(decoded)
        self._num_decoded += 1
        if stamp is not None and stamp < self._wanted[0]:
            self._is_anchored |= decoded.frame.key_frame
            self._previous = decoded.frame
            return
        if stamp is None:
            return  # Before anything that could be told apart.
        if not self._has_begun:
            self._require_start(decoded, stamp)
            yield from self._neighbour_before()
        if self._position == len(self._wanted):
            # Kept going for one frame only: the neighbour after the span.
            self.is_done = True
            yield Found(self._span.stop, decoded.frame, is_neighbour=True)
            return
        yield from self._match(decoded.frame, stamp)

    def finish(self) -> Iterator[Found]:
        """The file has ended; fill what is still missing."""
        if self._position == len(self._wanted):
            return
        if not self._has_begun:
            if not self._is_last or not self._num_decoded:
                raise _TryFurtherBack
            yield from self._neighbour_before()
        yield from self._fill_gap(len(self._wanted), None)

    def _stamp(self, decoded: DecodedFrame) -> int | None:
        if self._video.timestamps == "counted":
            return self._num_decoded
        stamp = stamp_of(decoded, self._video.timestamps)
        if stamp is None and self._last_stamp is not None:
            # What a decoder gives at the end of a file follows at the nominal rate, as the index has it.
            return self._last_stamp + max(1, round(1 / (self._video.frame_rate * self._video.time_base)))
        return stamp

    def _require_start(self, decoded: DecodedFrame, stamp: int) -> None:
        """Go on only when the first wanted frame is here and sound, or never will be."""
        first = self._wanted[0]
        if stamp == first and not self._with_neighbours:
            self._is_anchored |= decoded.frame.key_frame
        is_there = stamp == first and not decoded.frame.is_corrupt and self._is_anchored
        if not (is_there or self._is_last):
            raise _TryFurtherBack
        self._has_begun = True

    def _neighbour_before(self) -> Iterator[Found]:
        self._has_begun = True
        if self._with_neighbours and self._previous is not None:
            yield Found(self._span.start - 1, self._previous, is_neighbour=True)

    def _match(self, frame: av.VideoFrame, stamp: int) -> Iterator[Found]:
        reached = bisect_left(self._wanted, stamp, lo=self._position)
        yield from self._fill_gap(reached, frame)
        if reached < len(self._wanted) and self._wanted[reached] == stamp:
            if frame.is_corrupt:
                self._report(reached, reached + 1, "is damaged", "are damaged")
            yield Found(self._span.start + reached, frame)
            self._position = reached + 1
            self._previous = frame
        elif reached == len(self._wanted):
            self.is_done = True
            if self._with_neighbours:
                yield Found(self._span.stop, frame, is_neighbour=True)
            return
        self.is_done = self._position == len(self._wanted) and not self._with_neighbours

    def _fill_gap(self, stop: int, after: av.VideoFrame | None) -> Iterator[Found]:
        """Let a neighbour stand in for the frames up to ``stop``.

        It is the last frame before the gap, also when the gap reaches beyond the span: which picture
        stands in must not depend on where spans begin. Only before the first frame of all is it the next.
        """
        start, self._position = self._position, max(stop, self._position)
        if start >= stop:
            return
        self._report(start, stop, "cannot be decoded", "cannot be decoded")
        stand_in = self._previous or after
        if stand_in is None:
            raise damaged(self._path, "not one frame near the damage can be decoded")
        for position in range(start, stop):
            yield Found(self._span.start + position, stand_in)

    def _report(self, start: int, stop: int, singular: str, plural: str) -> None:
        first, last = self._span.start + start, self._span.start + stop - 1
        if not self._salvage:
            which = f"frame {first} {singular}" if first == last else f"frames {first} to {last} {plural}"
            raise damaged(self._path, which)
        if self._on_missing is not None:
            for number in range(first, last + 1):
                self._on_missing(number)
