"""Headers of stills that are made of boxes: JPEG 2000 (ISO 15444-1), HEIF and AVIF (ISO 23008-12), JPEG XL (ISO 18181).

What the decoders' Python interfaces do not tell: the size before anything is decoded, colours, and metadata.
"""

from collections.abc import Callable
from dataclasses import dataclass

from seedvr2_ray.media.bitstream.iso_boxes import boxes_in

_CODESTREAM = b"\xff\x4f\xff\x51"
_SYCC = 18
_EXIF_UUIDS = (b"JpgTiffExif->JP2", bytes.fromhex("0537cdab9d0c4431a72afa561f2a113e"))
_XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_IPTC_UUID = bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38")
_JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_JXL_LENGTHS = (9, 13, 18, 30)


@dataclass(frozen=True, kw_only=True, slots=True)
class Jpeg2000Header:
    """What stands before a JPEG 2000 picture, in its codestream and in the boxes around it."""

    width: int
    height: int
    num_components: int
    bits: int
    is_signed: bool
    enumerated: int | None
    """Number of the colour space: 12 CMYK, 14 Lab, 16 sRGB, 17 grey, 18 sYCC."""
    needs_pillow: bool
    """A palette, components of several sizes or depths, or luma and chroma."""
    icc: bytes | None
    exif: bytes | None
    xmp: bytes | None
    iptc: bytes | None


def read_jpeg2000_header(data: bytes) -> Jpeg2000Header:
    """Read the header of a JP2 file or of a bare codestream.

    Raises:
        ValueError: there is no codestream.
    """
    boxes = [] if data.startswith(_CODESTREAM) else list(boxes_in(data, 0, len(data)))
    begin = 0 if data.startswith(_CODESTREAM) else next((at for name, at, _ in boxes if name == b"jp2c"), -1)
    if begin < 0 or data[begin : begin + 4] != _CODESTREAM:
        raise ValueError("it holds no picture")
    x, y, left, top = (int.from_bytes(data[begin + at : begin + at + 4], "big") for at in (8, 12, 16, 20))
    num_components = int.from_bytes(data[begin + 40 : begin + 42], "big")
    components = {data[begin + 42 + 3 * index : begin + 45 + 3 * index] for index in range(num_components)}
    if not components or any(len(component) < 3 for component in components):
        raise ValueError("it names no components")
    inside = [box for name, at, stop in boxes if name == b"jp2h" for box in boxes_in(data, at, stop)]
    enumerated, icc = _jpeg2000_colour(data, inside)
    uuids = {data[at : at + 16]: data[at + 16 : stop] for name, at, stop in boxes if name == b"uuid"}
    has_odd_sizes = len(components) > 1 or any(component[1:] != b"\1\1" for component in components)
    precision = max(component[0] for component in components)
    return Jpeg2000Header(
        width=x - left,
        height=y - top,
        num_components=num_components,
        bits=(precision & 0x7F) + 1,
        is_signed=bool(precision & 0x80),
        enumerated=enumerated,
        needs_pillow=has_odd_sizes or enumerated == _SYCC or any(name == b"pclr" for name, _, _ in inside),
        icc=icc,
        exif=next((uuids[key].removeprefix(b"Exif\0\0") for key in _EXIF_UUIDS if key in uuids), None),
        xmp=uuids.get(_XMP_UUID),
        iptc=uuids.get(_IPTC_UUID),
    )


def _jpeg2000_colour(data: bytes, boxes: list[tuple[bytes, int, int]]) -> tuple[int | None, bytes | None]:
    for name, at, stop in boxes:
        if name == b"colr":
            if data[at] == 1:
                return int.from_bytes(data[at + 3 : at + 7], "big"), None
            return None, data[at + 3 : stop]
    return None, None


def read_code_points(data: bytes) -> tuple[int, int] | None:
    """Return primaries and transfer (H.273) of the first colour box of a HEIF or AVIF file that names them."""
    at = data.find(b"colrnclx")
    if at < 0 or at + 12 > len(data):
        return None
    return int.from_bytes(data[at + 8 : at + 10], "big"), int.from_bytes(data[at + 10 : at + 12], "big")


def jpegxl_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a JPEG XL image as stored (ISO 18181-1, SizeHeader).

    Raises:
        ValueError: there is no codestream.
    """
    begin = 0
    if not data.startswith(b"\xff\x0a"):
        found = next(((name, at) for name, at, _ in boxes_in(data, 0, len(data)) if name in (b"jxlc", b"jxlp")), None)
        if found is None:
            raise ValueError("it holds no picture")
        begin = found[1] + (4 if found[0] == b"jxlp" else 0)
    if data[begin : begin + 2] != b"\xff\x0a":
        raise ValueError("it holds no picture")
    bits = _Bits(int.from_bytes(data[begin + 2 : begin + 18], "little"))
    is_small = bits.take(1)
    height = _jpegxl_length(bits, is_small=bool(is_small))
    ratio = bits.take(3)
    if ratio == 0:
        return _jpegxl_length(bits, is_small=bool(is_small)), height
    across, down = _JXL_RATIOS[ratio - 1]
    return height * across // down, height


def jpegxl_metadata(data: bytes, unpack: Callable[[bytes], bytes | bytearray]) -> tuple[bytes | None, bytes | None]:
    """Return EXIF and XMP of a JPEG XL file, from their boxes.

    Args:
        unpack: undoes Brotli, by which such boxes may be compressed.
    """
    found: dict[bytes, bytes] = {}
    for name, at, stop in [] if data.startswith(b"\xff\x0a") else boxes_in(data, 0, len(data)):
        if name in (b"Exif", b"xml "):
            found[name] = data[at:stop]
        elif name == b"brob" and data[at : at + 4] in (b"Exif", b"xml "):
            found[data[at : at + 4]] = bytes(unpack(data[at + 4 : stop]))
    # The first four bytes of EXIF say where in it the TIFF structure begins.
    exif = found.get(b"Exif", b"")
    return exif[4 + int.from_bytes(exif[:4], "big") :] or None, found.get(b"xml ")


def _jpegxl_length(bits: "_Bits", *, is_small: bool) -> int:
    if is_small:
        return 8 * (bits.take(5) + 1)
    return bits.take(_JXL_LENGTHS[bits.take(2)]) + 1


class _Bits:
    """Numbers packed from the lowest bit upwards."""

    def __init__(self, value: int) -> None:
        self._value = value

    def take(self, count: int) -> int:
        taken = self._value & ((1 << count) - 1)
        self._value >>= count
        return taken
