"""Laws of ISO's boxes: every length is understood, and what is no box ends the list."""

import io

import pytest

from seedvr2_ray.media.bitstream.iso_boxes import boxes_in, boxes_of


def box(name, content):
    return (8 + len(content)).to_bytes(4, "big") + name + content


def large_box(name, content):
    return (1).to_bytes(4, "big") + name + (16 + len(content)).to_bytes(8, "big") + content


@pytest.mark.parametrize("last", [box(b"mdat", b"abc"), large_box(b"mdat", b"abc"), bytes(4) + b"mdatabc"])
def test_boxes_are_listed_alike_from_bytes_and_from_files_whatever_their_lengths_are_written_as(last):
    data = box(b"ftyp", b"isom") + large_box(b"moov", b"xy") + last
    listed = list(boxes_in(data, 0, len(data)))
    assert listed == list(boxes_of(io.BytesIO(data)))
    assert [(name, data[start:stop]) for name, start, stop in listed] == [
        (b"ftyp", b"isom"),
        (b"moov", b"xy"),
        (b"mdat", b"abc"),
    ]


def test_a_box_that_is_cut_off_ends_with_its_bytes_and_says_of_a_file_how_much_is_missing():
    whole = box(b"ftyp", b"isom") + box(b"mdat", bytes(100))
    cut = whole[:-40]
    assert list(boxes_in(cut, 0, len(cut)))[-1] == (b"mdat", 20, len(cut))
    assert list(boxes_of(io.BytesIO(cut)))[-1] == (b"mdat", 20, len(whole))


@pytest.mark.parametrize("tail", [b"\0\0\0\7free", b"\0\0\0\1free" + bytes(7) + b"\x0f", b"\0\0\0"])
def test_what_is_no_box_ends_the_list(tail):
    data = box(b"ftyp", b"isom") + tail
    assert [name for name, _, _ in boxes_in(data, 0, len(data))] == [b"ftyp"]
    assert [name for name, _, _ in boxes_of(io.BytesIO(data))] == [b"ftyp"]
