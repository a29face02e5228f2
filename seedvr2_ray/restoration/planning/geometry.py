"""From the size of a source and a target in words to the size of the output, exactly."""

import re
from dataclasses import dataclass
from fractions import Fraction
from math import sqrt

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.media.info import Notice

MAX_SIDE = 16384
"""Pixels: no common encoder or player goes beyond."""
MAX_PIXELS = MAX_SIDE * 8640

_MALFORMED = (
    "resolution must be auto, 720p, 1080p, 1440p, 2160p, 4320p or any <N>p (short side), WxH, xN (as x2 or x1.5), "
    "or area:WxH; got {text!r}"
)

DEFAULT_MAX_PIXELS = 16384 * 8640
"""Of one picture, read or written, where nobody says otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """Sizes in pixels on the way through a restorer."""

    source_width: int
    """Of the decoded frames: rotation applied, pixels as stored (they may be non-square)."""
    source_height: int
    width: int
    """Of the output, with square pixels."""
    height: int


@dataclass(frozen=True, slots=True)
class ShortSide:
    """``1080p``: the shorter side gets this many pixels, the longer follows the display aspect."""

    pixels: int


@dataclass(frozen=True, slots=True)
class Box:
    """``1920x1080``: the largest size of the display aspect that fits inside."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Scale:
    """``x2``: both sides of the square-pixel picture are multiplied."""

    factor: Fraction


@dataclass(frozen=True, slots=True)
class Area:
    """``area:1280x720``: as many pixels as this, in the display aspect; the published script's rule."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class AtLeast:
    """``auto``: the shorter side gets this many pixels; a larger picture keeps its size."""

    pixels: int


Resolution = ShortSide | Box | Scale | Area | AtLeast

_AUTO = AtLeast(1080)


def parse_resolution(text: str) -> Resolution:
    """Read what a caller wrote as resolution.

    Raises:
        SettingsError: it has none of the known forms, or a size or factor of zero.
    """
    lowered = text.strip().lower()
    if lowered == "auto":
        return _AUTO
    resolution: Resolution | None = None
    if match := re.fullmatch(r"(\d{1,9})p", lowered):
        resolution = ShortSide(int(match[1]))
    elif match := re.fullmatch(r"(area:)?(\d{1,9})x(\d{1,9})", lowered):
        resolution = (Area if match[1] else Box)(int(match[2]), int(match[3]))
    elif match := re.fullmatch(r"x(\d{1,4}(?:\.\d{1,9})?)", lowered):
        resolution = Scale(Fraction(match[1]))
    if resolution is None or 0 in _numbers(resolution):
        raise SettingsError(_MALFORMED.format(text=text))
    return resolution


def plan_geometry(
    media_width: int,
    media_height: int,
    sample_aspect: Fraction,
    resolution: Resolution,
    *,
    even: bool,
    max_side: int = MAX_SIDE,
    max_pixels: int = MAX_PIXELS,
) -> Geometry:
    """Decide the size of the output; the whole picture stays in it, in its display aspect.

    Non-square pixels become square by enlarging the side that has too few, so that no detail is
    lost: 720x480 with pixels of 8:9 counts as 720x540 and becomes 1440x1080 for ``1080p``.
    Sizes are exact fractions until the end and rounded once, half to even, to whole pixels, or
    with ``even`` to even ones. A ``WxH`` is met exactly when only rounding stands in the way: when
    the fitting size differs from it by less than one pixel of the source.

    Args:
        media_width: of the decoded frames, rotation applied, in stored pixels.
        media_height: likewise.
        sample_aspect: width over height of one stored pixel.
        even: the master's chroma needs even sizes.
        max_side: limit on each side of the output in pixels.
        max_pixels: limit on width times height of the output.

    Raises:
        SettingsError: a size asked for in so many pixels is odd and must be even, or the output is
            beyond a limit.
    """
    if even:
        _require_even(resolution)
    width, height = _square_size(media_width, media_height, sample_aspect)
    step = 2 if even else 1
    if isinstance(resolution, Area):
        out_height, out_width = area_size(height, width, resolution)
        out_width, out_height = _even_down(out_width, step), _even_down(out_height, step)
    else:
        factor = _scale_factor(width, height, resolution)
        out_width, out_height = _rounded(width * factor, step), _rounded(height * factor, step)
        # A source that was itself rounded (854x480 for 16:9) still fills the box it was meant for.
        tolerance = max(factor, Fraction(step))
        if isinstance(resolution, Box) and _nearly_fills(resolution, width * factor, height * factor, tolerance):
            out_width, out_height = resolution.width, resolution.height
    _require_within(out_width, out_height, max_side, max_pixels)
    return Geometry(source_width=media_width, source_height=media_height, width=out_width, height=out_height)


def say_size(geometry: Geometry, sample_aspect: Fraction, resolution: Resolution) -> tuple[Notice, ...]:
    """Say when a picture does not grow: because it was large enough, or because a smaller one was asked for."""
    width, height = _square_size(geometry.source_width, geometry.source_height, sample_aspect)
    if isinstance(resolution, AtLeast) and min(width, height) > resolution.pixels:
        reason = f"already larger than {resolution.pixels}p, the size meant by auto; name a resolution to change it"
        return (Notice("kept", "size", reason),)
    # Rounding to even sides takes a line away without anybody meaning it.
    if width - geometry.width >= 2 or height - geometry.height >= 2:
        reason = (
            f"{round(width)}x{round(height)} becomes {geometry.width}x{geometry.height}: a smaller picture, as asked"
        )
        return (Notice("converted", "size", reason),)
    return ()


def area_size(height: Fraction | int, width: Fraction | int, area: Area) -> tuple[int, int]:
    """Return height and width by the rule of SeedVR2's published script, digit for digit.

    Only the product of the asked sides counts. The script computes in doubles and rounds each side
    half to even; so must this, or a size would now and then be one pixel off.
    """
    scale = sqrt(sqrt(area.height * area.width) ** 2 / float(height * width))
    return max(1, round(float(height) * scale)), max(1, round(float(width) * scale))


def _square_size(width: int, height: int, sample_aspect: Fraction) -> tuple[Fraction, Fraction]:
    if sample_aspect >= 1:
        return width * sample_aspect, Fraction(height)
    return Fraction(width), height / sample_aspect


def _scale_factor(width: Fraction, height: Fraction, resolution: ShortSide | Box | Scale | AtLeast) -> Fraction:
    if isinstance(resolution, AtLeast):
        return max(Fraction(1), resolution.pixels / min(width, height))
    if isinstance(resolution, ShortSide):
        return resolution.pixels / min(width, height)
    if isinstance(resolution, Box):
        return min(resolution.width / width, resolution.height / height)
    return resolution.factor


def _rounded(size: Fraction, step: int) -> int:
    return max(step, step * round(size / step))


def _even_down(size: int, step: int) -> int:
    # Downwards, because the published script then crops to multiples of 16: rounding up could reach the next one.
    return max(step, size - size % step)


def _nearly_fills(box: Box, width: Fraction, height: Fraction, tolerance: Fraction) -> bool:
    return box.width - width < tolerance and box.height - height < tolerance


def _numbers(resolution: Resolution) -> tuple[int | Fraction, ...]:
    if isinstance(resolution, ShortSide | AtLeast):
        return (resolution.pixels,)
    if isinstance(resolution, Scale):
        return (resolution.factor,)
    return (resolution.width, resolution.height)


def _require_even(resolution: Resolution) -> None:
    if isinstance(resolution, Area | Scale) or all(number % 2 == 0 for number in _numbers(resolution)):
        return
    asked = "x".join(str(number) for number in _numbers(resolution))
    raise SettingsError(
        f"resolution {asked} has an odd side and this kind of master holds even sizes only; choose an even one"
    )


def _require_within(width: int, height: int, max_side: int, max_pixels: int) -> None:
    if max(width, height) > max_side:
        raise SettingsError(
            f"the output would be {width}x{height} and a side may have {max_side} pixels; choose a smaller resolution"
        )
    if width * height > max_pixels:
        raise SettingsError(
            f"the output would be {width}x{height}, {width * height / 1e6:.1f} megapixels, and this deployment "
            f"allows {max_pixels / 1e6:.1f}; choose a smaller resolution, or raise the limit (--max-pixels)"
        )
