"""Messages are parsed from files nobody has vouched for."""

import random

import pytest

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
from seedvr2_ray.media.bitstream.nal_units import header_units, length_size_of, split_units, unit_spans
from seedvr2_ray.media.bitstream.payloads import messages, with_t35
from seedvr2_ray.media.container.caption_data import captions_of, other_form, says_something
from seedvr2_ray.media.picture.hdr import StaticHdr, hdr_of_packet


@pytest.mark.parametrize("codec", ["h264", "hevc", "vvc", "av1"])
def test_no_bytes_make_a_parser_fail(codec):
    rng = random.Random(7)
    starts = [b"", b"\0\0\1\x06\x04\xff\xff", b"\0\0\1\x4e\x01\x89\x18", b"\x2a\xff\xff\xff\xff\xff\xff\xff\xff\xff"]
    for number in range(2000):
        data = starts[number % len(starts)] + rng.randbytes(rng.randrange(60))
        for size in (0, 1, 4):
            list(messages(codec, data, size))
            list(split_units(data, size))
            assert isinstance(hdr_of_packet(codec, data, size), StaticHdr)
        length_size_of(codec, b"\x01" + data)
        header_units(codec, b"\x01" + data)
        list(children(data))
        if codec != "av1":
            says_something(captions_of(codec, b"\xb5\x00\x31GA94\x03" + data))
            with_t35(codec, data, b"\xb5\x00\x31", 4)
        other_form("mpeg2video", data)


def test_a_monitor_that_cannot_be_is_not_believed():
    for numbers in (bytes(24), b"\xff" * 24):
        unit = b"\x4e\x01\x89\x18" + numbers + b"\x80"
        assert hdr_of_packet("hevc", len(unit).to_bytes(4, "big") + unit, 4).is_empty


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("length_size", [0, 4])
def test_a_message_that_was_put_in_is_read_back(codec, length_size):
    slice_unit = b"\x65\x88\x84\x21" if codec == "h264" else b"\x26\x01\xaf\x09"
    head = b"\0\0\1" if length_size == 0 else len(slice_unit).to_bytes(4, "big")
    for payload in (b"\xb5" + bytes(5), b"\xb5" + bytes(range(256)) * 2, b"\xb5\x00\x00\x01\x00\x00\x03\x00\x00"):
        written = with_t35(codec, head + slice_unit, payload, length_size)
        assert list(messages(codec, written, length_size)) == [(4, payload)]
        assert [written[start:stop] for start, stop in unit_spans(written, length_size)][-1] == slice_unit


def test_an_element_added_to_a_header_is_found_at_its_path_and_all_else_stays():
    content = element(0xAE, element(0xD7, uint_of(1)) + element(0xE0, element(0xB0, uint_of(96))))
    added = with_children(content, (0xAE, 0xE0, 0x55B0), element(0x55BC, uint_of(993)))
    track = child(added, 0xAE)
    video = child(track, 0xE0)
    assert uint_value(child(track, 0xD7)) == 1
    assert uint_value(child(video, 0xB0)) == 96
    assert uint_value(child(child(video, 0x55B0), 0x55BC)) == 993


def test_numbers_come_back_and_nonsense_is_nothing():
    assert float_value(float_of(0.3127)) == 0.3127
    assert float_value(float_of(float("nan"))) == float_value(b"abc") == 0
