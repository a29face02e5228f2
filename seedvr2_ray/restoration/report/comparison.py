"""Before and after as pictures for people: pairs for the report's slider, and one still for a page.

Shape letters: C channels, H height, W width.
"""

import io
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from seedvr2_ray.frames import to_codes, to_unit_range

JPEG_QUALITY = 95
"""A comparison must not show its own artefacts; above this files grow and nothing is seen."""
_GREY_BEHIND_ALPHA = 0.5
_BORDER_WIDTH = 4
_BOX_OPACITY = 0.65


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
        before=_encode(_image(_scaled(_opaque(before_CHW), height, width)), "JPEG"),
        after=_encode(_image(_opaque(after_CHW)), "JPEG"),
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
    still = Image.new("RGB", (2 * width + _BORDER_WIDTH, height), "white")
    still.paste(_labelled(_image(_scaled(_opaque(before_CHW), height, width)), "BEFORE"), (0, 0))
    still.paste(_labelled(_image(_opaque(after_CHW)), "AFTER"), (width + _BORDER_WIDTH, 0))
    return _encode(still, "PNG")


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


def _labelled(picture: Image.Image, text: str) -> Image.Image:
    """Write a word into the lower left corner: white on a darkened box, a twentieth of the height."""
    font = ImageFont.load_default(max(8, picture.height // 20))
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
    room = max(2, (bottom - top) // 3)
    width, height = right - left + 2 * room, bottom - top + 2 * room
    corner = (room, picture.height - height - room)
    if corner[1] < 0 or corner[0] + width > picture.width:
        return picture
    box = picture.crop((*corner, corner[0] + width, corner[1] + height))
    box = Image.blend(box, Image.new("RGB", box.size), _BOX_OPACITY)
    ImageDraw.Draw(box).text((room - left, room - top), text, fill="white", font=font)
    picture.paste(box, corner)
    return picture


def _image(picture_CHW: Tensor) -> Image.Image:
    codes_HWC = to_codes(picture_CHW, torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
    return Image.fromarray(codes_HWC)


def _encode(picture: Image.Image, kind: Literal["JPEG", "PNG"]) -> bytes:
    """Return the bytes of one JPEG file, without chroma subsampling, or of one PNG file."""
    file = io.BytesIO()
    options = {"quality": JPEG_QUALITY, "subsampling": 0} if kind == "JPEG" else {}
    picture.save(file, kind, **options)
    return file.getvalue()
