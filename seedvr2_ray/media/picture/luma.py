"""The brightness of a decoded frame, read from its own planes."""

from typing import Any

import av
import numpy as np
from numpy.typing import NDArray


def luma_of(frame: av.VideoFrame, *, full_range: bool) -> NDArray[np.float32]:
    """Return how bright each pixel is, float32 H x W in 0..1.

    Of R'G'B' in planes this is green, which carries most of it; of packed R'G'B' the mean. Good enough to
    tell how much two frames of one video differ, which is all it is for.

    Args:
        full_range: whether black is 0 in a Y'CbCr frame; R'G'B' and grey always span their whole range.
    """
    bits = max(component.bits for component in frame.format.components)
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8 if bits == 8 else np.uint16).reshape(plane.height, -1)
    if _is_packed(frame.format):
        codes = (
            rows[:, : plane.width * 4].reshape(plane.height, plane.width, 4)[..., :3].astype(np.float32).mean(axis=-1)
        )
    else:
        codes = rows[:, : plane.width].astype(np.float32)
    is_limited = not (full_range or frame.format.is_rgb or frame.format.name.startswith("gray"))
    black, white = (16 << (bits - 8), 235 << (bits - 8)) if is_limited else (0, (1 << bits) - 1)
    unit_HW: NDArray[np.float32] = ((codes - black) / (white - black)).clip(0.0, 1.0)
    return unit_HW


def _is_packed(pixels: Any) -> bool:
    return bool(pixels.is_rgb) and not pixels.is_planar
