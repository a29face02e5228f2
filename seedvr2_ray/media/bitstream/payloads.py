"""Coded pictures as what they are made of: NAL units and OBUs, and the messages among them.

H.264 (ITU-T H.264, 7.3 and Annex D), HEVC (H.265), VVC (H.266) and AV1 (its bitstream specification, 5.3 to 5.8).
Only what stands before a packet's first slice or frame is looked at: whatever describes a picture stands there.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

T35_MESSAGE = 4
"""SEI type and AV1 metadata type of "user data registered by ITU-T T.35"; the same number in both by chance."""
_ESCAPE = re.compile(rb"\x00\x00\x03")
_NEEDS_ESCAPE = re.compile(rb"\x00\x00(?=[\x00-\x03])")


@dataclass(frozen=True, slots=True)
class NalSyntax:
    """What tells the NAL units of one codec apart."""

    header_bytes: int
    type_shift: int
    """Bits to the right of the type in the byte that holds it, the last of the header's for VVC and else the first."""
    type_mask: int
    first_slice: int
    last_slice: int
    prefix_sei: int
    """Type of a unit of messages about the picture that follows."""
    sei_header: bytes


_NAL_SYNTAX = {
    "h264": NalSyntax(1, 0, 0x1F, 1, 5, 6, b"\x06"),
    "hevc": NalSyntax(2, 1, 0x3F, 0, 31, 39, b"\x4e\x01"),
    "vvc": NalSyntax(2, 3, 0x1F, 0, 11, 23, b"\x00\xb9"),
}
DOLBY_VISION_UNIT = 62
"""HEVC: type of the units that carry Dolby Vision's data; they follow the slices."""

_AV1_METADATA, _AV1_FRAMES = 5, (3, 6)
_HAS_SIZE = 2


def nal_length_size(codec: str, extradata: bytes | None) -> int:
    """Bytes of the length before every NAL unit; 0 where units are told apart by start codes."""
    if not extradata or extradata[0] not in (0, 1) or extradata[:3] in (b"\0\0\1", b"\0\0\0"):
        return 0
    place = {"h264": 4, "hevc": 21}.get(codec)
    if place is not None and len(extradata) > place:
        return (extradata[place] & 3) + 1
    return 4 if codec == "vvc" else 0


def has_messages(codec: str) -> bool:
    """Whether the messages of a codec can be read here."""
    return codec in _NAL_SYNTAX or codec == "av1"


def messages(codec: str, data: bytes, length_size: int) -> Iterator[tuple[int, bytes]]:
    """Yield type and payload of every message before the first slice or frame of a packet."""
    if codec == "av1":
        for kind, start, stop in _obus(data):
            if kind in _AV1_FRAMES:
                return
            if kind == _AV1_METADATA and stop > start:
                yield data[start], data[start + 1 : stop]
        return
    syntax = _NAL_SYNTAX[codec]
    for start, stop in nal_units(data, length_size):
        kind = nal_type(codec, data, start)
        if syntax.first_slice <= kind <= syntax.last_slice:
            return
        if kind == syntax.prefix_sei:
            yield from _sei_messages(unescaped(data[start + syntax.header_bytes : stop]))


def nal_type(codec: str, data: bytes, start: int) -> int:
    """Return the type of the NAL unit that begins at ``start``."""
    syntax = _NAL_SYNTAX[codec]
    at = start + (1 if codec == "vvc" else 0)
    return data[at] >> syntax.type_shift & syntax.type_mask if at < len(data) else -1


def nal_units(data: bytes, length_size: int) -> Iterator[tuple[int, int]]:
    """Yield where every NAL unit begins and ends, without its length or start code."""
    if length_size:
        at = 0
        while at + length_size < len(data):
            start = at + length_size
            at = start + int.from_bytes(data[at:start], "big")
            yield start, min(at, len(data))
        return
    at = data.find(b"\0\0\1")
    while at >= 0:
        after = data.find(b"\0\0\1", at + 3)
        yield at + 3, after if after >= 0 else len(data)
        at = after


def unescaped(data: bytes) -> bytes:
    """Remove the bytes that keep start codes from appearing in a NAL unit."""
    return _ESCAPE.sub(b"\0\0", data)


def with_t35(codec: str, data: bytes, payload: bytes, length_size: int) -> bytes:
    """Put a T.35 message before the first slice of a packet, where it describes the picture that follows.

    Args:
        codec: one with NAL units.
        payload: from the country code on.
    """
    syntax = _NAL_SYNTAX[codec]
    sizes = b"\xff" * (len(payload) // 255) + bytes([len(payload) % 255])
    message = _NEEDS_ESCAPE.sub(b"\0\0\3", bytes([T35_MESSAGE]) + sizes + payload + b"\x80")
    body = syntax.sei_header + message
    unit = len(body).to_bytes(length_size, "big") + body if length_size else b"\0\0\0\1" + body
    for start, _ in nal_units(data, length_size):
        if syntax.first_slice <= nal_type(codec, data, start) <= syntax.last_slice:
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


def _obus(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the type of every OBU, and where its payload begins and ends."""
    at = 0
    while at < len(data):
        header = data[at]
        start = at + 1 + (header >> 2 & 1)
        size = len(data) - start
        if header & _HAS_SIZE:
            size, start = _read_leb128(data, start)
        yield header >> 3 & 15, start, min(start + size, len(data))
        at = start + size


def _read_leb128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for number, byte in enumerate(data[at : at + 8]):
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return value, at + number + 1
    return len(data), at


def header_units(codec: str, extradata: bytes | None) -> bytes:
    """Return the NAL units of an HEVC stream's header (ISO 14496-15, 8.3.3.1) with start codes between them."""
    if codec != "hevc" or not extradata or not nal_length_size(codec, extradata):
        return b""
    units, at = bytearray(), 23
    for _ in range(int.from_bytes(extradata[22:23], "big")):
        count, at = int.from_bytes(extradata[at + 1 : at + 3], "big"), at + 3
        for _ in range(count):
            if at >= len(extradata):
                return bytes(units)
            size, at = int.from_bytes(extradata[at : at + 2], "big"), at + 2
            units += b"\0\0\1" + extradata[at : at + size]
            at += size
    return bytes(units)
