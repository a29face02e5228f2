"""Before and after as pictures for people: pairs for the report's slider, and one still for a page.

Shape letters: C channels, H height, W width.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
import torch
import torch.nn.functional as F
from torch import Tensor

from seedvr2_ray.frames import to_codes, to_unit_range

JPEG_QUANTISER = 2
"""The best that FFmpeg's encoder offers; a comparison must not show its own artefacts."""
_GREY_BEHIND_ALPHA = 0.5
_BORDER_WIDTH = 4

_GLYPHS = {
    "A": "01110 10001 10001 11111 10001 10001 10001",
    "B": "11110 10001 10001 11110 10001 10001 11110",
    "E": "11111 10000 10000 11110 10000 10000 11111",
    "F": "11111 10000 10000 11110 10000 10000 10000",
    "O": "01110 10001 10001 10001 10001 10001 01110",
    "R": "11110 10001 10001 11110 10100 10010 10001",
    "T": "11111 00100 00100 00100 00100 00100 00100",
}
"""The letters of BEFORE and AFTER: no font is sure to be installed, and these are all that is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonPicture:
    """One frame before and after, both of the restored size."""

    caption: str
    before: bytes
    """A JPEG or PNG file, scaled up to the size of ``after``."""
    after: bytes
    width: int
    height: int


def compare_frames(before_CHW: Tensor, after_CHW: Tensor, caption: str) -> ComparisonPicture:
    """Encode a frame and its restoration as two JPEG files of one size.

    Args:
        before_CHW: uint8 or uint16, three channels or four; scaled bicubically to the size of ``after_CHW``.
        after_CHW: the same, restored.
        caption: which frame it is.
    """
    height, width = after_CHW.shape[-2:]
    return ComparisonPicture(
        caption=caption,
        before=_encode(_scaled(_opaque(before_CHW), height, width), "mjpeg"),
        after=_encode(_opaque(after_CHW), "mjpeg"),
        width=width,
        height=height,
    )


def side_by_side(before_CHW: Tensor, after_CHW: Tensor) -> bytes:
    """Return one PNG file with both pictures next to each other, labelled.

    Args:
        before_CHW: uint8 or uint16, three channels or four; scaled bicubically to the size of ``after_CHW``.
        after_CHW: the same, restored.
    """
    height, width = after_CHW.shape[-2:]
    before = _labelled(_scaled(_opaque(before_CHW), height, width), "BEFORE")
    after = _labelled(_opaque(after_CHW), "AFTER")
    border = torch.ones(3, height, _BORDER_WIDTH)
    return _encode(torch.cat([before, border, after], dim=-1), "png")


def _opaque(codes_CHW: Tensor) -> Tensor:
    """Return R'G'B' in 0..1; what is transparent lies on grey, where dark and bright edges both show."""
    values = to_unit_range(codes_CHW)
    if len(values) == 3:
        return values
    return torch.lerp(torch.full_like(values[:3], _GREY_BEHIND_ALPHA), values[:3], values[3:])


def _scaled(picture_CHW: Tensor, height: int, width: int) -> Tensor:
    if picture_CHW.shape[-2:] == (height, width):
        return picture_CHW
    return F.interpolate(picture_CHW[None], (height, width), mode="bicubic", align_corners=False, antialias=True)[0]


def _labelled(picture_CHW: Tensor, text: str) -> Tensor:
    """Write a word into the lower left corner: white on a darkened box, a twentieth of the height."""
    _, height, width = picture_CHW.shape
    ink = _ink(text)
    dot = max(1, height // (20 * 7))
    ink = ink.repeat_interleave(dot, 0).repeat_interleave(dot, 1)
    rows, columns = ink.shape
    top, left = height - rows - 3 * dot, 3 * dot
    if top < 0 or left + columns > width:
        return picture_CHW
    labelled = picture_CHW.clone()
    box = labelled[:, top : top + rows, left : left + columns]
    box.mul_(0.35)
    box.add_(ink * (1 - box))
    return labelled


def _ink(text: str) -> Tensor:
    """Return 1 where a word's dots are, with two dots of room around and one between letters."""
    letters = []
    for letter in text:
        rows = [[float(dot) for dot in row] for row in _GLYPHS[letter].split()]
        letters.append(F.pad(torch.tensor(rows), (0, 1)))
    return F.pad(torch.cat(letters, dim=1), (2, 1, 2, 2))


def _encode(picture_CHW: Tensor, codec: Literal["mjpeg", "png"]) -> bytes:
    """Return the bytes of one JPEG or PNG file."""
    codes_HWC = to_codes(picture_CHW, torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
    frame = av.VideoFrame.from_ndarray(codes_HWC, "rgb24")
    if codec == "mjpeg":
        # What every viewer assumes of a JPEG file: the BT.601 matrix at full range, here without chroma subsampling.
        frame = frame.reformat(format="yuvj444p", dst_colorspace="ITU601", dst_color_range="JPEG")
    context = av.CodecContext.create(codec, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt = frame.width, frame.height, frame.format.name
    context.time_base = Fraction(1)
    if codec == "mjpeg":
        context.options = {"qmin": str(JPEG_QUANTISER), "qmax": str(JPEG_QUANTISER)}
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
