"""What kind of still image a file is, by its content: names are not asked."""

import os
from typing import BinaryIO, Literal

from seedvr2_ray.errors import MediaError
from seedvr2_ray.media.bitstream.iso_boxes import boxes_of

# fmt: off
StillKind = Literal[
    "jpeg", "png", "tiff", "webp", "bmp", "jpeg2000", "heif", "avif", "jpegxl",
    "pnm", "tga", "ico", "pcx", "dds", "sgi", "psd", "qoi", "dpx",
]
# fmt: on

_HEAD_BYTES = 4096
_MAGIC: tuple[tuple[bytes, StillKind], ...] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jpeg2000"),
    (b"\xff\x4f\xff\x51", "jpeg2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "jpegxl"),
    (b"\xff\x0a", "jpegxl"),
    (b"\0\0\1\0", "ico"),
    (b"DDS ", "dds"),
    (b"8BPS\0\1", "psd"),
    (b"qoif", "qoi"),
    (b"SDPX", "dpx"),
    (b"XPDS", "dpx"),
)
_REFUSED = (
    (b"\x76\x2f\x31\x01", "an OpenEXR image, whose numbers are light without a limit"),
    (b"#?RADIANCE", "a Radiance HDR image, whose numbers are light without a limit"),
    (b"8BPS\0\2", "a Photoshop document of the large kind (PSB)"),
    (b"II\xbc", "a JPEG XR image"),
    (b"II*\0\x10\0\0\0CR", "a camera's raw file (CR2)"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file (RAF)"),
    (b"IIRO", "a camera's raw file (ORF)"),
    (b"IIU\0", "a camera's raw file (RW2)"),
    (b"%PDF", "a PDF document"),
    (b"\xc5\xd0\xd3\xc6", "an EPS document"),
)
_BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_HEIF_BRANDS = frozenset({b"mif1", b"mif2", b"heic", b"heix", b"heim", b"heis", b"avci", b"msf1", b"hevc", b"hevx"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
STILL_BRANDS = _HEIF_BRANDS | _AVIF_BRANDS
"""Kinds of ISO files that hold still images."""
_PNM_SPACE = b" \t\r\n#"
_WEBP_ANIMATION = 2
_TGA_DEPTHS = {1: (8,), 2: (15, 16, 24, 32), 3: (8, 16), 9: (8,), 10: (15, 16, 24, 32), 11: (8, 16)}
"""Types of TGA pictures to the bits of a pixel that they may have."""


def still_kind(path: str) -> StillKind | None:
    """Return what kind of still image a file is, or None when it is none: a video, or no picture at all.

    Animated PNGs are videos.

    Raises:
        MediaError: it is a still of a kind that is known and not read here, or an animated WebP.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
        for magic, what in _REFUSED:
            if head.startswith(magic):
                raise MediaError(f"{path} is {what}, which is not read here; convert it to TIFF or PNG first")
        if head[20:24] == b"mjp2":
            return None  # Motion JPEG 2000 begins like a still one.
        for magic, kind in _MAGIC:
            if head.startswith(magic):
                return kind
        if head.startswith(b"\x89PNG\r\n\x1a\n"):
            return None if _is_animated_png(file) else "png"
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            if head[12:16] == b"VP8X" and head[20] & _WEBP_ANIMATION:
                raise MediaError(f"{path} is an animated WebP, which is not read here; convert it to GIF or APNG")
            return "webp"
        if head[4:8] == b"ftyp":
            return _heif_kind(path, head, file)
        return _kind_without_magic(head, file)


def _kind_without_magic(head: bytes, file: BinaryIO) -> StillKind | None:
    """Recognise formats whose first bytes alone could also begin something else."""
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    if head[:1] == b"P" and head[1:2] in b"1234567" and len(head) > 2 and head[2:3] in _PNM_SPACE:
        return "pnm"
    if head[:2] == b"\x01\xda" and head[2:3] in b"\0\1" and head[3:4] in b"\1\2" and len(head) >= 512:
        return "sgi"
    if head[:1] == b"\n" and head[1:2] in b"\0\2\3\4\5" and head[2:3] == b"\1" and head[3:4] in b"\1\2\4\x08":
        return "pcx"
    return "tga" if _is_tga(head, file) else None


def _is_animated_png(file: BinaryIO) -> bool:
    position = 8
    while True:
        file.seek(position)
        header = file.read(8)
        if len(header) < 8 or header[4:8] in (b"IDAT", b"IEND"):
            return False
        if header[4:8] == b"acTL":
            return True
        position += 12 + int.from_bytes(header[:4], "big")


def _heif_kind(path: str, head: bytes, file: BinaryIO) -> StillKind | None:
    """HEIF and AVIF hold their pictures as items listed in a ``meta`` box; without one it is a video."""
    if head[8:12] == b"crx ":
        raise MediaError(f"{path} is a camera's raw file (CR3), which is not read here; develop it to TIFF first")
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, min(len(head), int.from_bytes(head[:4], "big")), 4))}
    kind: StillKind | None = None
    if brands & _AVIF_BRANDS:
        kind = "avif"
    elif brands & _HEIF_BRANDS:
        kind = "heif"
    return kind if kind is not None and any(name == b"meta" for name, _, _ in boxes_of(file)) else None


def _is_tga(head: bytes, file: BinaryIO) -> bool:
    """TGA begins with no mark of its own: every field of its header must make sense, and so must the size."""
    if len(head) < 18 or head[2] not in _TGA_DEPTHS or head[1] not in (0, 1) or head[16] not in _TGA_DEPTHS[head[2]]:
        return False
    map_length, map_bits = int.from_bytes(head[5:7], "little"), head[7]
    has_map = head[1] == 1
    if (head[2] in (1, 9)) != has_map or has_map != (map_length > 0 and map_bits in (15, 16, 24, 32)):
        return False
    width, height = int.from_bytes(head[12:14], "little"), int.from_bytes(head[14:16], "little")
    if not width or not height or head[17] & 0xC0 or (not has_map and any(head[3:8])):
        return False
    begin = 18 + head[0] + (map_length * ((map_bits + 7) // 8) if has_map else 0)
    pixels = width * height * ((head[16] + 7) // 8)
    is_packed = head[2] > 8
    size = file.seek(0, os.SEEK_END)
    # A run of 128 pixels takes one more byte than a pixel. A cut file is still one of these.
    return begin < size if is_packed else begin + pixels // 2 <= size <= begin + pixels + (1 << 20)
