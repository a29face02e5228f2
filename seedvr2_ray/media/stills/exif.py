"""EXIF and TIFF directories as values: read from any file that holds them, written anew for any other.

References: TIFF 6.0 section 2, BigTIFF, EXIF 2.32 section 4.6. What describes how samples are stored stays
behind, and what the restoration changed (way up, size, thumbnail) is put right.
"""

import struct
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

from seedvr2_ray.media.info import Rotation

ORIENTATION = 274
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
XMP, IPTC, ICC_PROFILE = 700, 33723, 34675

_EXIF_IFD, _GPS_IFD, _INTEROP_IFD = 34665, 34853, 40965
_PIXEL_SIZE_TAGS = (40962, 40963)
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Types of fields to the bytes of one value."""
_SWAPPED = {3: 2, 4: 4, 5: 4, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Types of fields to the bytes that a byte order concerns."""
_UNDEFINED, _SHORT, _LONG, _RATIONAL = 7, 3, 4, 5
_INCHES, _CENTIMETRES = 2, 3
_MOST_FIELDS = 4096
_MOST_FIELD_BYTES = 16 << 20
# Of the first directory: size, strips, tiles, colour, sub-files, thumbnails, previews, and what lies in them
# and has a place of its own (XMP, IPTC, ICC, Photoshop's resources, which hold the others once more).
_STRUCTURE = frozenset(
    (
        *(254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, 288, 289, 290),
        *(291, 292, 293, 297, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 330, 332, 333, 334, 336, 338, 339),
        *(340, 341, 342, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 700, 33723, 34675),
        *(34377, 37724, _EXIF_IFD, _GPS_IFD, ORIENTATION),
    )
)
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


@dataclass(frozen=True, slots=True)
class Field:
    """One entry of a directory."""

    kind: int
    """TIFF's number of the type."""
    count: int
    payload: bytes
    """The values in little-endian order."""

    def numbers(self) -> tuple[int, ...]:
        """Return whole numbers; nothing for other types."""
        code = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}.get(self.kind)
        return struct.unpack(f"<{self.count}{code}", self.payload) if code else ()


Directory = dict[int, Field]


@dataclass(frozen=True, slots=True)
class Exif:
    """The directories of one picture."""

    image: Directory = field(default_factory=dict)
    """Fields of the first directory, without those that point to the others."""
    exif: Directory = field(default_factory=dict)
    gps: Directory = field(default_factory=dict)

    @property
    def orientation(self) -> int:
        """EXIF's way up, 1 to 8."""
        entry = self.image.get(ORIENTATION)
        numbers = entry.numbers() if entry is not None else ()
        return numbers[0] if numbers and 1 <= numbers[0] <= 8 else 1

    @property
    def dpi(self) -> tuple[float, float] | None:
        """Print resolution in dots per inch, if the file names it with a unit."""
        unit = self.image[RESOLUTION_UNIT].numbers() if RESOLUTION_UNIT in self.image else (_INCHES,)
        values = [_rational(self.image.get(tag)) for tag in (X_RESOLUTION, Y_RESOLUTION)]
        if unit[:1] not in ((_INCHES,), (_CENTIMETRES,)) or None in values:
            return None
        across, down = ((value or 0.0) * (2.54 if unit[0] == _CENTIMETRES else 1.0) for value in values)
        return across, down

    def described(self) -> "Exif":
        """Return what describes the photo, without how its samples were stored."""
        exif = {tag: entry for tag, entry in self.exif.items() if tag not in (*_PIXEL_SIZE_TAGS, _INTEROP_IFD)}
        return Exif({tag: entry for tag, entry in self.image.items() if tag not in _STRUCTURE}, exif, self.gps)

    def says_something(self) -> bool:
        """Whether anything but the print resolution is left."""
        own = self.image.keys() - {X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT}
        return bool(own or self.exif or self.gps)


def turn_of(orientation: int) -> tuple[Rotation, bool]:
    """Return an EXIF orientation as degrees clockwise, after flipping left to right or not."""
    return _TURNS[orientation]


def read_exif(file: BinaryIO) -> Exif:
    """Read the first picture's directories of a TIFF structure; what is malformed is passed over."""
    return read_exif_at(file, None)


def read_exif_at(file: BinaryIO, offset: int | None) -> Exif:
    """Read the directories that begin at an offset, or at the first one when None."""
    file.seek(0)
    head = file.read(16)
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    is_big = head[2:4] in (b"+\0", b"\0+")
    if offset is None:
        offset = int.from_bytes(head[8:16] if is_big else head[4:8], order)
    image = _read_directory(file, offset, order, is_big=is_big)
    others = [
        _read_directory(file, _pointer(image, tag), order, is_big=is_big) if tag in image else {}
        for tag in (_EXIF_IFD, _GPS_IFD)
    ]
    return Exif({tag: entry for tag, entry in image.items() if tag not in (_EXIF_IFD, _GPS_IFD)}, *others)


def write_exif(exif: Exif) -> bytes:
    """Return a TIFF structure of its own, as JPEG, PNG, WebP and HEIF hold it."""
    return b"II*\0\x08\0\0\0" + directories_at(exif, 8)


def directories_at(exif: Exif, offset: int) -> bytes:
    """Return the directories, the first one first, as they stand at an offset of a little-endian TIFF structure."""
    image = dict(exif.image)
    for tag, directory in ((_EXIF_IFD, exif.exif), (_GPS_IFD, exif.gps)):
        if directory:
            image[tag] = Field(_LONG, 1, bytes(4))
    parts = [_length(image)]
    parts.extend(_length(directory) for directory in (exif.exif, exif.gps) if directory)
    place = offset + parts[0]
    written = b""
    for tag, directory in ((_EXIF_IFD, exif.exif), (_GPS_IFD, exif.gps)):
        if directory:
            image[tag] = Field(_LONG, 1, place.to_bytes(4, "little"))
            written += _directory_bytes(directory, place)
            place = offset + parts[0] + len(written)
    return _directory_bytes(image, offset) + written


def resolution_fields(dpi: tuple[float, float]) -> Directory:
    """Return the fields that name a print resolution."""
    return {
        X_RESOLUTION: Field(_RATIONAL, 1, struct.pack("<II", *_fraction(dpi[0]))),
        Y_RESOLUTION: Field(_RATIONAL, 1, struct.pack("<II", *_fraction(dpi[1]))),
        RESOLUTION_UNIT: Field(_SHORT, 1, struct.pack("<H", _INCHES)),
    }


def upright_field() -> Directory:
    """Return the field that says that the samples are upright."""
    return {ORIENTATION: Field(_SHORT, 1, struct.pack("<H", 1))}


def undefined(payload: bytes) -> Field:
    """Return bytes as a field without a type."""
    return Field(_UNDEFINED, len(payload), payload)


def _fraction(value: float) -> tuple[int, int]:
    return round(value * 1000), 1000


def _rational(entry: Field | None) -> float | None:
    if entry is None or entry.kind != _RATIONAL or entry.count != 1:
        return None
    above, below = struct.unpack("<II", entry.payload)
    return float(above / below) if above and below else None


def _pointer(directory: Directory, tag: int) -> int:
    numbers = directory[tag].numbers()
    return numbers[0] if numbers else 0


def _read_directory(file: BinaryIO, offset: int, order: Literal["little", "big"], *, is_big: bool) -> Directory:
    count_bytes, entry_bytes, inline = (8, 20, 8) if is_big else (2, 12, 4)
    file.seek(offset)
    num_fields = int.from_bytes(file.read(count_bytes), order) if offset else 0
    if num_fields > _MOST_FIELDS:
        return {}
    table = file.read(num_fields * entry_bytes)
    directory: Directory = {}
    for start in range(0, len(table) - entry_bytes + 1, entry_bytes):
        entry = table[start : start + entry_bytes]
        tag, kind = int.from_bytes(entry[:2], order), int.from_bytes(entry[2:4], order)
        count = int.from_bytes(entry[4 : 4 + inline], order)
        length = _SIZES.get(kind, 0) * count
        if not 0 < length <= _MOST_FIELD_BYTES:
            continue
        payload = entry[4 + inline :][:length]
        if length > inline:
            file.seek(int.from_bytes(entry[4 + inline :], order))
            payload = file.read(length)
        if len(payload) == length:
            directory[tag] = Field(kind, count, _little_endian(payload, kind, order))
    return directory


def _little_endian(payload: bytes, kind: int, order: str) -> bytes:
    width = _SWAPPED.get(kind, 1)
    if order == "little" or width == 1:
        return payload
    return b"".join(payload[at : at + width][::-1] for at in range(0, len(payload), width))


def _length(directory: Directory) -> int:
    outside = sum(len(entry.payload) + len(entry.payload) % 2 for entry in directory.values() if len(entry.payload) > 4)
    return 2 + 12 * len(directory) + 4 + outside


def _directory_bytes(directory: Directory, offset: int) -> bytes:
    table = struct.pack("<H", len(directory))
    place = offset + 2 + 12 * len(directory) + 4
    outside = b""
    for tag, entry in sorted(directory.items()):
        value = entry.payload
        if len(value) > 4:
            outside += value + bytes(len(value) % 2)
            value = struct.pack("<I", place)
            place = offset + 2 + 12 * len(directory) + 4 + len(outside)
        table += struct.pack("<HHI", tag, entry.kind, entry.count) + value.ljust(4, b"\0")
    return table + bytes(4) + outside
