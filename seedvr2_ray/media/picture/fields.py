"""What the pictures themselves say about fields, where flags are missing or lie.

Captures of tapes and USB grabbers weave two moments into every frame and say nothing of it. What gives
them away is how well lines fit their neighbours when the fields of one frame are woven with those of the
frame before: in a progressive video both fields of a frame are of one moment, so any other weaving combs
more; in interlaced video the field that came just before fits as well as the frame's own.
"""

from dataclasses import dataclass
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

Verdict = Literal["interlaced", "telecined", "progressive", "unknown"]

MIN_HEIGHT, MAX_HEIGHT = 400, 1200
"""Lines between which material is made of fields at all; what is smaller or larger has been scaled."""

_COLUMN_STEP = 2
_MIN_MOTION = 0.04
"""How much more the worst weaving must comb than the frame, as a share, for motion to be seen at all."""
_MIN_MOTION_CODES = 0.15
_LIKE_NEIGHBOURS, _LIKE_ITSELF = 0.35, 0.6
_MIN_SEEN = 4
"""Frames with motion that a verdict needs."""
_MIN_SHARE = 0.6
_MIN_TELECINE = 0.2


@dataclass(slots=True)
class FieldCounts:
    """What was seen in consecutive frames."""

    top_first: int = 0
    """Frames whose lower field fits no better than that of the frame before: the upper field came first."""
    bottom_first: int = 0
    rematched: int = 0
    """Frames whose own fields fit worse than a field of the frame before does: video spread over fields."""
    progressive: int = 0

    @property
    def num_seen(self) -> int:
        """Frames with enough motion to tell."""
        return self.top_first + self.bottom_first + self.rematched + self.progressive

    @property
    def verdict(self) -> Verdict:
        """What the frames are; ``unknown`` without enough motion, or where they contradict one another.

        A picture that rolls by a line per frame fits itself in every weaving and tells nothing.
        """
        if self.num_seen < _MIN_SEEN:
            return "unknown"
        share = self.num_seen * _MIN_SHARE
        if max(self.top_first, self.bottom_first) >= share:
            return "interlaced"
        rhythm = self.num_seen * _MIN_TELECINE
        if min(self.rematched, self.progressive) >= rhythm and self.rematched + self.progressive >= share:
            return "telecined"
        return "progressive" if self.progressive >= share else "unknown"


class FieldReader:
    """Compares consecutive frames field by field. Frames of sizes that are never made of fields are passed over."""

    def __init__(self) -> None:
        """Nothing is seen yet."""
        self.counts = FieldCounts()
        self._reader = VideoReformatter()
        self._before: NDArray[np.int32] | None = None

    def accept(self, frame: av.VideoFrame) -> None:
        """Look at the next frame."""
        if not MIN_HEIGHT <= frame.height <= MAX_HEIGHT:
            return
        luma_HW = _luma(frame, self._reader)
        if self._before is not None and self._before.shape == luma_HW.shape:
            _compare(self._before, luma_HW, self.counts)
        self._before = luma_HW


def _compare(before_HW: NDArray[np.int32], luma_HW: NDArray[np.int32], counts: FieldCounts) -> None:
    own = _combing(luma_HW, luma_HW)
    top_first, bottom_first = _combing(luma_HW, before_HW), _combing(before_HW, luma_HW)
    best, worst = min(top_first, bottom_first), max(top_first, bottom_first)
    if worst - min(own, best) < max(_MIN_MOTION * min(own, best), _MIN_MOTION_CODES):
        return
    # 0 where the best field of the frame before fits as well as the frame's own, 1 where it fits as badly as the other.
    place = (best - own) / max(worst - own, 1e-9) if worst > own else -1.0
    if place >= _LIKE_ITSELF:
        counts.progressive += 1
    elif place < -_LIKE_NEIGHBOURS:
        counts.rematched += 1
    elif place <= _LIKE_NEIGHBOURS:
        if top_first < bottom_first:
            counts.top_first += 1
        else:
            counts.bottom_first += 1


def _combing(top_HW: NDArray[np.int32], bottom_HW: NDArray[np.int32]) -> float:
    """How much lines differ from the mean of their neighbours when the fields of two frames are woven."""
    upper, lower = top_HW[0::2], bottom_HW[1::2]
    rows = min(len(upper), len(lower))
    upper, lower = upper[:rows], lower[:rows]
    above_lower = np.abs(2 * lower[:-1] - upper[:-1] - upper[1:]).mean()
    around_upper = np.abs(2 * upper[1:] - lower[:-1] - lower[1:]).mean()
    return float(above_lower + around_upper) / 2


def _luma(frame: av.VideoFrame, reader: VideoReformatter) -> NDArray[np.int32]:
    grey: NDArray[Any] = reader.reformat(frame, format="gray", threads=1).to_ndarray()
    return grey[:, ::_COLUMN_STEP].astype(np.int32)
