"""AV1's units (its bitstream specification, 5.3): where each begins and ends."""

from collections.abc import Iterator

SEQUENCE_HEADER, METADATA = 1, 5
FRAMES = frozenset({3, 6})
"""Types of the units that hold a picture, or its header."""
_HAS_EXTENSION, _HAS_SIZE = 4, 2
_LONGEST_NUMBER = 8


def obus(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the type of every unit, and where its payload begins and ends."""
    at = 0
    while at < len(data):
        header = data[at]
        start = at + 1 + bool(header & _HAS_EXTENSION)
        size = len(data) - start
        if header & _HAS_SIZE:
            size, start = _leb128(data, start)
        yield header >> 3 & 15, start, min(start + size, len(data))
        at = start + size


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """Read a number, and where it ends; one without an end is as large as the data."""
    value = 0
    for number, byte in enumerate(data[at : at + _LONGEST_NUMBER]):
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return value, at + number + 1
    return len(data), at
