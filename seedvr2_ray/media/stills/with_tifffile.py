"""TIFF and BigTIFF: every compression and layout that tifffile with imagecodecs reads, and what only libtiff does."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from seedvr2_ray.errors import MediaError
from seedvr2_ray.media.info import Notice
from seedvr2_ray.media.stills.exif import ICC_PROFILE, IPTC, XMP, Exif, read_exif_at, write_exif
from seedvr2_ray.media.stills.raster import (
    FLOATS_ARE_CUT,
    Array,
    Raster,
    SizeCheck,
    StillTags,
    damaged_still,
    from_floats,
    unsupported_still,
    wide,
)
from seedvr2_ray.media.stills.with_pillow import DECODING_ERRORS, open_with_pillow, samples_of

_OLD_JPEG, _JPEG = 6, 7
_WHITE_IS_ZERO, _PALETTE, _YCBCR, _CIELAB, _ICCLAB = 0, 3, 6, 8, 9
_RAW_PHOTOMETRICS = (32803, 34892)
_DNG_VERSION = 50706
_NO_PAGE = 1 | 4
"""Bits of NewSubfileType: a reduced picture, a mask of transparency."""
_PREMULTIPLIED, _UNASSOCIATED = 1, 2
_ALPHA_ROWS = 256


def read_tiff(path: str, require_size: SizeCheck) -> Raster:
    """Read the first full-size page of a TIFF file.

    Raises:
        MediaError: it is too large, damaged, a camera's raw file, or of a variant that is not read.
    """
    import tifffile

    try:
        with _listening() as complaints, tifffile.TiffFile(path) as tiff:
            pages = [page for page in tiff.pages if not int(page.aspage().subfiletype) & _NO_PAGE]
            if not pages or _DNG_VERSION in tiff.pages.first.tags:
                raise unsupported_still(path, "a camera's raw file or a file of previews alone")
            page: Any = pages[0].aspage()
            require_size(page.imagewidth, page.imagelength)
            with open(path, "rb") as file:
                exif = read_exif_at(file, page.offset)
            raster = _read_page(path, page, exif)
    except MediaError:
        raise
    except NotImplementedError as error:
        raise unsupported_still(path, error) from error
    except (*DECODING_ERRORS, RuntimeError, ArithmeticError, AttributeError, ImportError) as error:
        raise _translated(path, error) from error
    if any("page offset" in complaint for complaint in complaints):
        return raster.noting(Notice("left_out", "further pages", "the list of further pages is damaged"))
    if len(pages) > 1:
        return raster.noting(Notice("left_out", "further pages", "only the first picture of the file is restored"))
    return raster


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Collect what tifffile logs about the file that this thread reads, instead of printing it."""
    thread = threading.get_ident()
    heard: list[str] = []

    def hear(record: logging.LogRecord) -> bool:
        if record.thread != thread:
            return True
        heard.append(record.getMessage())
        return False

    logger = logging.getLogger("tifffile")
    logger.addFilter(hear)
    try:
        yield heard
    finally:
        logger.removeFilter(hear)


def _translated(path: str, error: Exception) -> MediaError:
    reason = str(error)
    if "not supported" in reason or "requires" in reason or "not implemented" in reason:
        return unsupported_still(path, reason)
    return damaged_still(path, reason)


def _read_page(path: str, page: Any, exif: Exif) -> Raster:
    if page.photometric in _RAW_PHOTOMETRICS:
        raise unsupported_still(path, "a camera's raw file")
    if page.imagedepth > 1:
        raise unsupported_still(path, f"a volume of {page.imagedepth} layers")
    _require_whole(path, page)
    tags = _tags(exif)
    if page.compression == _OLD_JPEG or (page.photometric == _YCBCR and page.compression != _JPEG):
        with open_with_pillow(path, "tiff") as image:
            return Raster(*samples_of(path, image), tags)
    samples_HWC = page.asarray()
    if page.axes.startswith("S"):
        samples_HWC = np.moveaxis(samples_HWC, 0, -1)
    samples_HWC = samples_HWC.reshape(page.imagelength, page.imagewidth, -1)
    codes_HWC, is_float = _codes(path, page, samples_HWC)
    raster = _coloured(path, page, codes_HWC, tags)
    return raster.noting(FLOATS_ARE_CUT) if is_float else raster


def _require_whole(path: str, page: Any) -> None:
    """Every strip or tile must be named, hold something and lie in the file; JPEG must end where it says."""
    handle = page.parent.filehandle
    offsets, lengths = page.dataoffsets, page.databytecounts
    expected = int(np.prod(page.chunked))
    if len(offsets) < expected or len(lengths) < expected:
        raise damaged_still(path, f"it lists {min(len(offsets), len(lengths))} of {expected} strips or tiles")
    for offset, length in zip(offsets[:expected], lengths[:expected], strict=True):
        if not offset or not length or offset + length > handle.size:
            raise damaged_still(path, "some of its strips or tiles are missing")
        if page.compression == _JPEG:
            handle.seek(offset + max(0, length - 64))
            if b"\xff\xd9" not in handle.read(min(64, length)):
                raise damaged_still(path, "some of its JPEG strips or tiles are cut off")


def _codes(path: str, page: Any, samples_HWC: Array) -> tuple[Array, bool]:
    """Bring samples to 8 or 16 bits that use their whole range."""
    kind, bits = samples_HWC.dtype.kind, page.bitspersample
    if kind == "f":
        return from_floats(samples_HWC), True
    if kind == "b":
        return samples_HWC.astype(np.uint8) * np.uint8(255), False
    if kind == "i" and page.photometric == _CIELAB:
        return samples_HWC.view(f"u{samples_HWC.dtype.itemsize}"), False
    if kind != "u" or isinstance(bits, tuple):
        raise unsupported_still(path, f"its samples are {samples_HWC.dtype} of {bits} bits")
    if page.photometric == _PALETTE:
        return samples_HWC, False
    if bits > 16:
        return (samples_HWC >> (bits - 16)).astype(np.uint16), False
    return wide(samples_HWC, bits), False


def _coloured(path: str, page: Any, codes_HWC: Array, tags: StillTags) -> Raster:
    peak = 255 if codes_HWC.dtype == np.uint8 else 65535
    match page.photometric:
        case 0 | 1 | 4:
            inverted = page.photometric == _WHITE_IS_ZERO
            if inverted:
                codes_HWC = np.concatenate([(peak - codes_HWC[..., :1]).astype(codes_HWC.dtype), codes_HWC[..., 1:]], 2)
            return _with_alpha(page, codes_HWC, "grey", 1, tags)
        case 2 | 6:
            return _with_alpha(page, codes_HWC, "rgb", 3, tags)
        case 3:
            return Raster(_through_palette(page.colormap, codes_HWC), "rgb", tags)
        case 5:
            if codes_HWC.shape[2] < 4 or page.tags.valueof(332, default=1) != 1:
                raise unsupported_still(path, "its inks are not cyan, magenta, yellow and black")
            return _with_alpha(page, codes_HWC, "cmyk", 4, tags)
        case 8 | 9:
            return Raster(_lab(codes_HWC[..., :3], is_offset=page.photometric == _ICCLAB), "lab", tags)
        case other:
            raise unsupported_still(path, f"its colours are of the kind {getattr(other, 'name', other)}")


def _with_alpha(page: Any, codes_HWC: Array, space: Any, num_colours: int, tags: StillTags) -> Raster:
    """Keep the channel that is transparency, and say that others are left out."""
    extra = [int(kind) for kind in page.extrasamples]
    if codes_HWC.shape[2] < num_colours:
        raise ValueError(f"{codes_HWC.shape[2]} samples of a pixel where {num_colours} are needed")
    has_alpha = bool(extra) and extra[0] in (_PREMULTIPLIED, _UNASSOCIATED)
    kept_HWC = codes_HWC[..., : num_colours + has_alpha]
    if has_alpha and extra[0] == _PREMULTIPLIED:
        kept_HWC = _divided_by_alpha(kept_HWC)
    raster = Raster(kept_HWC, space, tags)
    num_left = codes_HWC.shape[2] - kept_HWC.shape[2]
    if not num_left:
        return raster
    return raster.noting(Notice("left_out", "extra channels", f"{num_left} beside colour and transparency"))


def _divided_by_alpha(codes_HWC: Array) -> Array:
    peak = np.iinfo(codes_HWC.dtype).max
    divided = codes_HWC.copy()
    for start in range(0, len(codes_HWC), _ALPHA_ROWS):
        rows = codes_HWC[start : start + _ALPHA_ROWS].astype(np.float64)
        alpha = np.maximum(rows[..., -1:], 1.0)
        divided[start : start + _ALPHA_ROWS, :, :-1] = np.round((rows[..., :-1] * peak / alpha).clip(0, peak))
    return divided


def _through_palette(colormap: Array, indices_HWC: Array) -> Array:
    # By the standard colours have 16 bits; some writers fill the lower 8 only.
    table = colormap if colormap.max() < 256 else (colormap // 256)
    return np.ascontiguousarray(table.astype(np.uint8).T[indices_HWC[..., 0]])


def _lab(codes_HWC: Array, *, is_offset: bool) -> Array:
    """Return L in 0..100, a and b about -128..127 (TIFF 6.0 section 23; ICC for the offset kind)."""
    is_deep = codes_HWC.dtype == np.uint16
    unit = 256.0 if is_deep else 1.0
    lab_HWC = codes_HWC.astype(np.float32)
    lab_HWC[..., 0] *= 100.0 / (65535.0 if is_deep else 255.0)
    if is_offset:
        lab_HWC[..., 1:] = lab_HWC[..., 1:] / unit - 128.0
    else:
        signed: Any = np.ascontiguousarray(codes_HWC[..., 1:]).view(np.int16 if is_deep else np.int8)
        lab_HWC[..., 1:] = signed / unit
    return lab_HWC


def _tags(exif: Exif) -> StillTags:
    found = {tag: exif.image[tag].payload if tag in exif.image else None for tag in (ICC_PROFILE, XMP, IPTC)}
    described = exif.described()
    tags = StillTags(
        icc=found[ICC_PROFILE],
        exif=write_exif(described) if described.says_something() else None,
        xmp=found[XMP],
        iptc=found[IPTC],
        dpi=exif.dpi,
        orientation=exif.orientation,
    )
    return replace(tags, iptc=(tags.iptc or b"").rstrip(b"\0") or None)
