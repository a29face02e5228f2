"""What Matroska and WebM files say of their tracks and libav does not pass on."""

from collections.abc import Iterator
from dataclasses import dataclass

from seedvr2_ray.media.bitstream.ebml import children

SEGMENT, CLUSTER, TRACKS, TRACK_ENTRY, VIDEO = 0x18538067, 0x1F43B675, 0x1654AE6B, 0xAE, 0xE0
"""Numbers of elements (RFC 9559)."""
_EBML = 0x1A45DFA3
_ENCODINGS, _ENCODING, _ENCRYPTION = 0x6D80, 0x6240, 0x5035
_CROPS = {0x54BB: "top", 0x54AA: "bottom", 0x54CC: "left", 0x54DD: "right"}
_MOST_HEADER_BYTES = 16 * 2**20


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
