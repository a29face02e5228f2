"""What H.264, HEVC and VVC streams are made of: NAL units, their kinds and the numbers they go by.

Only what tells units and parameter sets apart is read (ITU-T H.264 7.3, H.265 7.3, H.266 7.3), never a picture.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from seedvr2_ray.media.bitstream.bits import BitReader

Kind = Literal["vps", "sps", "pps"]
SetKey = tuple[Kind, int]
"""A parameter set's kind and number: a later one of the same name takes its place."""

DOLBY_VISION_UNIT = 62
"""HEVC: type of the units that carry Dolby Vision's data; they follow the slices."""

_START = b"\0\0\1"
_LEAST_BYTES = 2
"""Of a unit that says anything: in HEVC and VVC the header alone takes them."""
_VVC_PICTURE_HEADER = 19
_VVC_SINGLE_LISTS = (12, 13)
"""Types of units of which a vvcC box holds one at the most, and so does not count them."""


@dataclass(frozen=True, slots=True)
class ParameterSet:
    """One parameter set as it was sent."""

    key: SetKey
    content: bytes
    refers_to: SetKey | None
    """The set that it builds on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Syntax:
    """How one of the three codecs writes its units."""

    codec: Literal["h264", "hevc", "vvc"]
    header_bytes: int
    set_kinds: dict[int, Kind]
    picture_types: frozenset[int]
    """Types of the units from which the number of a picture's PPS can be read."""
    slice_types: range
    """Types of all units that hold a part of a picture, those of data partitions included."""
    prefix_sei: int
    """Type of a unit of messages about the picture that follows."""
    sei_header: bytes

    def type_of(self, unit: bytes, start: int = 0) -> int:
        """Return the type of the unit that begins at ``start``; -1 where it is cut off before it says."""
        at = start + (1 if self.codec == "vvc" else 0)
        if at >= len(unit):
            return -1
        if self.codec == "h264":
            return unit[at] & 31
        return unit[at] >> 1 & 63 if self.codec == "hevc" else unit[at] >> 3

    def read_set(self, unit: bytes) -> ParameterSet | None:
        """Read a parameter set; nothing when it is cut off."""
        kind = self.set_kinds[self.type_of(unit)]
        bits, number, refers_to = _SET_READERS[self.codec](kind, unit)
        return None if bits.is_overrun else ParameterSet((kind, number), unit, refers_to)

    def pps_of(self, unit: bytes) -> int | None:
        """Return the number of the PPS that a picture is coded with; nothing when it cannot be read."""
        bits = BitReader(unescaped(unit[self.header_bytes : 24]))
        number = _PPS_READERS[self.codec](self.type_of(unit), bits)
        return None if bits.is_overrun else number


def unescaped(data: bytes) -> bytes:
    """Remove the bytes that keep start codes from appearing in a unit."""
    return data.replace(b"\0\0\3", b"\0\0")


def unit_spans(data: bytes, length_size: int) -> Iterator[tuple[int, int]]:
    """Yield where every unit of a packet begins and ends, without its length or start code.

    A last one that is cut off ends with the data.

    Args:
        length_size: bytes of the number that stands before each unit; 0 where start codes do.
    """
    at = 0
    if length_size:
        while at + length_size < len(data):
            start = at + length_size
            at = start + int.from_bytes(data[at:start], "big")
            yield start, min(at, len(data))
        return
    at = data.find(_START)
    while at >= 0:
        after = data.find(_START, at + len(_START))
        yield at + len(_START), after if after >= 0 else len(data)
        at = after


def split_units(data: bytes, length_size: int) -> Iterator[bytes]:
    """Yield the units of a packet that are long enough to say what they are.

    Args:
        length_size: as for :func:`unit_spans`. Zeros before a start code belong to no unit.
    """
    for start, stop in unit_spans(data, length_size):
        unit = data[start:stop] if length_size else data[start:stop].rstrip(b"\0")
        if len(unit) >= _LEAST_BYTES:
            yield unit


def layer_of_hevc(unit: bytes) -> int:
    """Return the layer of an HEVC unit: 0 of the pictures themselves, more of a second view or an enhancement."""
    return (unit[0] & 1) << 5 | unit[1] >> 3


def length_size_of(codec: str, extradata: bytes | None) -> int:
    """Return how many bytes of length stand before every unit of a stream; 0 where start codes separate them.

    Args:
        codec: FFmpeg's name; other codecs have no such units.
        extradata: the stream's header (avcC, hvcC and vvcC of ISO 14496-15, or units with start codes).
    """
    if codec not in SYNTAXES or not extradata or extradata.startswith((_START, b"\0\0\0")):
        return 0
    if codec == "vvc":
        return (extradata[0] >> 1 & 3) + 1
    if extradata[0] > 1:
        return 0
    place = 4 if codec == "h264" else 21
    return (extradata[place] & 3) + 1 if len(extradata) > place else 4


def header_units(codec: str, extradata: bytes | None) -> list[bytes]:
    """Return the units that stand before all packets, as a stream's header lists them; up to one that is cut off."""
    if codec not in SYNTAXES or not extradata:
        return []
    if not length_size_of(codec, extradata):
        return list(split_units(extradata, 0))
    units: list[bytes] = []
    try:
        for unit in _avc_units(extradata) if codec == "h264" else _listed_units(codec, extradata):
            if len(unit) >= _LEAST_BYTES:
                units.append(unit)
    except IndexError:
        pass  # The packets tell the rest.
    return units


def _avc_units(extradata: bytes) -> Iterator[bytes]:
    position = 5
    for mask in (31, 255):
        count = extradata[position] & mask
        position += 1
        for _ in range(count):
            unit, position = _sized_unit(extradata, position)
            yield unit


def _listed_units(codec: str, extradata: bytes) -> Iterator[bytes]:
    """Units of an hvcC or vvcC box, which lists them by type."""
    position = _vvc_lists_at(extradata) if codec == "vvc" else 22
    num_lists = extradata[position]
    position += 1
    for _ in range(num_lists):
        is_single = codec == "vvc" and extradata[position] & 31 in _VVC_SINGLE_LISTS
        count = 1 if is_single else int.from_bytes(extradata[position + 1 : position + 3], "big")
        position += 1 if is_single else 3
        for _ in range(count):
            unit, position = _sized_unit(extradata, position)
            yield unit


def _sized_unit(data: bytes, position: int) -> tuple[bytes, int]:
    stop = position + 2 + int.from_bytes(data[position : position + 2], "big")
    if stop > len(data):
        raise IndexError("a unit is cut off")
    return data[position + 2 : stop], stop


def _vvc_lists_at(extradata: bytes) -> int:
    """Skip a VvcDecoderConfigurationRecord up to its lists of units (ISO 14496-15, 11.2.4.2)."""
    if not extradata[0] & 1:
        return 1
    num_sublayers = (extradata[2] >> 4) & 7
    num_constraint_bytes = extradata[4] & 63
    position = 7 + max(1, num_constraint_bytes)
    if num_sublayers > 1:
        present = extradata[position] >> (9 - num_sublayers)
        position += 1 + present.bit_count()
    position += 1 + 4 * extradata[position]
    return position + 6


def skip_hevc_profiles(bits: BitReader, num_sub_layers: int) -> None:
    """Pass over the profiles and levels of an HEVC stream and its further sub-layers (H.265, 7.3.3)."""
    bits.skip(88 + 8)
    present = [(bits.take(1), bits.take(1)) for _ in range(num_sub_layers)]
    if num_sub_layers:
        bits.skip(2 * (8 - num_sub_layers))
    for has_profile, has_level in present:
        bits.skip(88 * has_profile + 8 * has_level)


SetFound = tuple[BitReader, int, SetKey | None]
"""Of a parameter set: what it was read with, its number, and the set it builds on."""


def _h264_set(kind: Kind, unit: bytes) -> SetFound:
    bits = BitReader(unescaped(unit[1:16] if kind == "pps" else unit[4:16]))
    number = bits.unsigned()
    return bits, number, ("sps", bits.unsigned()) if kind == "pps" else None


def _hevc_set(kind: Kind, unit: bytes) -> SetFound:
    bits = BitReader(unescaped(unit[2:160]))
    if kind == "vps":
        return bits, bits.take(4), None
    if kind == "pps":
        return bits, bits.unsigned(), ("sps", bits.unsigned())
    vps, num_sub_layers = bits.take(4), bits.take(3)
    bits.skip(1)
    skip_hevc_profiles(bits, num_sub_layers)
    return bits, bits.unsigned(), ("vps", vps)


def _vvc_set(kind: Kind, unit: bytes) -> SetFound:
    bits = BitReader(unescaped(unit[2:16]))
    if kind == "pps":
        return bits, bits.take(6), ("sps", bits.take(4))
    number = bits.take(4)
    vps = bits.take(4) if kind == "sps" else 0
    return bits, number, ("vps", vps) if vps else None


def _h264_pps(_: int, bits: BitReader) -> int | None:
    bits.unsigned()
    bits.unsigned()
    return bits.unsigned()


def _hevc_pps(kind: int, bits: BitReader) -> int | None:
    bits.skip(2 if 16 <= kind <= 23 else 1)
    return bits.unsigned()


def _vvc_pps(kind: int, bits: BitReader) -> int | None:
    if kind != _VVC_PICTURE_HEADER and not bits.take(1):
        return None
    is_random_access = bits.take(1)
    bits.skip(2 if is_random_access else 1)
    if bits.take(1):
        bits.skip(1)
    return bits.unsigned()


_SET_READERS = {"h264": _h264_set, "hevc": _hevc_set, "vvc": _vvc_set}
_PPS_READERS = {"h264": _h264_pps, "hevc": _hevc_pps, "vvc": _vvc_pps}

SYNTAXES = {
    "h264": Syntax(
        codec="h264",
        header_bytes=1,
        set_kinds={7: "sps", 8: "pps"},
        picture_types=frozenset({1, 2, 5}),
        slice_types=range(1, 6),
        prefix_sei=6,
        sei_header=b"\x06",
    ),
    "hevc": Syntax(
        codec="hevc",
        header_bytes=2,
        set_kinds={32: "vps", 33: "sps", 34: "pps"},
        picture_types=frozenset({*range(10), *range(16, 22)}),
        slice_types=range(32),
        prefix_sei=39,
        sei_header=b"\x4e\x01",
    ),
    "vvc": Syntax(
        codec="vvc",
        header_bytes=2,
        set_kinds={14: "vps", 15: "sps", 16: "pps"},
        picture_types=frozenset({*range(4), *range(7, 11), 19}),
        slice_types=range(12),
        prefix_sei=23,
        sei_header=b"\x00\xb9",
    ),
}
"""By FFmpeg's names of the codecs."""
