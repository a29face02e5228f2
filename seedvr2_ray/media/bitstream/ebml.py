"""The notation of Matroska files (RFC 8794): enough to read elements and to add some."""

import struct
from collections.abc import Iterator
from math import isfinite
from typing import NamedTuple

CRC_32 = 0xBF
"""A checksum of its parent: untrue once the parent is changed."""

HEAD_BYTES = 12
"""The longest number and the longest size."""
_MOST_NUMBER_BYTES = 4


class Head(NamedTuple):
    """How an element begins."""

    number: int
    size: int | None
    """Of its content; nothing where it goes on to the end of its parent."""
    num_bytes: int
    """Of the number and the size themselves."""


def read_head(data: bytes | memoryview) -> Head | None:
    """Read the beginning of an element; nothing where it is cut off, or is none."""
    number_bytes = _length(data)
    if number_bytes > _MOST_NUMBER_BYTES:
        return None
    size_bytes = _length(data[number_bytes:])
    num_bytes = number_bytes + size_bytes
    if num_bytes > min(len(data), HEAD_BYTES):
        return None
    size = int.from_bytes(data[number_bytes:num_bytes], "big") & ((1 << 7 * size_bytes) - 1)
    is_unknown = size == (1 << 7 * size_bytes) - 1
    return Head(int.from_bytes(data[:number_bytes], "big"), None if is_unknown else size, num_bytes)


def children(data: bytes | memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Yield each element's number, and where it, its content and the content's end lie.

    The last one may be cut off, or be without an end: it then reaches to the end of the data.
    """
    at = 0
    while (head := read_head(data[at : at + HEAD_BYTES])) is not None:
        start = at + head.num_bytes
        stop = len(data) if head.size is None else min(start + head.size, len(data))
        yield head.number, at, start, stop
        at = stop


def child(data: bytes, number: int) -> bytes | None:
    """Return the content of the first element of this number."""
    return next((data[start:stop] for found, _, start, stop in children(data) if found == number), None)


def element(number: int, content: bytes) -> bytes:
    """Write an element."""
    name = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return name + (len(content) | 1 << 56).to_bytes(8, "big") + content


def with_children(content: bytes, path: tuple[int, ...], added: bytes) -> bytes:
    """Add elements to the first descendant at the end of a path, which is made where it is missing."""
    if not path:
        return content + added
    rebuilt, is_added = b"", False
    for number, begin, start, stop in children(content):
        if number == path[0] and not is_added:
            rebuilt += element(number, with_children(content[start:stop], path[1:], added))
            is_added = True
        elif number != CRC_32:
            rebuilt += content[begin:stop]
    return rebuilt if is_added else rebuilt + element(path[0], with_children(b"", path[1:], added))


def uint_value(content: bytes) -> int:
    """Read an unsigned integer; nothing is 0."""
    return int.from_bytes(content, "big")


def uint_of(value: int) -> bytes:
    """Write an unsigned integer."""
    return value.to_bytes(8, "big")


def float_value(content: bytes) -> float:
    """Read a finite floating-point number of either size; anything else is 0."""
    if len(content) not in (4, 8):
        return 0.0
    value = float(struct.unpack(">f" if len(content) == 4 else ">d", content)[0])
    return value if isfinite(value) else 0.0


def float_of(value: float) -> bytes:
    """Write a floating-point number."""
    return struct.pack(">d", value)


def _length(data: bytes | memoryview) -> int:
    """Return how many bytes a number takes, which its first byte says; too many where there is none."""
    return 9 - data[0].bit_length() if data else HEAD_BYTES + 1
