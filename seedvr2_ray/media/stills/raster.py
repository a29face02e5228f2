"""The samples of a decoded still image, on their way from a reader to a frame.

Shape letters used by the readers of stills: H height, W width, C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import av
import numpy as np
from numpy.typing import NDArray

from seedvr2_ray.errors import DamagedMediaError, MediaError
from seedvr2_ray.media.info import Notice

Array = NDArray[Any]
SizeCheck = Callable[[int, int], None]
"""Told width and height before anything is decoded; raises what is too large."""

DAMAGED_PICTURE = "damaged picture"
"""Subject of the notice about a still of which only a part was read."""
_NUM_COLOURS = {"grey": 1, "rgb": 3, "cmyk": 4, "lab": 3}
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class StillTags:
    """What a file says about its picture besides the samples, each as it is stored."""

    icc: bytes | None = None
    exif: bytes | None = None
    """A TIFF structure, without the prefix it has in JPEG."""
    xmp: bytes | None = None
    iptc: bytes | None = None
    """IPTC-IIM records, without Photoshop's wrapping."""
    dpi: tuple[float, float] | None = None
    """Print resolution, dots per inch."""
    orientation: int = 1
    """EXIF's way up, 1 to 8, that the samples still have to be turned by."""
    code_points: tuple[int, int] | None = None
    """H.273 numbers of primaries and transfer (PNG's cICP, HEIF's nclx), where they are named."""


@dataclass(frozen=True, slots=True)
class Raster:
    """Samples as decoded, before colours are brought to R'G'B'."""

    samples_HWC: Array
    """uint8, or uint16 that uses its whole range; alpha last. CMYK counts ink; Lab is float32."""
    space: Literal["grey", "rgb", "cmyk", "lab"]
    tags: StillTags
    notices: tuple[Notice, ...] = field(default=())

    def __post_init__(self) -> None:
        num_channels = self.samples_HWC.shape[2]
        if num_channels - _NUM_COLOURS[self.space] not in (0, 1):
            raise ValueError(f"{self.space} samples have {num_channels} channels")

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is transparency."""
        return int(self.samples_HWC.shape[2]) > _NUM_COLOURS[self.space]

    def noting(self, *notices: Notice) -> "Raster":
        """Return the same picture with more said about it."""
        return replace(self, notices=(*self.notices, *notices))


def wide(samples: Array, bits: int) -> Array:
    """Spread codes of fewer bits than their type has over its whole range, rounding to the nearest."""
    depth = 8 if bits <= 8 else 16
    dtype = np.dtype(np.uint8 if depth == 8 else np.uint16)
    peak = (1 << bits) - 1
    if bits in (8, 16):
        return samples.astype(dtype, copy=False)
    table = np.round(np.arange(peak + 1) * ((1 << depth) - 1) / peak).astype(dtype)
    return np.take(table, samples, mode="clip")


def from_floats(samples: Array) -> Array:
    """Turn floating point in 0..1 into 16-bit codes; what lies beyond is cut, and no number is black."""
    codes = np.empty(samples.shape, np.uint16)
    for start in range(0, len(samples), _ROWS_AT_ONCE):
        rows = np.nan_to_num(samples[start : start + _ROWS_AT_ONCE].astype(np.float32), posinf=1.0, neginf=0.0)
        codes[start : start + _ROWS_AT_ONCE] = np.round(rows.clip(0.0, 1.0) * 65535.0)
    return codes


FLOATS_ARE_CUT = Notice(
    "converted", "bit depth", "floating point becomes 16 bits; values beyond black and white are cut"
)


def without_needless_alpha(raster: Raster) -> Raster:
    """Leave transparency out where there is none: most files with room for it are opaque."""
    if not raster.has_alpha:
        return raster
    peak = np.iinfo(raster.samples_HWC.dtype).max
    if bool((raster.samples_HWC[..., -1] != peak).any()):
        return raster
    return replace(raster, samples_HWC=raster.samples_HWC[..., :-1])


def to_frame(raster: Raster) -> av.VideoFrame:
    """Return grey or R'G'B'(A) samples as a frame: ``gray`` or planar ``gbrp``, of 8 or 16 bits."""
    samples_HWC = raster.samples_HWC
    if raster.space == "grey" and raster.has_alpha:
        samples_HWC = np.concatenate([np.repeat(samples_HWC[..., :1], 3, axis=2), samples_HWC[..., 1:]], axis=2)
    order = {1: (0,), 3: (1, 2, 0), 4: (1, 2, 0, 3)}[samples_HWC.shape[2]]
    name = {1: "gray", 3: "gbrp", 4: "gbrap"}[len(order)] + ("" if samples_HWC.dtype == np.uint8 else "16le")
    height, width = samples_HWC.shape[:2]
    frame = av.VideoFrame(width, height, name)
    for plane, channel in zip(frame.planes, order, strict=True):
        target_HW = np.ndarray(
            (height, width),
            samples_HWC.dtype.newbyteorder("<"),
            buffer=memoryview(plane),
            strides=(plane.line_size, samples_HWC.dtype.itemsize),
        )
        np.copyto(target_HW, samples_HWC[..., channel])
    frame.color_range = 2
    frame.pts = 0
    return frame


def damaged_still(path: str, why: object) -> MediaError:
    """The error for a still that does not decode wholly, of a kind of which no part can be trusted."""
    return MediaError(
        f"{path} is damaged: {_sentence(why)}; nothing of it can be salvaged: copy it again from where it came, "
        "or open it and save it anew with a program that tolerates the damage"
    )


def salvageable_still(path: str, why: object) -> DamagedMediaError:
    """The error for a still of which the undamaged part can be restored."""
    return DamagedMediaError(f"{path} is damaged: {_sentence(why)}; pass --salvage to restore what can be read")


def unsupported_still(path: str, what: object) -> MediaError:
    """The error for a sound still of a kind that nobody here reads."""
    return MediaError(f"{path} is not read here: {_sentence(what)}; convert it to PNG or 8- or 16-bit TIFF first")


def _sentence(why: object) -> str:
    text = " ".join(str(why).split()).rstrip(".;")
    return text[:200] or type(why).__name__
