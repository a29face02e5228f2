"""Where the cuts are, so that nothing is carried or blended across one."""

from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scenedetect import (  # type: ignore[import-untyped]
    AdaptiveDetector,
    ContentDetector,
    FrameTimecode,
)

DETECTOR_VERSION = 2
"""Raised when a change here moves cuts: remembered shots are then looked for again."""

# A missed cut bleeds into the next shot; a false one costs next to nothing. So both rules of PySceneDetect
# are asked, at their published thresholds, and either one's word is taken: a change that is large in itself
# (27 of 255 levels over hue, saturation and value), or one of at least 15 that is three times its neighbours'.
_LARGE_CHANGE = 27.0
_STANDING_OUT = 3.0
_LEAST_CHANGE = 15.0
_NEIGHBOURS = 2
_NEARLY_BLACK = 16
"""Of 255: below, nobody sees a hue."""
_LOOKED_AT_WIDTH = 128
"""Pixels: means over a frame need no more, and looking at each is what takes the time."""


def detect_shots(
    thumbnails: Iterable[tuple[int, NDArray[np.uint8]]], num_frames: int, *, frame_rate: Fraction
) -> tuple[int, ...]:
    """Find the first frame of every shot.

    Over-segments rather than under-segments: a flash or a whip pan may be cut into many shots, and
    a shot may be one frame long. Slow fades are not cut, except perhaps where they are black. Memory
    does not grow with the video.

    Args:
        thumbnails: small RGB pictures, H x W x 3, all of one size, with their frame numbers, which
            increase; frames that cannot be decoded may be missing.
        num_frames: length of the video.
        frame_rate: of the video; only counts in the detector's own clock.

    Returns:
        Increasing frame numbers below ``num_frames``; the first is 0.
    """
    content = ContentDetector(threshold=_LARGE_CHANGE, min_scene_len=0)
    adaptive = AdaptiveDetector(
        adaptive_threshold=_STANDING_OUT,
        min_scene_len=0,
        window_width=_NEIGHBOURS,
        min_content_val=_LEAST_CHANGE,
    )
    starts = {0}
    for number, picture in _with_still_ends(thumbnails):
        time = FrameTimecode(number + _NEIGHBOURS, fps=frame_rate)
        picture_bgr = _prepare(picture)
        for cut in (*content.process_frame(time, picture_bgr), *adaptive.process_frame(time, picture_bgr)):
            starts.add(cut.frame_num - _NEIGHBOURS)
    return tuple(sorted(start for start in starts if 0 <= start < num_frames))


def _prepare(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what the detectors compare: a coarse B'G'R' picture without hues in the dark.

    Nearly black pixels become grey: a codec's noise there is one level of one colour, which is a
    pure hue at full saturation, and another one in the next frame.
    """
    step = max(1, picture.shape[1] // _LOOKED_AT_WIDTH)
    picture = picture[::step, ::step]
    picture_bgr = np.ascontiguousarray(picture[:, :, ::-1])
    value = np.maximum(np.maximum(picture[:, :, 0], picture[:, :, 1]), picture[:, :, 2])
    is_dark = value < _NEARLY_BLACK
    picture_bgr[is_dark] = value[is_dark, None]
    return picture_bgr


def _with_still_ends(
    thumbnails: Iterable[tuple[int, NDArray[np.uint8]]],
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Repeat the first and the last picture, so that cuts near the ends have the neighbours the rule looks at."""
    last: tuple[int, NDArray[np.uint8]] | None = None
    for number, picture in thumbnails:
        if last is None:
            yield from ((number - back, picture) for back in range(_NEIGHBOURS, 0, -1))
        yield number, picture
        last = number, picture
    if last is not None:
        yield from ((last[0] + ahead, last[1]) for ahead in range(1, _NEIGHBOURS + 1))
