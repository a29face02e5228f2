"""Cross-fading two decoded frames of one pixel format, plane by plane, in integers."""

from typing import Any

import av
import numpy as np
from numpy.typing import NDArray


def blend_frames(earlier: av.VideoFrame, later: av.VideoFrame, *, position: int, length: int) -> av.VideoFrame:
    """Mix frame ``position`` of a cross-fade that is ``length`` frames long.

    The later frame weighs (position + 1) / (length + 1): linear with both end points left out, so that
    every frame of the overlap is a real mixture and the weights of the two sum to one. Blending the
    master's own planes keeps it to a single rounding.

    Args:
        earlier: the predecessor's frame; fades out.
        later: the successor's frame of the same time, size and pixel format; is overwritten and returned.
        position: number of the frame within the overlap, from 0.
        length: frames in the overlap.
    """
    if (earlier.format.name, earlier.width, earlier.height) != (later.format.name, later.width, later.height):
        raise ValueError(
            f"cannot blend {earlier.width}x{earlier.height} {earlier.format.name} "
            f"with {later.width}x{later.height} {later.format.name}"
        )
    weight, total = position + 1, length + 1
    wide = max(component.bits for component in later.format.components) > 8
    dtype: np.dtype[Any] = np.dtype(np.uint16 if wide else np.uint8)
    for early_plane, late_plane in zip(earlier.planes, later.planes, strict=True):
        early, late = _codes(early_plane, dtype), _codes(late_plane, dtype)
        mixed = early.astype(np.uint32) * (total - weight) + late.astype(np.uint32) * weight + total // 2
        late[:] = (mixed // total).astype(dtype)
    return later


def _codes(plane: av.video.plane.VideoPlane, dtype: np.dtype[Any]) -> NDArray[Any]:
    """View one plane's rows; writes go to the frame. The padding at their ends is mixed too, harmlessly."""
    codes: NDArray[Any] = np.frombuffer(memoryview(plane), dtype)
    return codes.reshape(plane.height, -1)
