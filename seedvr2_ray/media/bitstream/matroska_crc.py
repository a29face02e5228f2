"""The checksums of Matroska's clusters (RFC 8794, 11.3.1), which libav writes and does not look at."""

import os
import zlib
from typing import BinaryIO

_SEGMENT, _CLUSTER, _CRC_32 = 0x18538067, 0x1F43B675, 0xBF
_CHUNK_BYTES = 1 << 20


def damaged_clusters(path: str) -> tuple[tuple[int, int], ...]:
    """Return the byte ranges [start, stop) of the clusters whose bytes are not those that were written.

    Clusters without a checksum are believed. Where the file's structure itself is broken nothing can be said.
    """
    found: list[tuple[int, int]] = []
    end = os.path.getsize(path)
    with open(path, "rb") as file:
        position = _segment_start(file, end)
        while position is not None and position < end:
            file.seek(position)
            element, size = _number(file, is_identifier=True), _number(file)
            if element is None or size is None:
                break
            start, position = file.tell(), file.tell() + size
            if element == _CLUSTER and position <= end and not _is_intact(file, position):
                found.append((start, position))
    return tuple(found)


def _segment_start(file: BinaryIO, end: int) -> int | None:
    """Where the elements of the Segment, which holds everything but the header, begin."""
    position = 0
    while position < end:
        file.seek(position)
        element, size = _number(file, is_identifier=True), _number(file)
        if element == _SEGMENT:
            return file.tell()
        if element is None or size is None:
            return None
        position = file.tell() + size
    return None


def _is_intact(file: BinaryIO, stop: int) -> bool:
    if _number(file, is_identifier=True) != _CRC_32 or _number(file) != 4:
        return True
    expected = int.from_bytes(file.read(4), "little")
    crc, left = 0, stop - file.tell()
    while left > 0:
        data = file.read(min(left, _CHUNK_BYTES))
        if not data:
            return False
        crc, left = zlib.crc32(data, crc), left - len(data)
    return crc == expected


def _number(file: BinaryIO, *, is_identifier: bool = False) -> int | None:
    """Read a number of variable length; nothing for an unknown size, the end of the file or nonsense."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    data = first + file.read(length - 1)
    if len(data) < length:
        return None
    value = int.from_bytes(data, "big")
    if is_identifier:
        return value
    value &= (1 << 7 * length) - 1
    return None if value == (1 << 7 * length) - 1 else value
