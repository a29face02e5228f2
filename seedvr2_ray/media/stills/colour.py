"""What a still's colour profile means for its samples: kept beside them, or used to convert them to sRGB.

R'G'B' keeps its numbers and its profile: the output shows the same colours, wide gamuts included. Ink, Lab
and grey with a profile cannot stay what they are in an R'G'B' output, so they become sRGB.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from seedvr2_ray.media.info import Notice
from seedvr2_ray.media.stills.raster import Array, Raster

_ROWS_AT_ONCE = 256
_SPACES = {"grey": b"GRAY", "rgb": b"RGB ", "cmyk": b"CMYK", "lab": b"Lab "}
_CMS_NAMES = {"grey": "gray", "rgb": "rgb", "cmyk": "cmyk"}
_WORDS = {"grey": "grey", "cmyk": "CMYK", "lab": "Lab"}
_SUBJECT = "colour profile"
_D50 = (0.9642, 1.0, 0.8249)
_XYZ_D50_TO_SRGB = (
    (3.1338561, -1.6168667, -0.4906146),
    (-0.9787684, 1.9161415, 0.0334540),
    (0.0719453, -0.2289914, 1.4052427),
)
"""Bradford-adapted, after ICC's D50."""
_P3 = (12, 13)
"""Code points of Display P3: primaries of SMPTE EG 432-1, transfer of sRGB."""
_SRGB_WHITE = (0.3127, 0.3290, 1.0)
_P3_PRIMARIES = (0.680, 0.320, 1.0, 0.265, 0.690, 1.0, 0.150, 0.060, 1.0)


def to_rgb(raster: Raster) -> Raster:
    """Return grey or R'G'B' samples; the tags keep the profile only where it still describes them."""
    if raster.space == "lab":
        return _plain(raster, _srgb_of_lab(raster.samples_HWC), "Lab is converted to sRGB by its definition")
    profile = raster.tags.icc
    if profile is not None and profile[16:20] != _SPACES[raster.space]:
        what = profile[16:20].decode("latin-1").strip() or "nothing"
        notice = Notice("left_out", _SUBJECT, f"it describes {what}, not {raster.space}; it is ignored")
        raster = replace(raster, tags=replace(raster.tags, icc=None)).noting(notice)
        profile = None
    if raster.space == "rgb":
        return _with_own_profile(raster)
    if profile is None:
        if raster.space == "grey":
            return raster
        return _plain(
            raster, _srgb_of_ink(raster.samples_HWC), "CMYK without a profile is converted to sRGB by the plain formula"
        )
    return _converted(raster, profile)


def _with_own_profile(raster: Raster) -> Raster:
    profile = raster.tags.icc
    if profile is None and raster.tags.code_points == _P3:
        # Only PNG has a place for code points; a profile says the same everywhere.
        profile = _display_p3()
        raster = replace(raster, tags=replace(raster.tags, icc=profile, code_points=None))
    if profile is None:
        return raster
    name = _name_of(profile)
    if name is None:
        notice = Notice("left_out", _SUBJECT, "it is damaged; the numbers are taken for sRGB")
        return replace(raster, tags=replace(raster.tags, icc=None)).noting(notice)
    # A profile says more than code points, and a reader must not find two answers.
    raster = replace(raster, tags=replace(raster.tags, code_points=None))
    return raster.noting(
        Notice("kept", _SUBJECT, f"{name} goes with the picture, whose numbers are restored as they are")
    )


def _converted(raster: Raster, profile: bytes) -> Raster:
    """Convert grey or ink to sRGB by its own profile, relative to the white of the paper."""
    import imagecodecs

    colours = {"grey": 1, "cmyk": 4}[raster.space]
    samples_HWC = raster.samples_HWC
    converted_HWC = np.empty((*samples_HWC.shape[:2], 3), samples_HWC.dtype)
    try:
        srgb = imagecodecs.cms_profile("srgb")
        for start in range(0, len(samples_HWC), _ROWS_AT_ONCE):
            rows = np.ascontiguousarray(samples_HWC[start : start + _ROWS_AT_ONCE, :, :colours])
            converted_HWC[start : start + _ROWS_AT_ONCE] = imagecodecs.cms_transform(
                rows if colours > 1 else rows[..., 0],
                profile,
                srgb,
                colorspace=_CMS_NAMES[raster.space],
                outcolorspace="rgb",
                outdtype=samples_HWC.dtype,
                intent=imagecodecs.CMS.INTENT.RELATIVE_COLORIMETRIC,
                flags=imagecodecs.CMS.FLAGS.BLACKPOINTCOMPENSATION,
            )
    except (RuntimeError, ValueError):
        notice = Notice("left_out", _SUBJECT, "it is damaged and cannot be used")
        return to_rgb(replace(raster, tags=replace(raster.tags, icc=None)).noting(notice))
    reason = f"{_WORDS[raster.space]} is converted to sRGB by {_name_of(profile) or 'the embedded profile'}"
    if raster.space == "grey":
        # Grey stays grey: what is left of the profile's white point is less than a code.
        return _plain(raster, converted_HWC[..., 1:2], reason)
    return _plain(raster, converted_HWC, reason)


def _plain(raster: Raster, colours_HWC: Array, reason: str) -> Raster:
    """Put converted colours in place of the samples', their transparency behind them."""
    alpha_HWC = raster.samples_HWC[..., -1:] if raster.has_alpha else None
    samples_HWC = colours_HWC if alpha_HWC is None else np.concatenate([colours_HWC, alpha_HWC], axis=2)
    return Raster(
        samples_HWC,
        "grey" if colours_HWC.shape[2] == 1 else "rgb",
        replace(raster.tags, icc=None, code_points=None),
        (*raster.notices, Notice("converted", _SUBJECT, reason)),
    )


def _srgb_of_ink(samples_HWC: Array) -> Array:
    peak = np.iinfo(samples_HWC.dtype).max
    rgb_HWC = np.empty((*samples_HWC.shape[:2], 3), samples_HWC.dtype)
    for start in range(0, len(samples_HWC), _ROWS_AT_ONCE):
        light = peak - samples_HWC[start : start + _ROWS_AT_ONCE, :, :4].astype(np.float64)
        rgb_HWC[start : start + _ROWS_AT_ONCE] = np.round(light[..., :3] * light[..., 3:] / peak)
    return rgb_HWC


def _srgb_of_lab(lab_HWC: Array) -> Array:
    """CIE Lab of D50 to sRGB of 16 bits."""
    rgb_HWC = np.empty((*lab_HWC.shape[:2], 3), np.uint16)
    to_srgb = np.array(_XYZ_D50_TO_SRGB, np.float32)
    for start in range(0, len(lab_HWC), _ROWS_AT_ONCE):
        lightness, a, b = np.moveaxis(lab_HWC[start : start + _ROWS_AT_ONCE], -1, 0)
        y = (lightness + 16.0) / 116.0
        roots = np.stack([y + a / 500.0, y, y - b / 200.0], axis=-1)
        xyz = np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29)) * np.array(_D50, np.float32)
        light = (xyz @ to_srgb.T).clip(0.0, 1.0)
        codes = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        rgb_HWC[start : start + _ROWS_AT_ONCE] = np.round(codes.clip(0.0, 1.0) * 65535.0)
    return rgb_HWC


def _display_p3() -> bytes:
    import imagecodecs

    # sRGB's curve, as the numbers of an ICC parametric curve of type 3.
    srgb_curve = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    steps = np.linspace(0.0, 1.0, 4096)
    gamma, a, b, c, d = srgb_curve
    curve = np.where(steps >= d, (a * steps + b) ** gamma, c * steps)
    transfer = np.round(curve * 65535.0).astype(np.uint16)
    profile: bytes = imagecodecs.cms_profile(
        "rgb", whitepoint=_SRGB_WHITE, primaries=_P3_PRIMARIES, transferfunction=transfer
    )
    return profile


def _name_of(profile: bytes) -> str | None:
    """Return what a profile calls itself; None when it cannot be read."""
    import io

    from PIL import ImageCms

    try:
        opened: Any = ImageCms.getOpenProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(opened)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return " ".join(name.split())[:60] or "an unnamed profile"
