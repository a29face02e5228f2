"""Names, code points and rules of video colour (ITU-T H.273)."""

from typing import Literal

from seedvr2_ray.frames import ColourTags

UNKNOWN = "unknown"

PRIMARIES: dict[str, int] = {
    "bt709": 1,
    UNKNOWN: 2,
    "bt470m": 4,
    "bt470bg": 5,
    "smpte170m": 6,
    "smpte240m": 7,
    "film": 8,
    "bt2020": 9,
    "smpte428": 10,
    "smpte431": 11,
    "smpte432": 12,
    "ebu3213": 22,
}
"""Which light a code stands for: FFmpeg's names to H.273 ``ColourPrimaries``."""

TRANSFERS: dict[str, int] = {
    "bt709": 1,
    UNKNOWN: 2,
    "bt470m": 4,
    "bt470bg": 5,
    "smpte170m": 6,
    "smpte240m": 7,
    "linear": 8,
    "log100": 9,
    "log316": 10,
    "iec61966-2-4": 11,
    "bt1361e": 12,
    "iec61966-2-1": 13,
    "bt2020-10": 14,
    "bt2020-12": 15,
    "smpte2084": 16,
    "smpte428": 17,
    "arib-std-b67": 18,
}
"""How light becomes a code: FFmpeg's names to H.273 ``TransferCharacteristics``."""

MATRICES: dict[str, int] = {
    "rgb": 0,
    "bt709": 1,
    UNKNOWN: 2,
    "fcc": 4,
    "bt470bg": 5,
    "smpte170m": 6,
    "smpte240m": 7,
    "ycgco": 8,
    "bt2020nc": 9,
    "bt2020c": 10,
    "smpte2085": 11,
    "chroma-derived-nc": 12,
    "chroma-derived-c": 13,
    "ictcp": 14,
    "ipt-c2": 15,
    "ycgco-re": 16,
    "ycgco-ro": 17,
}
"""How luma and chroma are made from R'G'B': FFmpeg's names to H.273 ``MatrixCoefficients``."""

LUMA_WEIGHTS: dict[str, tuple[float, float]] = {
    "bt709": (0.2126, 0.0722),
    "fcc": (0.30, 0.11),
    "bt470bg": (0.299, 0.114),
    "smpte170m": (0.299, 0.114),
    "smpte240m": (0.212, 0.087),
    "bt2020nc": (0.2627, 0.0593),
}
"""Weights (Kr, Kb) of red and blue in luma, for the matrices that are linear in R'G'B'.

These are the matrices a decoder here can undo; the others are refused by the preflight.
"""

HDR_TRANSFERS = frozenset({"smpte2084", "arib-std-b67"})
"""PQ and HLG: codes that reach far above the white of ordinary video."""

_PRIMARY_NAMES = {code: name for name, code in PRIMARIES.items()}
_TRANSFER_NAMES = {code: name for name, code in TRANSFERS.items()}
_MATRIX_NAMES = {code: name for name, code in MATRICES.items()}

_SD_MAX_LONG_SIDE = 1024
_SD_MAX_SHORT_SIDE = 576
_MAX_525_LINE_HEIGHT = 486
_HALF_625_LINE_HEIGHT = 288
_JPEG_RANGE = 2


def tags_from_codes(*, primaries: int, transfer: int, matrix: int, colour_range: int) -> ColourTags:
    """Name what a decoder reports; numbers without a meaning become ``unknown``.

    Args:
        colour_range: libav's: 0 not said, 1 limited, 2 full. Not said counts as limited.
    """
    return ColourTags(
        primaries=_PRIMARY_NAMES.get(primaries, UNKNOWN),
        transfer=_TRANSFER_NAMES.get(transfer, UNKNOWN),
        matrix=_MATRIX_NAMES.get(matrix, UNKNOWN),
        full_range=colour_range == _JPEG_RANGE,
    )


def fill_in(tags: ColourTags, *, kind: Literal["video", "image"], width: int, height: int, is_rgb: bool) -> ColourTags:
    """Complete a description the way players do when a file does not say.

    R'G'B' pictures and still images are sRGB. Video follows what is tagged, so that a file that
    names BT.2020 primaries is not given a BT.709 matrix; where nothing is tagged, pictures as small
    as PAL or NTSC are BT.601 of the matching line count, and anything larger is BT.709.

    Args:
        tags: as stored, ``unknown`` where the file is silent.
        width, height: of the stored picture; which is the longer side does not matter.
        is_rgb: whether the pixel format holds red, green and blue rather than luma and chroma.
    """
    usual = _usual_tags(tags, kind=kind, width=width, height=height, is_rgb=is_rgb)
    matrix = usual.matrix if tags.matrix == UNKNOWN else tags.matrix
    if is_rgb:
        matrix = "rgb"
    elif matrix == "rgb":
        # Some muxers stamp "rgb" on luma-chroma streams; a decoder could not show them like that.
        matrix = usual.matrix
    return ColourTags(
        primaries=usual.primaries if tags.primaries == UNKNOWN else tags.primaries,
        transfer=usual.transfer if tags.transfer == UNKNOWN else tags.transfer,
        matrix=matrix,
        full_range=tags.full_range or is_rgb,
    )


def _usual_tags(tags: ColourTags, *, kind: str, width: int, height: int, is_rgb: bool) -> ColourTags:
    srgb = ColourTags(primaries="bt709", transfer="iec61966-2-1", matrix="smpte170m")
    if is_rgb and (kind == "image" or tags.primaries == UNKNOWN):
        return srgb
    if kind == "image":
        return srgb
    if "bt2020" in tags.primaries or tags.matrix.startswith("bt2020") or tags.transfer in HDR_TRANSFERS:
        return ColourTags(primaries="bt2020", transfer="bt2020-10", matrix="bt2020nc")
    if tags.primaries != UNKNOWN or tags.matrix not in (UNKNOWN, "rgb"):
        return _family_of(tags)
    return sd_or_hd(width, height)


def _family_of(tags: ColourTags) -> ColourTags:
    """The standard that a single tag points to."""
    for name in (tags.primaries, tags.matrix):
        if name in ("bt470bg", "smpte170m", "smpte240m"):
            transfer = "smpte240m" if name == "smpte240m" else "smpte170m"
            return ColourTags(primaries=name, transfer=transfer, matrix=name)
    return ColourTags(primaries="bt709", transfer="bt709", matrix="bt709")


def sd_or_hd(width: int, height: int) -> ColourTags:
    """The standard that a picture of this size was most likely made for."""
    short, long = sorted((width, height))
    if long > _SD_MAX_LONG_SIDE or short > _SD_MAX_SHORT_SIDE:
        return ColourTags(primaries="bt709", transfer="bt709", matrix="bt709")
    if short > _MAX_525_LINE_HEIGHT or short == _HALF_625_LINE_HEIGHT:
        return ColourTags(primaries="bt470bg", transfer="smpte170m", matrix="bt470bg")
    return ColourTags(primaries="smpte170m", transfer="smpte170m", matrix="smpte170m")


def is_complete(tags: ColourTags) -> bool:
    """Whether primaries, transfer and matrix are all known."""
    return UNKNOWN not in (tags.primaries, tags.transfer, tags.matrix)
