"""Where the headers are in H.264, HEVC and VVC packets: units, their kinds and the numbers they go by.

Only what tells parameter sets apart is read (ITU-T H.264 7.3, H.265 7.3, H.266 7.3), never a picture.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["vps", "sps", "pps"]
SetKey = tuple[Kind, int]
"""A parameter set's kind and number: a later one of the same name takes its place."""

_START = b"\0\0\1"


class _Bits:
    """Reads numbers off a unit's payload, the bytes that keep start codes out of it removed."""

    def __init__(self, data: bytes) -> None:
        payload = data.replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(payload, "big")
        self._left = 8 * len(payload)

    def take(self, num_bits: int) -> int:
        self._left -= num_bits
        if self._left < 0:
            raise ValueError("the unit ends within a number")
        return (self._value >> self._left) & ((1 << num_bits) - 1)

    def exp_golomb(self) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)


@dataclass(frozen=True, slots=True)
class ParameterSet:
    """One parameter set as it was sent."""

    key: SetKey
    content: bytes
    refers_to: SetKey | None
    """The set that it builds on."""


@dataclass(frozen=True, slots=True)
class Syntax:
    """How one of the three codecs writes its units."""

    codec: Literal["h264", "hevc", "vvc"]
    set_kinds: dict[int, Kind]
    picture_types: frozenset[int]
    """Types of the units from which the number of a picture's PPS can be read."""

    def type_of(self, unit: bytes) -> int:
        """Return a unit's type."""
        if self.codec == "h264":
            return unit[0] & 31
        return (unit[0] >> 1) & 63 if self.codec == "hevc" else unit[1] >> 3

    def read_set(self, unit: bytes) -> ParameterSet | None:
        """Read a parameter set; nothing when it is cut off."""
        kind = self.set_kinds[self.type_of(unit)]
        try:
            number, refers_to = _SET_READERS[self.codec](kind, unit)
        except ValueError:
            return None
        return ParameterSet((kind, number), unit, refers_to)

    def pps_of(self, unit: bytes) -> int | None:
        """Return the number of the PPS that a picture is coded with; nothing when it cannot be read."""
        try:
            return _PPS_READERS[self.codec](self.type_of(unit), unit[:24])
        except ValueError:
            return None


def _h264_set(kind: Kind, unit: bytes) -> tuple[int, SetKey | None]:
    bits = _Bits(unit[1:16] if kind == "pps" else unit[4:16])
    number = bits.exp_golomb()
    return number, ("sps", bits.exp_golomb()) if kind == "pps" else None


def _hevc_set(kind: Kind, unit: bytes) -> tuple[int, SetKey | None]:
    bits = _Bits(unit[2:160])
    if kind == "vps":
        return bits.take(4), None
    if kind == "pps":
        return bits.exp_golomb(), ("sps", bits.exp_golomb())
    vps, num_sub_layers = bits.take(4), bits.take(3)
    bits.take(1 + 88 + 8)
    present = [(bits.take(1), bits.take(1)) for _ in range(num_sub_layers)]
    if num_sub_layers:
        bits.take(2 * (8 - num_sub_layers))
    for has_profile, has_level in present:
        bits.take(88 * has_profile + 8 * has_level)
    return bits.exp_golomb(), ("vps", vps)


def _vvc_set(kind: Kind, unit: bytes) -> tuple[int, SetKey | None]:
    bits = _Bits(unit[2:16])
    if kind == "pps":
        return bits.take(6), ("sps", bits.take(4))
    number = bits.take(4)
    vps = bits.take(4) if kind == "sps" else 0
    return number, ("vps", vps) if vps else None


def _h264_pps(kind: int, unit: bytes) -> int | None:
    bits = _Bits(unit[1:])
    bits.exp_golomb()
    bits.exp_golomb()
    return bits.exp_golomb()


def _hevc_pps(kind: int, unit: bytes) -> int | None:
    bits = _Bits(unit[2:])
    bits.take(2 if 16 <= kind <= 23 else 1)
    return bits.exp_golomb()


def _vvc_pps(kind: int, unit: bytes) -> int | None:
    bits = _Bits(unit[2:])
    if kind != _VVC_PICTURE_HEADER and not bits.take(1):
        return None
    is_random_access = bits.take(1)
    bits.take(2 if is_random_access else 1)
    if bits.take(1):
        bits.take(1)
    return bits.exp_golomb()


_VVC_PICTURE_HEADER = 19
_SET_READERS = {"h264": _h264_set, "hevc": _hevc_set, "vvc": _vvc_set}
_PPS_READERS = {"h264": _h264_pps, "hevc": _hevc_pps, "vvc": _vvc_pps}

SYNTAXES = {
    "h264": Syntax("h264", {7: "sps", 8: "pps"}, frozenset({1, 2, 5})),
    "hevc": Syntax("hevc", {32: "vps", 33: "sps", 34: "pps"}, frozenset({*range(10), *range(16, 22)})),
    "vvc": Syntax("vvc", {14: "vps", 15: "sps", 16: "pps"}, frozenset({*range(4), *range(7, 11), 19})),
}
"""By FFmpeg's names of the codecs."""


def split_units(data: bytes, length_size: int) -> Iterator[bytes]:
    """Yield the units of a packet; a last one that is cut off as far as it goes.

    Args:
        length_size: bytes of the number that stands before each unit; 0 where start codes do.
    """
    position = 0
    if length_size:
        while position + length_size < len(data):
            length = int.from_bytes(data[position : position + length_size], "big")
            position += length_size
            if length >= 2:
                yield data[position : position + length]
            position += length
        return
    position = data.find(_START)
    while position >= 0:
        start = position + len(_START)
        position = data.find(_START, start)
        unit = data[start : position if position >= 0 else len(data)].rstrip(b"\0")
        if len(unit) >= 2:
            yield unit


def read_configuration(syntax: Syntax, extradata: bytes) -> tuple[int, list[bytes]]:
    """Return the ``length_size`` of a stream's packets and the parameter sets that stand before all of them."""
    try:
        if not extradata or extradata.startswith((b"\0\0\1", b"\0\0\0\1")):
            return 0, list(split_units(extradata, 0))
        if syntax.codec == "h264":
            return (extradata[4] & 3) + 1, _avc_units(extradata)
        if syntax.codec == "hevc":
            return (extradata[21] & 3) + 1, _listed_units(extradata, 22, 63)
        return ((extradata[0] >> 1) & 3) + 1, _listed_units(extradata, _vvc_arrays_at(extradata), 31)
    except IndexError:
        # Cut off: the packets tell the rest.
        return 4, []


def _avc_units(extradata: bytes) -> list[bytes]:
    units, position = [], 5
    for mask in (31, 255):
        count = extradata[position] & mask
        position += 1
        for _ in range(count):
            unit, position = _sized_unit(extradata, position)
            units.append(unit)
    return [unit for unit in units if len(unit) >= 2]


def _listed_units(extradata: bytes, position: int, type_mask: int) -> list[bytes]:
    """Units of an hvcC or vvcC box, which lists them by type."""
    units, num_lists = [], extradata[position]
    position += 1
    for _ in range(num_lists):
        is_single = type_mask == 31 and extradata[position] & type_mask in (12, 13)
        count = 1 if is_single else int.from_bytes(extradata[position + 1 : position + 3], "big")
        position += 1 if is_single else 3
        for _ in range(count):
            unit, position = _sized_unit(extradata, position)
            units.append(unit)
    return [unit for unit in units if len(unit) >= 2]


def _sized_unit(data: bytes, position: int) -> tuple[bytes, int]:
    stop = position + 2 + int.from_bytes(data[position : position + 2], "big")
    if stop > len(data):
        raise IndexError("a unit is cut off")
    return data[position + 2 : stop], stop


def _vvc_arrays_at(extradata: bytes) -> int:
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
