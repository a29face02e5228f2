"""Laws of entry points: a key frame without the parameter sets in force is none."""

from fractions import Fraction

import av
import pytest

from seedvr2_ray.media.bitstream.entry_points import EntryPoints, before_closed, is_closed
from seedvr2_ray.media.bitstream.nal_units import SYNTAXES, header_units, length_size_of, split_units
from tests.media.bitstream.in_band import GOP, NUM_FIRST, make_changing_clip
from tests.media.clips import make_clip


def closed(path, codec=None, extradata=None):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        entries = EntryPoints(codec or context.name, extradata or context.extradata)
        for packet in container.demux(stream):
            if packet.size:
                entries.watch(packet)
        # In frames at the clips' 24 per second.
        step = 1 / (24 * (stream.time_base or Fraction(1, 24)))
        return [tuple(round(stamp / step) for stamp in each) for each in entries.closed(by_dts=False)]


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_all_key_frames_of_the_second_run_but_its_first_are_closed(tmp_path, codec, ending):
    make_changing_clip(tmp_path / f"a.{ending}", codec)
    ((start, stop),) = closed(tmp_path / f"a.{ending}")
    assert start == NUM_FIRST + GOP + 3, "three frames later than it was coded, as the container shifts them"
    assert stop > 1000, "up to the end"


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("a.mp4", {"bframes": 2}),
        ("a.ts", {"bframes": 2}),
        ("b.mkv", {"codec": "hevc", "bframes": 2, "open_gop": True}),
        ("b.ts", {"codec": "hevc"}),
        ("c.mkv", {"codec": "mpeg2"}),
        ("d.webm", {"codec": "vp9"}),
    ],
)
def test_ordinary_streams_may_be_entered_everywhere(tmp_path, name, kwargs):
    make_clip(tmp_path / name, num_frames=40, **kwargs)
    assert not closed(tmp_path / name)


def test_a_set_that_no_picture_uses_closes_nothing(tmp_path):
    """Streams carry sets that were sent once and never needed; each would otherwise be decoded from its start."""
    make_clip(tmp_path / "a.h264", num_frames=24)
    units = list(split_units((tmp_path / "a.h264").read_bytes(), 0))
    used = next(unit for unit in units if unit[0] & 31 == 8)
    payload = bin(int.from_bytes(b"\1" + used[1:], "big"))[3:].rstrip("0")
    assert payload[0] == "1", "number 0"
    unused = b"\x68" + bits("00101" + payload[1:-1])
    assert SYNTAXES["h264"].read_set(unused).key == ("pps", 4)
    sets = [unit for unit in units if unit[0] & 31 in (7, 8)][:2]
    data = b"".join(b"\0\0\0\1" + unit for unit in [*sets, unused, *units[2:]])
    (tmp_path / "b.h264").write_bytes(data)
    header = b"".join(b"\0\0\0\1" + unit for unit in sets)
    assert not closed(tmp_path / "b.h264", extradata=header)


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("ending", ["mkv", "ts"])
def test_sets_are_read_alike_from_headers_and_from_packets(tmp_path, codec, ending):
    make_clip(tmp_path / f"a.{ending}", codec=codec, num_frames=8)
    syntax = SYNTAXES[codec]
    with av.open(str(tmp_path / f"a.{ending}")) as container:
        context = container.streams.video[0].codec_context
        length_size, units = length_size_of(codec, context.extradata), header_units(codec, context.extradata)
        packet = next(container.demux(video=0))
        kinds = [syntax.type_of(unit) for unit in split_units(bytes(packet), length_size)]
    assert length_size == (4 if ending == "mkv" else 0)
    keys = {syntax.read_set(unit).key for unit in units if syntax.type_of(unit) in syntax.set_kinds}
    assert keys >= {("sps", 0), ("pps", 0)}
    assert syntax.picture_types.intersection(kinds)


def bits(text):
    text = text.replace(" ", "")
    text += "1" + "0" * (-(len(text) + 1) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def test_numbers_are_read_where_the_standards_put_them():
    h264, hevc, vvc = SYNTAXES["h264"], SYNTAXES["hevc"], SYNTAXES["vvc"]
    assert h264.read_set(b"\x68" + bits("00100 011 0")).key == ("pps", 3)
    assert h264.read_set(b"\x68" + bits("00100 011 0")).refers_to == ("sps", 2)
    assert h264.read_set(b"\x67\x64\x00\x1f" + bits("010")).key == ("sps", 1)
    assert h264.pps_of(b"\x65" + bits("1 00111 00101")) == 4
    # One sub-layer more than the least, with profile and level of its own: 2 + 14 + 88 + 8 bits.
    sub_layers = "0000 001 1" + "0" * 96 + "11" + "00" * 7 + "0" * 96 + "011"
    assert hevc.read_set(b"\x42\x01" + bits(sub_layers)).key == ("sps", 2)
    assert hevc.read_set(b"\x42\x01" + bits("0011 000 1" + "0" * 96 + "1")).refers_to == ("vps", 3)
    assert hevc.pps_of(b"\x02\x01" + bits("1 011")) == 2
    assert hevc.pps_of(b"\x26\x01" + bits("1 0 00100")) == 3
    assert vvc.read_set(b"\x00\x81" + bits("000101 0010")).key == ("pps", 5)
    assert vvc.read_set(b"\x00\x81" + bits("000101 0010")).refers_to == ("sps", 2)
    assert vvc.pps_of(b"\x00\x99" + bits("1 0 0 0 011")) == 2
    assert vvc.pps_of(b"\x00\x01" + bits("1 0 1 1 1 010")) == 1
    assert vvc.pps_of(b"\x00\x01" + bits("0 0000")) is None


def test_the_bytes_that_keep_start_codes_out_are_not_data():
    plain = bits("0011 000 1" + "0" * 96 + "010")
    escaped = plain.replace(b"\0\0", b"\0\0\3")
    assert len(escaped) > len(plain)
    assert SYNTAXES["hevc"].read_set(b"\x42\x01" + escaped).key == ("sps", 1)


def test_what_is_cut_off_is_no_set():
    assert SYNTAXES["h264"].read_set(b"\x68\x00") is None
    cut_off = b"\x01\x64\x00\x1f\xff\xe1\x00\x50abc"
    assert (length_size_of("h264", cut_off), header_units("h264", cut_off)) == (4, [])
    assert list(split_units(b"\0\0\0\5\x65abcd\0\0\0\xff\x41a", 4)) == [b"\x65abcd", b"\x41a"]


def test_a_time_in_a_closed_stretch_becomes_the_last_one_before_it():
    stretches = ((10, 20), (20, 30), (40, 50))
    assert [before_closed(stretches, stamp) for stamp in (5, 9, 10, 25, 30, 49, 50)] == [5, 9, 9, 9, 30, 39, 50]
    assert [is_closed(stretches, stamp) for stamp in (9, 10, 29, 30, None)] == [False, True, True, False, False]
    assert before_closed((), 7) == 7


def test_a_header_says_how_the_units_of_a_stream_are_told_apart():
    assert length_size_of("h264", b"\x01\x64\x00\x1f\xfd\xe1") == 2
    assert length_size_of("hevc", b"\x01" + bytes(20) + b"\x03") == 4
    assert length_size_of("vvc", b"\xff" + bytes(9)) == length_size_of("vvc", b"\xfe\x00") == 4
    for extradata in (None, b"", b"\0\0\1\x67", b"\0\0\0\1\x67"):
        assert length_size_of("h264", extradata) == 0
    assert length_size_of("mpeg2video", b"\x01" + bytes(30)) == 0


def test_a_header_that_is_cut_off_lists_the_units_before_the_cut():
    whole = b"\x01\x64\x00\x1f\xff\xe1\x00\x04\x67\x64\x00\x1f\x01\x00\x03\x68\xee\x3c"
    assert header_units("h264", whole) == [b"\x67\x64\x00\x1f", b"\x68\xee\x3c"]
    assert header_units("h264", whole[:-1]) == [b"\x67\x64\x00\x1f"]
