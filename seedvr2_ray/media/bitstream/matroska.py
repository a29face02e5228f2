"""What Matroska and WebM files say and libav does not pass on: facts of their tracks, and checksums of clusters."""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from seedvr2_ray.media.bitstream.ebml import CRC_32, HEAD_BYTES, Head, children, read_head

SEGMENT, CLUSTER, TRACKS, TRACK_ENTRY, VIDEO = 0x18538067, 0x1F43B675, 0x1654AE6B, 0xAE, 0xE0
"""Numbers of elements (RFC 9559)."""
_EBML = 0x1A45DFA3
_ENCODINGS, _ENCODING, _ENCRYPTION = 0x6D80, 0x6240, 0x5035
_CROPS = {0x54BB: "top", 0x54AA: "bottom", 0x54CC: "left", 0x54DD: "right"}
_MOST_HEADER_BYTES = 16 * 2**20
_CRC_BYTES = 4
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class TrackFacts:
    """One track, in the order of libav's streams."""

    crop: tuple[tuple[str, int], ...]
    """Sides of the picture that players shall cut off, and by how many pixels."""
    is_encrypted: bool


def read_tracks(path: str) -> tuple[TrackFacts, ...]:
    """Read the facts of all tracks; nothing where the file is no Matroska, or is damaged before its tracks."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_HEADER_BYTES)
    except OSError:
        return ()
    if data[:4] != _EBML.to_bytes(4, "big"):
        return ()
    for name, body in _elements(data):
        if name != SEGMENT:
            continue
        for child, tracks in _elements(body):
            if child == CLUSTER:
                break
            if child == TRACKS:
                return tuple(_facts(entry) for name, entry in _elements(tracks) if name == TRACK_ENTRY)
    return ()


def _facts(entry: memoryview) -> TrackFacts:
    crop: list[tuple[str, int]] = []
    is_encrypted = False
    for name, body in _elements(entry):
        if name == VIDEO:
            sides = ((_CROPS[side], int.from_bytes(value, "big")) for side, value in _elements(body) if side in _CROPS)
            crop = [(side, pixels) for side, pixels in sides if pixels]
        if name == _ENCODINGS:
            is_encrypted = any(
                part == _ENCRYPTION
                for kind, encoding in _elements(body)
                if kind == _ENCODING
                for part, _ in _elements(encoding)
            )
    return TrackFacts(tuple(crop), is_encrypted)


def _elements(data: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the elements' numbers and contents, without copying them."""
    view = memoryview(data)
    return ((number, view[start:stop]) for number, _, start, stop in children(view))


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
