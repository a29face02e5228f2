"""What HDR10 says about a grading monitor and the brightest pixels: read from anywhere, written everywhere."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from seedvr2_ray.media.bitstream.ebml import (
    child,
    children,
    element,
    float_of,
    float_value,
    uint_of,
    uint_value,
    with_children,
)
from seedvr2_ray.media.bitstream.matroska import SEGMENT, TRACK_ENTRY, TRACKS, VIDEO
from seedvr2_ray.media.bitstream.nal_units import header_units
from seedvr2_ray.media.bitstream.payloads import messages

Point = tuple[int, int]
"""A chromaticity (x, y) in units of 0.00002, as SEI messages count."""

_CHROMATICITY_UNIT, _LUMINANCE_UNIT = 50_000, 10_000
_BRIGHTEST = 10_000
"""PQ's own limit in cd/m2."""
_LARGEST_LIGHT_LEVEL = 65_535
_MASTERING_SEI, _LIGHT_SEI = 137, 144
_LIGHT_OBU, _MASTERING_OBU = 1, 2

_INFO, _COLOUR = 0x1549A966, 0x55B0
_MASTERING, _MAX_CLL, _MAX_FALL = 0x55D0, 0x55BC, 0x55BD
_POINTS = {"red": 0x55D1, "green": 0x55D3, "blue": 0x55D5, "white": 0x55D7}
_LUMINANCE_MAX, _LUMINANCE_MIN = 0x55D9, 0x55DA
_UNKNOWN_SIZE = b"\x01" + b"\xff" * 7
_DOLBY_VISION_RECORDS = (b"\x41\xe7\x84dvcC", b"\x41\xe7\x84dvvC")
"""Matroska's name for the kind of data beside a track's blocks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MasteringDisplay:
    """The monitor a master was graded on (SMPTE ST 2086)."""

    red: Point
    green: Point
    blue: Point
    white: Point
    max_luminance: int
    """In units of 0.0001 cd/m2, as is ``min_luminance``."""
    min_luminance: int

    @property
    def is_possible(self) -> bool:
        """Whether there can be such a monitor; zeros and nonsense are found in files, and encoders refuse them."""
        points = (self.red, self.green, self.blue, self.white)
        in_diagram = all(0 < x + y <= _CHROMATICITY_UNIT and min(x, y) >= 0 for x, y in points)
        return in_diagram and 0 <= self.min_luminance < self.max_luminance <= _BRIGHTEST * _LUMINANCE_UNIT


@dataclass(frozen=True, kw_only=True, slots=True)
class StaticHdr:
    """HDR10's static metadata, as far as a source has it."""

    mastering: MasteringDisplay | None = None
    max_cll: int = 0
    """Brightest pixel of all frames in cd/m2; 0 where nobody says."""
    max_fall: int = 0
    """Brightest average of a frame in cd/m2; 0 where nobody says."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known."""
        return self.mastering is None and not self.max_cll and not self.max_fall

    def filled_from(self, other: StaticHdr) -> StaticHdr:
        """Return this, completed by what only the other knows."""
        has_light = self.max_cll or self.max_fall
        return StaticHdr(
            mastering=self.mastering or other.mastering,
            max_cll=self.max_cll if has_light else other.max_cll,
            max_fall=self.max_fall if has_light else other.max_fall,
        )


NO_HDR = StaticHdr()


def hdr_of_packet(codec: str, data: bytes, length_size: int) -> StaticHdr:
    """Read what the messages of one packet say."""
    found = NO_HDR
    for kind, payload in messages(codec, data, length_size):
        with suppress(struct.error):
            if codec != "av1" and kind == _MASTERING_SEI:
                found = StaticHdr(mastering=_mastering_sei(payload)).filled_from(found)
            elif codec == "av1" and kind == _MASTERING_OBU:
                found = StaticHdr(mastering=_mastering_obu(payload)).filled_from(found)
            elif kind == (_LIGHT_OBU if codec == "av1" else _LIGHT_SEI):
                max_cll, max_fall = struct.unpack_from(">2H", payload)
                found = StaticHdr(max_cll=max_cll, max_fall=max_fall).filled_from(found)
    return found


def hdr_of_header(codec: str, extradata: bytes | None) -> StaticHdr:
    """Read what the messages in a stream's header say; of a codec with NAL units."""
    units = header_units(codec, extradata)
    return hdr_of_packet(codec, b"".join(b"\0\0\1" + unit for unit in units), 0)


def hdr_of_container(stream: Any) -> tuple[StaticHdr, bool]:
    """Read what the container says, and whether it announces Dolby Vision.

    libav keeps such facts beside the stream's parameters, where PyAV does not look. Its Matroska muxer
    writes them all, so the header of a Matroska file in memory says them in one notation.
    """
    import av

    memory = io.BytesIO()
    try:
        with av.open(memory, "w", format="matroska") as output:
            output.add_stream_from_template(stream, opaque=True)
            output.start_encoding()
    except (ValueError, OSError, av.FFmpegError):
        return NO_HDR, False
    data = memory.getvalue()
    has_dolby_vision = any(record in data for record in _DOLBY_VISION_RECORDS)
    colour: bytes | None = child(data, SEGMENT)
    for inner in (TRACKS, TRACK_ENTRY, VIDEO, _COLOUR):
        colour = child(colour, inner) if colour is not None else None
    return (NO_HDR if colour is None else _from_colour(colour)), has_dolby_vision


def described_part(head: bytes, hdr: StaticHdr) -> bytes:
    """Return the beginning of a part whose header also says what is known of its light.

    Args:
        head: of a Matroska file with one video track: its header and some of what follows.
    """
    (_, _, _, header_stop), (_, _, start, stop) = islice(children(head), 2)
    body = head[start:stop]
    info = child(body, _INFO) or b""
    start, stop = next((start, stop) for number, _, start, stop in children(body) if number == TRACKS)
    tracks = with_children(body[start:stop], (TRACK_ENTRY, VIDEO, _COLOUR), _to_colour(hdr))
    return b"".join(
        (
            head[:header_stop],
            SEGMENT.to_bytes(4, "big") + _UNKNOWN_SIZE,
            element(_INFO, info),
            element(TRACKS, tracks),
            body[stop:],
        )
    )


def x265_params(hdr: StaticHdr) -> str:
    """Return the parameters by which x265 is told, in its own units."""
    said = []
    if hdr.mastering is not None:
        points = _points(hdr.mastering, 1)
        said.append(f"master-display={points}L({hdr.mastering.max_luminance},{hdr.mastering.min_luminance})")
    if hdr.max_cll or hdr.max_fall:
        said.append(f"max-cll={hdr.max_cll},{hdr.max_fall}")
    return ":".join(said)


def svt_av1_params(hdr: StaticHdr) -> str:
    """Return the parameters by which SVT-AV1 is told, as plain numbers."""
    said = []
    if hdr.mastering is not None:
        light = f"L({hdr.mastering.max_luminance / _LUMINANCE_UNIT},{hdr.mastering.min_luminance / _LUMINANCE_UNIT})"
        said.append(f"mastering-display={_points(hdr.mastering, _CHROMATICITY_UNIT)}{light}")
    if hdr.max_cll or hdr.max_fall:
        said.append(f"content-light={hdr.max_cll},{hdr.max_fall}")
    return ":".join(said)


def _points(mastering: MasteringDisplay, unit: int) -> str:
    named = (("G", mastering.green), ("B", mastering.blue), ("R", mastering.red), ("WP", mastering.white))
    return "".join(f"{name}({_number(x, unit)},{_number(y, unit)})" for name, (x, y) in named)


def _number(value: int, unit: int) -> int | float:
    return value if unit == 1 else value / unit


def _possible(display: MasteringDisplay) -> MasteringDisplay | None:
    return display if display.is_possible else None


def _mastering_sei(payload: bytes) -> MasteringDisplay | None:
    gx, gy, bx, by, rx, ry, wx, wy, brightest, darkest = struct.unpack_from(">8H2I", payload)
    return _possible(
        MasteringDisplay(
            red=(rx, ry), green=(gx, gy), blue=(bx, by), white=(wx, wy), max_luminance=brightest, min_luminance=darkest
        )
    )


def _mastering_obu(payload: bytes) -> MasteringDisplay | None:
    *coordinates, brightest, darkest = struct.unpack_from(">8H2I", payload)
    rx, ry, gx, gy, bx, by, wx, wy = (round(value * _CHROMATICITY_UNIT / 65536) for value in coordinates)
    return _possible(
        MasteringDisplay(
            red=(rx, ry),
            green=(gx, gy),
            blue=(bx, by),
            white=(wx, wy),
            max_luminance=round(brightest * _LUMINANCE_UNIT / 256),
            min_luminance=round(darkest * _LUMINANCE_UNIT / 16384),
        )
    )


def _from_colour(colour: bytes) -> StaticHdr:
    mastering = child(colour, _MASTERING)
    display = None
    if mastering is not None:
        numbers = {
            number: float_value(mastering[start:stop]) for number, _, start, stop in children(mastering) if stop > start
        }
        points = {
            name: (
                round(numbers.get(number, 0) * _CHROMATICITY_UNIT),
                round(numbers.get(number + 1, 0) * _CHROMATICITY_UNIT),
            )
            for name, number in _POINTS.items()
        }
        display = _possible(
            MasteringDisplay(
                **points,
                max_luminance=round(numbers.get(_LUMINANCE_MAX, 0) * _LUMINANCE_UNIT),
                min_luminance=round(numbers.get(_LUMINANCE_MIN, 0) * _LUMINANCE_UNIT),
            )
        )
    return StaticHdr(
        mastering=display,
        max_cll=min(uint_value(child(colour, _MAX_CLL) or b""), _LARGEST_LIGHT_LEVEL),
        max_fall=min(uint_value(child(colour, _MAX_FALL) or b""), _LARGEST_LIGHT_LEVEL),
    )


def _to_colour(hdr: StaticHdr) -> bytes:
    said = b""
    if hdr.max_cll or hdr.max_fall:
        said += element(_MAX_CLL, uint_of(hdr.max_cll)) + element(_MAX_FALL, uint_of(hdr.max_fall))
    if hdr.mastering is None:
        return said
    inside = b""
    for name, number in _POINTS.items():
        x, y = getattr(hdr.mastering, name)
        inside += element(number, float_of(x / _CHROMATICITY_UNIT)) + element(
            number + 1, float_of(y / _CHROMATICITY_UNIT)
        )
    inside += element(_LUMINANCE_MAX, float_of(hdr.mastering.max_luminance / _LUMINANCE_UNIT))
    inside += element(_LUMINANCE_MIN, float_of(hdr.mastering.min_luminance / _LUMINANCE_UNIT))
    return said + element(_MASTERING, inside)
