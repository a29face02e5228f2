"""The size of pictures as their own headers give it, so that a change is known before anything is decoded.

Containers name one size. Browsers' recorders, conferences and broadcasters change it in mid-stream
all the same, and say so in the key frames only.
"""

from collections.abc import Callable, Iterator

from seedvr2_ray.media.bitstream.bits import BitReader
from seedvr2_ray.media.bitstream.nal_units import (
    SYNTAXES,
    layer_of_hevc,
    length_size_of,
    skip_hevc_profiles,
    split_units,
    unescaped,
)
from seedvr2_ray.media.bitstream.obus import SEQUENCE_HEADER, obus

Size = tuple[int, int]

_HEADER_BYTES = 65536
"""How far into a key frame headers are looked for."""
_LONGEST_PARAMETERS = 512
_H264_HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
_JPEG_SIZES = frozenset({0xC0, 0xC1, 0xC2, 0xC3})
_VP9_SRGB = 7


def sizes_in_header(codec: str, extradata: bytes, packet: "memoryview[int]") -> frozenset[Size]:
    """Return the sizes that the headers inside a key frame's packet name, before any cropping by the container.

    Args:
        codec: FFmpeg's name.
        extradata: of the stream; says how H.264 and HEVC separate their units.
        packet: of a key frame.

    Returns:
        Nothing where the headers name none, or the codec's are not read here. Several where the packet
        holds several sets of parameters, of which the pictures use one.
    """
    read = _READERS.get(codec)
    if read is None:
        return frozenset()
    try:
        return frozenset(read(extradata, bytes(packet[:_HEADER_BYTES])))
    except IndexError:
        return frozenset()  # The packet ends in the middle of a header.


def _sequence_sets(codec: str, extradata: bytes, data: bytes) -> Iterator[bytes]:
    syntax = SYNTAXES[codec]
    for unit in split_units(data, length_size_of(codec, extradata)):
        if syntax.set_kinds.get(syntax.type_of(unit)) == "sps":
            yield unit


def _h264(extradata: bytes, data: bytes) -> Iterator[Size]:
    for unit in _sequence_sets("h264", extradata, data):
        yield _h264_parameters(unescaped(unit[1:_LONGEST_PARAMETERS]))


def _h264_parameters(data: bytes) -> Size:
    """H.264, 7.3.2.1.1."""
    reader = BitReader(data)
    profile = reader.take(8)
    reader.skip(16)
    reader.unsigned()
    chroma = 1
    if profile in _H264_HIGH_PROFILES:
        chroma = reader.unsigned()
        if chroma == 3:
            reader.skip(1)
        reader.unsigned()
        reader.unsigned()
        reader.skip(1)
        if reader.take(1):
            for number in range(12 if chroma == 3 else 8):
                if reader.take(1):
                    _skip_scaling_list(reader, 16 if number < 6 else 64)
    reader.unsigned()
    order = reader.unsigned()
    if order == 0:
        reader.unsigned()
    elif order == 1:
        reader.skip(1)
        reader.signed()
        reader.signed()
        for _ in range(min(reader.unsigned(), 255)):
            reader.signed()
    reader.unsigned()
    reader.skip(1)
    width, height = 16 * (reader.unsigned() + 1), 16 * (reader.unsigned() + 1)
    frames_only = reader.take(1)
    height *= 2 - frames_only
    reader.skip(1 if frames_only else 2)
    if reader.take(1):
        unit_x, unit_y = 2 if chroma in (1, 2) else 1, (2 if chroma == 1 else 1) * (2 - frames_only)
        width -= unit_x * (reader.unsigned() + reader.unsigned())
        height -= unit_y * (reader.unsigned() + reader.unsigned())
    return width, height


def _skip_scaling_list(reader: BitReader, count: int) -> None:
    last = following = 8
    for _ in range(count):
        if following:
            following = (last + reader.signed()) % 256
        last = following or last


def _hevc(extradata: bytes, data: bytes) -> Iterator[Size]:
    for unit in _sequence_sets("hevc", extradata, data):
        if not layer_of_hevc(unit):
            yield _hevc_parameters(unescaped(unit[2:_LONGEST_PARAMETERS]))


def _hevc_parameters(data: bytes) -> Size:
    """HEVC, 7.3.2.2.1."""
    reader = BitReader(data)
    reader.skip(4)
    num_sub_layers = reader.take(3)
    reader.skip(1)
    skip_hevc_profiles(reader, num_sub_layers)
    reader.unsigned()
    chroma = reader.unsigned()
    if chroma == 3:
        reader.skip(1)
    width, height = reader.unsigned(), reader.unsigned()
    if reader.take(1):
        width -= (2 if chroma in (1, 2) else 1) * (reader.unsigned() + reader.unsigned())
        height -= (2 if chroma == 1 else 1) * (reader.unsigned() + reader.unsigned())
    return width, height


def _vp8(_: bytes, data: bytes) -> Iterator[Size]:
    if not data[0] & 1 and data[3:6] == b"\x9d\x01\x2a":
        yield int.from_bytes(data[6:8], "little") & 0x3FFF, int.from_bytes(data[8:10], "little") & 0x3FFF


def _vp9(_: bytes, data: bytes) -> Iterator[Size]:
    """VP9, 6.2."""
    reader = BitReader(data[:32])
    reader.skip(2)
    profile = reader.take(1) | reader.take(1) << 1
    reader.skip(profile == 3)
    if reader.take(1) or reader.take(1):  # A frame shown again, or no key frame.
        return
    reader.skip(2)
    if reader.take(24) != 0x498342:
        return
    reader.skip(profile >= 2)
    has_choice = profile in (1, 3)
    if reader.take(3) != _VP9_SRGB:
        reader.skip(1 + 3 * has_choice)
    else:
        reader.skip(has_choice)
    yield reader.take(16) + 1, reader.take(16) + 1


def _mpeg2(_: bytes, data: bytes) -> Iterator[Size]:
    at = data.find(b"\0\0\1\xb3")
    if at >= 0:
        bits = int.from_bytes(data[at + 4 : at + 7], "big")
        yield bits >> 12, bits & 0xFFF


def _jpeg(_: bytes, data: bytes) -> Iterator[Size]:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in _JPEG_SIZES:
            yield int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
            return
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _av1(_: bytes, data: bytes) -> Iterator[Size]:
    for kind, start, stop in obus(data):
        if kind == SEQUENCE_HEADER:
            yield from _av1_sequence(BitReader(data[start : min(stop, start + _LONGEST_PARAMETERS)]))


def _av1_sequence(reader: BitReader) -> Iterator[Size]:
    """AV1, 5.5.1; streams that describe the decoder's own timing are left alone."""
    reader.skip(4)
    if reader.take(1):
        reader.skip(5)
    else:
        if reader.take(1):
            return
        has_delay = reader.take(1)
        for _ in range(reader.take(5) + 1):
            reader.skip(12)
            reader.skip(reader.take(5) > 7)
            if has_delay and reader.take(1):
                reader.skip(4)
    bits_x, bits_y = reader.take(4) + 1, reader.take(4) + 1
    yield reader.take(bits_x) + 1, reader.take(bits_y) + 1


_READERS: dict[str, Callable[[bytes, bytes], Iterator[Size]]] = {
    "h264": _h264,
    "hevc": _hevc,
    "vp8": _vp8,
    "vp9": _vp9,
    "av1": _av1,
    "mpeg1video": _mpeg2,
    "mpeg2video": _mpeg2,
    "mjpeg": _jpeg,
}
