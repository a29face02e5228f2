"""Laws of Matroska's own facts: crops and encryption are read, and any bytes are survived."""

import pytest

from seedvr2_ray.media.bitstream.matroska import read_tracks
from tests.media.clips import make_clip


def element(name, body):
    identifier = bytes.fromhex(name)
    return identifier + (0x10000000 | len(body)).to_bytes(4, "big") + body


def number(name, value):
    return element(name, value.to_bytes(2, "big"))


def a_file(*tracks):
    return element("1a45dfa3", b"") + element(
        "18538067", element("ec", bytes(9)) + element("1654ae6b", b"".join(tracks))
    )


def test_crops_and_encryption_are_read_track_by_track(tmp_path):
    sound = element("ae", number("d7", 1) + element("6d80", element("6240", element("5035", b""))))
    crop = number("54bb", 138) + number("54aa", 140) + number("54cc", 0)
    pictures = element("ae", number("d7", 2) + element("e0", number("b0", 1920) + crop))
    (tmp_path / "a.mkv").write_bytes(a_file(sound, pictures))
    first, second = read_tracks(str(tmp_path / "a.mkv"))
    assert (first.is_encrypted, first.crop) == (True, ())
    assert (second.is_encrypted, second.crop) == (False, (("top", 138), ("bottom", 140)))


def test_a_real_file_has_as_many_tracks_and_no_crop(tmp_path):
    make_clip(tmp_path / "a.mkv", num_frames=4, audio_tracks=2)
    tracks = read_tracks(str(tmp_path / "a.mkv"))
    assert [(track.crop, track.is_encrypted) for track in tracks] == [((), False)] * 3


@pytest.mark.parametrize("length", range(0, 120, 7))
def test_a_file_that_breaks_off_says_nothing_more(tmp_path, length):
    whole = a_file(element("ae", number("d7", 1) + element("e0", number("54bb", 8))))
    (tmp_path / "cut.mkv").write_bytes(whole[:length])
    assert len(read_tracks(str(tmp_path / "cut.mkv"))) <= 1
    (tmp_path / "noise.mkv").write_bytes(whole[:12] + bytes(range(256))[:length])
    read_tracks(str(tmp_path / "noise.mkv"))
