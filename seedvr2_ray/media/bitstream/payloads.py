"""The messages among the units of coded pictures: read, and put in.

SEI of H.264 (ITU-T H.264, 7.3 and Annex D), HEVC (H.265) and VVC (H.266), and the metadata of AV1 (its bitstream
specification, 5.8). Only what stands before a packet's first slice or frame is looked at: whatever describes a
picture stands there.
"""

import re
from collections.abc import Iterator

from seedvr2_ray.media.bitstream.nal_units import SYNTAXES, unescaped, unit_spans
from seedvr2_ray.media.bitstream.obus import FRAMES, METADATA, obus

T35_MESSAGE = 4
"""SEI type and AV1 metadata type of "user data registered by ITU-T T.35"; the same number in both by chance."""
_NEEDS_ESCAPE = re.compile(rb"\x00\x00(?=[\x00-\x03])")


def has_messages(codec: str) -> bool:
    """Whether the messages of a codec can be read here."""
    return codec in SYNTAXES or codec == "av1"


def messages(codec: str, data: bytes, length_size: int) -> Iterator[tuple[int, bytes]]:
    """Yield type and payload of every message before the first slice or frame of a packet."""
    if codec == "av1":
        for kind, start, stop in obus(data):
            if kind in FRAMES:
                return
            if kind == METADATA and stop > start:
                yield data[start], data[start + 1 : stop]
        return
    syntax = SYNTAXES[codec]
    for start, stop in unit_spans(data, length_size):
        kind = syntax.type_of(data, start)
        if kind in syntax.slice_types:
            return
        if kind == syntax.prefix_sei:
            yield from _sei_messages(unescaped(data[start + syntax.header_bytes : stop]))


def with_t35(codec: str, data: bytes, payload: bytes, length_size: int) -> bytes:
    """Put a T.35 message before the first slice of a packet, where it describes the picture that follows.

    Args:
        codec: one with NAL units.
        payload: from the country code on.
    """
    syntax = SYNTAXES[codec]
    sizes = b"\xff" * (len(payload) // 255) + bytes([len(payload) % 255])
    message = _NEEDS_ESCAPE.sub(b"\0\0\3", bytes([T35_MESSAGE]) + sizes + payload + b"\x80")
    body = syntax.sei_header + message
    unit = len(body).to_bytes(length_size, "big") + body if length_size else b"\0\0\0\1" + body
    for start, _ in unit_spans(data, length_size):
        if syntax.type_of(data, start) in syntax.slice_types:
            at = start - (length_size or 3)
            return data[:at] + unit + data[at:]
    return data


def _sei_messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 2 < len(data):
        numbers = []
        for _ in range(2):
            number = 0
            while at < len(data) and data[at] == 0xFF:
                number, at = number + 255, at + 1
            if at >= len(data):
                return
            numbers.append(number + data[at])
            at += 1
        kind, size = numbers
        yield kind, data[at : at + size]
        at += size
