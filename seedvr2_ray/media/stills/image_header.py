"""What still images say before their first pixel: size, and which way up they are.

libav learns the size of an image only by decoding it, which for an absurd one fails without saying
why, and reports a rotation without saying whether the picture is mirrored. References: PNG (W3C)
section 11, JPEG (ITU-T T.81) annex B, TIFF 6.0 section 2, EXIF 2.32 section 4.6.4.
"""

from collections.abc import Iterator
from typing import BinaryIO, Literal

from seedvr2_ray.media.container.info import Rotation

_WIDTH_TAG, _HEIGHT_TAG, _ORIENTATION_TAG = 256, 257, 274
_BYTES_OF_TYPE = {1: 1, 3: 2, 4: 4}
"""TIFF's types of whole numbers: byte, short, long."""
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers (SOF) after which the size stands."""
_TURNS: dict[int, tuple[Rotation, bool]] = {
    1: (0, False),
    2: (0, True),
    3: (180, False),
    4: (180, True),
    5: (270, True),
    6: (90, False),
    7: (90, True),
    8: (270, False),
}
"""EXIF orientation to (degrees clockwise, flipped left to right before that)."""


def read_orientation(path: str) -> tuple[Rotation, bool]:
    """Read how a still image wants to be turned: degrees clockwise, after flipping left to right or not."""
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:3] == b"\xff\xd8\xff":
            block = _jpeg_block(file)
        elif head[:8] == b"\x89PNG\r\n\x1a\n":
            block = _png_block(file)
        elif head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            block = _webp_block(file)
        elif head[:4] in (b"II*\0", b"MM\0*"):
            return _TURNS.get(_orientation_in_tiff(file, 0), (0, False))
        else:
            block = None
        if block is None:
            return 0, False
        return _TURNS.get(_orientation_in_tiff(file, block), (0, False))


def read_size(path: str) -> tuple[int, int] | None:
    """Read width and height of a still image as stored, where its header names them plainly."""
    with open(path, "rb") as file:
        head = file.read(26)
        if head[:8] == b"\x89PNG\r\n\x1a\n":
            return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
        if head[:2] == b"BM":
            height = int.from_bytes(head[22:26], "little", signed=True)
            return int.from_bytes(head[18:22], "little"), abs(height)
        if head[:3] == b"\xff\xd8\xff":
            return next(
                (_size_in_frame_header(data) for _, code, data in _segments(file) if code in _FRAME_HEADERS), None
            )
        if head[:4] in (b"II*\0", b"MM\0*"):
            tags = _tags_in_tiff(file, 0)
            if _WIDTH_TAG in tags and _HEIGHT_TAG in tags:
                return tags[_WIDTH_TAG], tags[_HEIGHT_TAG]
    return None


def has_further_pages(path: str) -> bool:
    """Whether a TIFF file holds more than the one picture that is read."""
    with open(path, "rb") as file:
        head = file.read(8)
        if head[:4] not in (b"II*\0", b"MM\0*"):
            return False
        order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
        file.seek(int.from_bytes(head[4:8], order))
        num_entries = int.from_bytes(file.read(2), order)
        file.seek(12 * num_entries, 1)
        return int.from_bytes(file.read(4), order) != 0


def _size_in_frame_header(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[3:5], "big"), int.from_bytes(data[1:3], "big")


def _segments(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Position, marker and first bytes of the segments before a JPEG's coded picture (SOS)."""
    position = 2
    while True:
        file.seek(position)
        header = file.read(10)
        if len(header) < 10 or header[0] != 0xFF or header[1] == 0xDA:
            return
        yield position, header[1], header[4:]
        position += 2 + int.from_bytes(header[2:4], "big")


def _jpeg_block(file: BinaryIO) -> int | None:
    """Offset of the TIFF structure in the APP1 segment."""
    for position, code, data in _segments(file):
        if code == 0xE1 and data == b"Exif\0\0":
            return position + 10
    return None


def _png_block(file: BinaryIO) -> int | None:
    position = 8
    while True:
        file.seek(position)
        header = file.read(8)
        if len(header) < 8 or header[4:8] == b"IEND":
            return None
        if header[4:8] == b"eXIf":
            return position + 8
        position += 12 + int.from_bytes(header[:4], "big")


def _webp_block(file: BinaryIO) -> int | None:
    position = 12
    while True:
        file.seek(position)
        header = file.read(14)
        if len(header) < 8:
            return None
        if header[:4] == b"EXIF":
            # Some writers keep JPEG's prefix.
            return position + (14 if header[8:14] == b"Exif\0\0" else 8)
        length = int.from_bytes(header[4:8], "little")
        position += 8 + length + (length & 1)


def _orientation_in_tiff(file: BinaryIO, start: int) -> int:
    return _tags_in_tiff(file, start).get(_ORIENTATION_TAG, 1)


def _tags_in_tiff(file: BinaryIO, start: int) -> dict[int, int]:
    """Tags with a single whole number in the first directory of a TIFF structure."""
    file.seek(start)
    header = file.read(8)
    if header[:2] not in (b"II", b"MM") or len(header) < 8:
        return {}
    order: Literal["little", "big"] = "little" if header[:2] == b"II" else "big"
    file.seek(start + int.from_bytes(header[4:8], order))
    tags = {}
    for _ in range(int.from_bytes(file.read(2), order)):
        entry = file.read(12)
        size = _BYTES_OF_TYPE.get(int.from_bytes(entry[2:4], order), 0)
        if len(entry) == 12 and size:
            tags[int.from_bytes(entry[:2], order)] = int.from_bytes(entry[8 : 8 + size], order)
    return tags
