"""The boxes that MP4, HEIF, JPEG 2000 and JPEG XL files are made of (ISO 14496-12, 4.2)."""

import os
from collections.abc import Iterator
from typing import BinaryIO

_LEAST_BYTES, _MOST_BYTES = 8, 16
"""That a box's name and length take."""

Box = tuple[bytes, int, int]
"""A box's name, where its content begins, and where it ends."""


def boxes_in(data: bytes, start: int, stop: int) -> Iterator[Box]:
    """Yield the boxes of a stretch of bytes; a last one that is cut off ends with the stretch."""
    while start + _LEAST_BYTES <= stop:
        head = _read_head(data[start : start + _MOST_BYTES], stop - start)
        if head is None:
            return
        name, num_bytes, length = head
        end = min(stop, start + length)
        if end < start + num_bytes:
            return
        yield name, start + num_bytes, end
        start = end


def boxes_of(file: BinaryIO) -> Iterator[Box]:
    """Yield the outermost boxes of a file; one that is cut off ends where it should, behind the file's end."""
    position, size = 0, file.seek(0, os.SEEK_END)
    while position + _LEAST_BYTES <= size:
        file.seek(position)
        head = _read_head(file.read(_MOST_BYTES), size - position)
        if head is None:
            return
        name, num_bytes, length = head
        yield name, position + num_bytes, position + length
        position += length


def _read_head(data: bytes, left: int) -> tuple[bytes, int, int] | None:
    """Return a box's name, the bytes before its content, and its length; nothing where there can be no such box.

    Args:
        left: bytes from the beginning of the box to the end of what it lies in.
    """
    length, num_bytes = int.from_bytes(data[:4], "big"), _LEAST_BYTES
    if length == 1:
        length, num_bytes = int.from_bytes(data[8:_MOST_BYTES], "big"), _MOST_BYTES
    elif length == 0:
        length = left
    return None if length < num_bytes else (data[4:8], num_bytes, length)
