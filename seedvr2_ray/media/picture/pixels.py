"""From a decoder's picture to R'G'B' numbers in a tensor: the right matrix, range, depth and way up."""

from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from seedvr2_ray.media.info import VideoInfo
from seedvr2_ray.media.picture.colour import MATRICES
from seedvr2_ray.media.picture.siting import EXACT, LeftSiting

Array = NDArray[Any]

_PLANES_IN_RGB_ORDER = (2, 0, 1, 3)
"""libav stores planar R'G'B'(A) as green, blue, red, alpha."""


def natural_depth(video: VideoInfo) -> Literal[8, 16]:
    """Bits of the codes that hold a source without loss."""
    return 8 if video.bit_depth <= 8 else 16


class PixelReader:
    """Writes decoded pictures of one source into planes of R'G'B'(A) codes.

    Keeps libswscale's tables between frames; not for use by several threads at once.
    """

    def __init__(self, video: VideoInfo, depth: Literal[8, 16], *, num_threads: int = 1) -> None:
        self._video = video
        self._num_threads = num_threads
        self._depth = depth
        self._reformatter = VideoReformatter()
        self._siting = LeftSiting(video)
        self._is_direct = _is_direct(video, depth)
        self._format = ("gbrap" if video.has_alpha else "gbrp") + ("" if depth == 8 else "16le")
        self._grey_codes: Array | None = None
        if video.chroma == "grey":
            read_bits = video.bit_depth if self._is_direct else depth
            self._grey_codes = _grey_codes(read_bits, depth, is_full_range=video.colour.full_range)
        is_limited = not video.colour.full_range and video.chroma not in ("rgb", "grey")
        self._colour_shift = 8 if is_limited else video.bit_depth

    @property
    def num_channels(self) -> int:
        """3, or 4 with alpha."""
        return 4 if self._video.has_alpha else 3

    def write(self, frame: av.VideoFrame, target_CHW: Array) -> None:
        """Convert one picture and turn it upright.

        Args:
            target_CHW: uint8 or uint16 as the depth asks, of the size after rotation; overwritten.
        """
        picture = frame if self._is_direct else self._to_planar(frame)
        if self._is_direct and self._grey_codes is not None:
            grey_HW = self._upright(_plane(picture, 0))
            np.take(self._grey_codes, grey_HW, out=target_CHW[0], mode="clip")
            target_CHW[1:3] = target_CHW[0]
            return
        for channel in range(self.num_channels):
            plane_HW = _plane(picture, _PLANES_IN_RGB_ORDER[channel])
            self._write_plane(self._upright(plane_HW), target_CHW[channel], is_alpha=channel == 3)

    def _to_planar(self, frame: av.VideoFrame) -> av.VideoFrame:
        frame = self._siting.applied(frame)
        describe(frame, self._video)
        return self._reformatter.reformat(
            frame, format=self._format, interpolation=EXACT, dst_color_range=2, threads=self._num_threads
        )

    def _upright(self, plane_HW: Array) -> Array:
        if self._video.mirrored:
            plane_HW = plane_HW[:, ::-1]
        # numpy turns anticlockwise.
        return np.rot90(plane_HW, -self._video.rotation // 90) if self._video.rotation else plane_HW

    def _write_plane(self, plane_HW: Array, target_HW: Array, *, is_alpha: bool) -> None:
        if self._grey_codes is not None and not is_alpha:
            np.take(self._grey_codes, plane_HW, out=target_HW, mode="clip")
        elif self._depth == 8:
            np.copyto(target_HW, plane_HW)
        else:
            bits = self._video.bit_depth
            if self._is_direct:
                plane_HW = plane_HW.astype(np.uint16) << (16 - bits)
            _spread(plane_HW, bits if is_alpha else self._colour_shift, target_HW)


def _is_direct(video: VideoInfo, depth: Literal[8, 16]) -> bool:
    """Whether the decoder's planes can be taken as they are.

    libswscale changes the depth of R'G'B' by way of luma and chroma, which costs half a code of 10 bits,
    and takes grey for full range.
    """
    name = video.pixel_format
    if "f16" in name or "f32" in name or (depth == 8 and video.bit_depth > 8):
        return False
    return name.startswith("gbr") or (video.chroma == "grey" and name.startswith("gray"))


def describe(frame: av.VideoFrame, video: VideoInfo) -> None:
    """Tell libswscale how the numbers of a frame are meant, also where the file does not."""
    if video.chroma in ("rgb", "grey"):
        return
    frame.colorspace = MATRICES[video.colour.matrix]
    frame.color_range = 2 if video.colour.full_range else 1


def _plane(frame: av.VideoFrame, number: int) -> Array:
    plane = frame.planes[number]
    is_deep = frame.format.components[0].bits > 8
    dtype = np.dtype((">u2" if frame.format.name.endswith("be") else "<u2") if is_deep else np.uint8)
    return np.ndarray(
        (plane.height, plane.width), dtype, buffer=memoryview(plane), strides=(plane.line_size, dtype.itemsize)
    )


def _spread(plane_HW: Array, shift: int, target_HW: Array) -> None:
    """Stretch codes so that white is 65535.

    libswscale widens n-bit codes by shifting, which leaves white at 65536 - 2^(16-n): 65280 for
    limited range, whose white it places as if it had 8 bits. Adding the top bits again below the
    lowest ones (x + x / 2^n) stretches that to 65535 exactly. Guarded by
    test_colours_match_an_exact_computation.
    """
    if shift >= 16:
        np.copyto(target_HW, plane_HW)
        return
    white = 65536 - (1 << (16 - shift))
    np.minimum(plane_HW, white, out=target_HW)
    target_HW += target_HW >> shift


def _grey_codes(bits: int, depth: Literal[8, 16], *, is_full_range: bool) -> Array:
    """What becomes of each code of a grey picture."""
    unit = 1 << (bits - 8)
    black, swing = (0, (1 << bits) - 1) if is_full_range else (16 * unit, 219 * unit)
    peak = (1 << depth) - 1
    codes = (np.arange(1 << bits) - black) * (peak / swing)
    return codes.round().clip(0, peak).astype(np.uint8 if depth == 8 else np.uint16)
