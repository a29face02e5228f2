"""The checksums of Matroska's clusters (RFC 8794, 11.3.1), which libav writes and does not look at."""

import os
import zlib
from typing import BinaryIO

from seedvr2_ray.media.bitstream.ebml import CRC_32, HEAD_BYTES, Head, read_head
from seedvr2_ray.media.bitstream.matroska import CLUSTER, SEGMENT

_CRC_BYTES = 4
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
            head = _head_at(file, position)
            if head is None or head.size is None:
                break
            start = position + head.num_bytes
            position = start + head.size
            if head.number == CLUSTER and position <= end and not _is_intact(file, start, position):
                found.append((start, position))
    return tuple(found)


def _segment_start(file: BinaryIO, end: int) -> int | None:
    """Where the elements of the Segment, which holds everything but the header, begin."""
    position = 0
    while position < end:
        head = _head_at(file, position)
        if head is None:
            return None
        if head.number == SEGMENT:
            return position + head.num_bytes
        if head.size is None:
            return None
        position += head.num_bytes + head.size
    return None


def _is_intact(file: BinaryIO, start: int, stop: int) -> bool:
    head = _head_at(file, start)
    if head is None or head.number != CRC_32 or head.size != _CRC_BYTES:
        return True
    file.seek(start + head.num_bytes)
    expected = int.from_bytes(file.read(_CRC_BYTES), "little")
    crc, left = 0, stop - file.tell()
    while left > 0:
        data = file.read(min(left, _CHUNK_BYTES))
        if not data:
            return False
        crc, left = zlib.crc32(data, crc), left - len(data)
    return crc == expected


def _head_at(file: BinaryIO, position: int) -> Head | None:
    file.seek(position)
    return read_head(file.read(HEAD_BYTES))
