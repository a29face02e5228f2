"""Stills that Pillow reads: WebP, BMP, TGA, ICO, PCX, DDS, SGI, PSD, QOI, and PNG of up to 8 bits.

Pillow's readers are called by name, for the kind that the content says; its guessing and its own limit on
pixels (a process-wide setting) are left out, because the size is checked against ours first.
"""

import importlib
import logging
import struct
from typing import Any

import numpy as np

from seedvr2_ray.media.container.still_kinds import StillKind
from seedvr2_ray.media.stills.raster import Raster, SizeCheck, StillTags, damaged_still, unsupported_still

_READERS: dict[StillKind, tuple[str, str]] = {
    "jpeg": ("JpegImagePlugin", "JpegImageFile"),
    "png": ("PngImagePlugin", "PngImageFile"),
    "webp": ("WebPImagePlugin", "WebPImageFile"),
    "avif": ("AvifImagePlugin", "AvifImageFile"),
    "tiff": ("TiffImagePlugin", "TiffImageFile"),
    "bmp": ("BmpImagePlugin", "BmpImageFile"),
    "tga": ("TgaImagePlugin", "TgaImageFile"),
    "ico": ("IcoImagePlugin", "IcoImageFile"),
    "pcx": ("PcxImagePlugin", "PcxImageFile"),
    "dds": ("DdsImagePlugin", "DdsImageFile"),
    "sgi": ("SgiImagePlugin", "SgiImageFile"),
    "psd": ("PsdImagePlugin", "PsdImageFile"),
    "qoi": ("QoiImagePlugin", "QoiImageFile"),
    "jpeg2000": ("Jpeg2KImagePlugin", "Jpeg2KImageFile"),
}
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError)
"""What Pillow's readers raise over bytes that make no sense; memory is not among them."""
NONSENSE_ERRORS = (*DECODING_ERRORS, RuntimeError, ArithmeticError, AttributeError, struct.error)
"""What any reader may raise over bytes that make no sense, where nothing better is known of the cause."""
# A library's log is for whoever set logging up; without that Python would print it.
logging.getLogger("PIL").addHandler(logging.NullHandler())
_EXIF_PREFIX = b"Exif\0\0"
_IPTC_RESOURCE = 0x0404


def read_with_pillow(path: str, kind: StillKind, require_size: SizeCheck) -> Raster:
    """Read a still by Pillow alone.

    Raises:
        MediaError: it is too large, damaged, or of a variant that is not read.
    """
    with open_with_pillow(path, kind) as image:
        require_size(*image.size)
        return Raster(*samples_of(path, image), tags_of(image))


def open_with_pillow(path: str, kind: StillKind) -> Any:
    """Read a still's header; the image must be closed, and nothing is decoded yet.

    Raises:
        MediaError: the header makes no sense.
    """
    module, name = _READERS[kind]
    reader = getattr(importlib.import_module(f"PIL.{module}"), name)
    try:
        return reader(path)
    except NotImplementedError as error:
        raise unsupported_still(path, error) from error
    except DECODING_ERRORS as error:
        raise damaged_still(path, error) from error


def samples_of(path: str, image: Any) -> tuple[Any, Any]:
    """Decode an opened image wholly; return its samples and their colour space.

    Raises:
        MediaError: it is damaged, or has samples that are not read.
    """
    try:
        image.load()
    except NotImplementedError as error:
        raise unsupported_still(path, error) from error
    except DECODING_ERRORS as error:
        raise damaged_still(path, error) from error
    is_masked = "transparency" in image.info
    match image.mode:
        case "1" | "L" if not is_masked:
            return np.asarray(image.convert("L"))[..., None], "grey"
        case "LA":
            return np.asarray(image), "grey"
        case "I;16" | "I;16L" | "I;16B" | "I;16N":
            return np.asarray(image).astype(np.uint16)[..., None], "grey"
        case "CMYK":
            return np.asarray(image), "cmyk"
        case "RGB" | "RGBX" | "YCbCr" if not is_masked:
            return np.asarray(image.convert("RGB")), "rgb"
        case "P" if not is_masked and image.palette.mode == "RGB":
            return np.asarray(image.convert("RGB")), "rgb"
        case "1" | "L" | "P" | "PA" | "RGB" | "RGBA":
            return np.asarray(image.convert("RGBA")), "rgb"
        case other:
            raise unsupported_still(path, f"its samples are of the kind {other}")


def tags_of(image: Any) -> StillTags:
    """Collect what Pillow found in a file besides the picture."""
    info = image.info
    exif = info.get("exif")
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")
    return StillTags(
        icc=info.get("icc_profile") or None,
        exif=exif.removeprefix(_EXIF_PREFIX) if isinstance(exif, bytes) else None,
        xmp=xmp.encode() if isinstance(xmp, str) else xmp or None,
        iptc=_iptc_of(info.get("photoshop")),
        dpi=_resolution(info.get("dpi")),
    )


def _iptc_of(resources: Any) -> bytes | None:
    found = resources.get(_IPTC_RESOURCE) if isinstance(resources, dict) else None
    return found if isinstance(found, bytes) and found else None


def _resolution(dpi: Any) -> tuple[float, float] | None:
    try:
        across, down = (float(number) for number in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None
