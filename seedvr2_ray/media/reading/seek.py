"""Finding frames in a file: jump to a key frame before them, decode, and check that they are the ones.

Containers lie about where key frames are, and the pictures after a jump may lack what they were
predicted from (open GOPs) or coded with (parameter sets). So nothing is believed that the frames' own
timestamps do not confirm, nor, where the pictures are known, that is not the picture; what is missing is
looked for further back, at last from the beginning of the file, before it is called damaged.
"""

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import av

from seedvr2_ray.errors import StorageError
from seedvr2_ray.frames import FrameSpan
from seedvr2_ray.media.container.source import DecodedFrame, damaged, decode_packets, open_source, stamp_of
from seedvr2_ray.media.info import VideoInfo
from seedvr2_ray.media.reading.proof import SpanProof
from seedvr2_ray.media.stills.reader import read_still

_MAX_JUMPS = 12
"""Each twice as far back as the one before: a day from a second."""

_FORGETFUL = {
    "mpeg1video",
    "mpeg2video",
    "mpeg4",
    "msmpeg4v2",
    "msmpeg4v3",
    "h263",
    "flv1",
    "wmv1",
    "wmv2",
    "wmv3",
    "vc1",
}
"""Decoders whose threads forget what was damaged: whether a frame is called so is chance with more than one. They are
quick alone."""


@dataclass(frozen=True, slots=True)
class Found:
    """One frame of a span."""

    number: int
    frame: av.VideoFrame
    is_neighbour: bool = False
    """Just outside the span, given because the deinterlacer looks at it."""
    is_missing: bool = False
    """Whether the picture is not the source's own, or only half of it is."""
    is_stand_in: bool = False
    """Whether it is another frame's altogether."""


def find_frames(
    path: str,
    video: VideoInfo,
    span: FrameSpan,
    *,
    salvage: bool,
    num_threads: int = 0,
    on_missing: Callable[[int], None] | None = None,
    with_neighbours: bool = False,
    proof: SpanProof | None = None,
) -> Generator[Found]:
    """Give the frames of a span in order, each exactly once.

    Args:
        salvage: let the last frame before stand in for one that the decoder does not give, and take
            what the decoder made of one it could only half read.
        on_missing: told the number of every such frame.
        with_neighbours: also give the frame before and the frame after the span, where there are any.
        proof: what the pictures are; no other is given.

    Raises:
        DamagedMediaError: a frame cannot be decoded and ``salvage`` is off.
        StorageError: not even decoding from the beginning gives the pictures of the proof.
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
    last = -1
    is_known = proof is not None and proof.crc_of(span.start) is not None
    starts = _Starts(video, span, with_neighbours=with_neighbours)
    while True:
        seek_to = starts.seek_to
        # Two jumps that landed well and still missed the frame: decoding everything before would too,
        # unless it is known that it did not.
        is_last = seek_to is None or (not is_known and num_sound_misses >= 2)
        matcher = _Matcher(
            path,
            video,
            span,
            salvage=salvage,
            with_neighbours=with_neighbours,
            is_last=is_last,
            is_from_beginning=seek_to is None,
            proof=proof,
        )
        with closing(_decode_from(path, video, seek_to, num_threads, matcher.target, careful=salvage)) as frames:
            try:
                for item in matcher.match(frames):
                    # What an earlier attempt gave before it went wrong is not given again.
                    if item.number <= last:
                        continue
                    last = item.number
                    if item.is_missing and on_missing is not None:
                        on_missing(item.number)
                    yield item
                return
            except _TryFurtherBack:
                num_sound_misses += matcher.landed_well
                starts.go_back(matcher.entry)


class _Starts:
    """Where to begin decoding: at the wanted frame, a key frame earlier, then ever further back."""

    def __init__(self, video: VideoInfo, span: FrameSpan, *, with_neighbours: bool) -> None:
        self.seek_to: int | None = None
        """Nothing for the beginning of the file."""
        # The first frames need no jump, and where times mean nothing there is nowhere to jump to.
        if span.start > 0 and video.timestamps != "counted":
            self.seek_to = span.pts[0] - int(with_neighbours)
        self._target = span.pts[0]
        self._distance = max(1, round(1 / video.time_base))
        self._num_jumps = 1
        self._entry: int | None = None

    def go_back(self, entry: int | None) -> None:
        """Choose the next start after a failure.

        Args:
            entry: time of the key frame at which the failed attempt began; nothing if it found none.
        """
        assert self.seek_to is not None, "there is nothing before the beginning"
        is_at_the_start = entry is not None and self._entry is not None and entry >= self._entry
        if is_at_the_start or self._num_jumps == _MAX_JUMPS:
            self.seek_to = None
            return
        before = self.seek_to if entry is None else min(self.seek_to, entry)
        is_first_entry = entry is not None and self._entry is None
        self.seek_to = before - 1 if is_first_entry else min(before - 1, self._target - self._distance)
        self._distance = 2 * max(self._distance, self._target - self.seek_to)
        self._entry = self._entry if entry is None else entry
        self._num_jumps += 1


def _decode_from(
    path: str, video: VideoInfo, seek_to: int | None, num_threads: int, target: int, *, careful: bool
) -> Generator[DecodedFrame]:
    # Decoders that work on several frames at once lose more than the damaged ones, and how many depends
    # on the machine; those that work on several slices conceal none of the loss. Salvaged pictures must not
    # depend on it, and neither must the order that counts without times.
    is_alone = careful or video.codec in _FORGETFUL
    with open_source(path, video.stream_index) as source:
        yield from decode_packets(
            source,
            seek_to=seek_to,
            num_threads=1 if is_alone else num_threads,
            thread_type="AUTO" if video.timestamps == "pts" and not is_alone else "SLICE",
            latest_start=target if video.timestamps == "pts" and seek_to is not None else None,
            closed=video.closed,
            by_dts=video.timestamps == "dts",
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
        with_neighbours: bool,
        is_last: bool,
        is_from_beginning: bool,
        proof: SpanProof | None,
    ) -> None:
        self._path = path
        self._video = video
        self._span = span
        self._salvage = salvage
        self._proof = proof
        self._with_neighbours = with_neighbours
        self._is_last = is_last
        self._is_from_beginning = is_from_beginning
        self._wanted: Sequence[int] = range(span.start, span.stop) if video.timestamps == "counted" else span.pts
        self._position = 0
        self._num_decoded = 0
        self._last_stamp: int | None = None
        self._previous: av.VideoFrame | None = None
        self._has_begun = False
        # For presentation times ``decode_packets`` sees to it that decoding begins early enough.
        self._is_anchored = is_last or video.timestamps == "pts"
        self._is_done = False
        self.entry: int | None = None
        """Time of the key frame at which decoding began."""

    @property
    def landed_well(self) -> bool:
        """Whether decoding began early enough to give the first wanted frame."""
        return self._is_anchored and self._num_decoded > 0

    @property
    def target(self) -> int:
        """The latest presentation time at which decoding may begin."""
        return self._span.pts[0] - int(self._with_neighbours and self._span.start > 0)

    def match(self, frames: Iterator[DecodedFrame]) -> Iterator[Found]:
        """Give the frames of the span out of those a decoder gives."""
        for decoded in frames:
            self.entry = decoded.entry
            for item in self._accept(decoded):
                yield self._proved(item)
            if self._is_done:
                return
        for item in self._finish():
            yield self._proved(item)

    def _proved(self, item: Found) -> Found:
        """Return what was found if it is the picture it should be."""
        if self._proof is None or self._proof.holds(item.number, item.frame):
            return item
        if item.is_neighbour and item.number == self._span.stop and self._previous is not None:
            # The frame after the span may be one that cannot be decoded, where the last one stands in.
            if self._proof.holds(item.number, self._previous):
                return replace(item, frame=self._previous)
        raise self._unproved(item.number)

    def _unproved(self, number: int) -> Exception:
        if not self._is_from_beginning:
            return _TryFurtherBack()
        return StorageError(
            f"{self._path}: frame {number} does not decode to the picture that it was when the file was first read, "
            "not even from the beginning: the file or its copy has changed, it is damaged in a way that its decoder "
            "does not notice, or this machine is faulty; run the same command again, and if that fails pass --salvage"
        )

    def _accept(self, decoded: DecodedFrame) -> Iterator[Found]:
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
            self._is_done = True
            yield Found(self._span.stop, decoded.frame, is_neighbour=True)
            return
        yield from self._match(decoded.frame, stamp)

    def _finish(self) -> Iterator[Found]:
        """The file has ended; fill what is still missing."""
        if self._position == len(self._wanted):
            return
        if not self._has_begun:
            if not (self._is_last or self._may_stand_in()):
                raise _TryFurtherBack
            if not self._num_decoded:
                raise damaged(self._path, "not one frame can be decoded")
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
        if not (is_there or self._is_last or self._may_stand_in()):
            raise _TryFurtherBack
        self._has_begun = True

    def _may_stand_in(self) -> bool:
        """Whether a frame that does not come may be filled in at once, as the proof tells if that is right."""
        return self._salvage and self._proof is not None and self._is_anchored and self._previous is not None

    def _neighbour_before(self) -> Iterator[Found]:
        self._has_begun = True
        if self._with_neighbours and self._previous is not None:
            yield Found(self._span.start - 1, self._previous, is_neighbour=True)

    def _match(self, frame: av.VideoFrame, stamp: int) -> Iterator[Found]:
        reached = bisect_left(self._wanted, stamp, lo=self._position)
        yield from self._fill_gap(reached, frame)
        if reached < len(self._wanted) and self._wanted[reached] == stamp:
            number = self._span.start + reached
            is_suspect = self._is_suspect(number)
            if frame.is_corrupt or is_suspect:
                self._report(reached, reached + 1, "is damaged", "are damaged", is_certain=is_suspect)
            yield Found(number, frame, is_missing=frame.is_corrupt or is_suspect)
            self._position = reached + 1
            self._previous = frame
        elif reached == len(self._wanted):
            self._is_done = True
            if self._with_neighbours:
                yield Found(self._span.stop, frame, is_neighbour=True)
            return
        self._is_done = self._position == len(self._wanted) and not self._with_neighbours

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
            yield Found(self._span.start + position, stand_in, is_missing=True, is_stand_in=True)

    def _is_suspect(self, number: int) -> bool:
        """Whether a checksum said of the frame what the decoder may not notice."""
        at = bisect_right(self._video.suspect, (number, sys.maxsize)) - 1
        return at >= 0 and self._video.suspect[at][0] <= number < self._video.suspect[at][1]

    def _report(self, start: int, stop: int, singular: str, plural: str, *, is_certain: bool = False) -> None:
        if self._salvage:
            return
        if not (self._is_last or is_certain):
            raise _TryFurtherBack
        first, last = self._span.start + start, self._span.start + stop - 1
        if self._proof is not None and self._proof.crc_of(first) is not None and not is_certain:
            raise self._unproved(first)
        which = f"frame {first} {singular}" if first == last else f"frames {first} to {last} {plural}"
        raise damaged(self._path, which)
