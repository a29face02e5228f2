"""A second view inside the stream of the first is told, and nothing else is taken for one."""

import av
import pytest

from seedvr2_ray.media.probe import probe
from tests.media.clips import make_clip


def with_units(source, target, unit):
    """Copy a broadcast and put one more unit into every packet."""
    with av.open(str(source)) as before, av.open(str(target), "w") as after:
        stream = after.add_stream_from_template(before.streams.video[0])
        for packet in before.demux(video=0):
            if packet.size:
                more = av.Packet(bytes(packet) + b"\0\0\1" + unit)
                more.pts, more.dts, more.time_base = packet.pts, packet.dts, packet.time_base
                more.is_keyframe, more.stream = packet.is_keyframe, stream
                after.mux(more)


def subjects(path):
    return {notice.subject for notice in probe(str(path)).preflight}


@pytest.mark.parametrize(
    ("codec", "unit"), [("h264", b"\x74\x80\x40\x01" + bytes([0x55] * 20)), ("hevc", b"\x02\x09" + bytes([0x55] * 20))]
)
def test_pictures_for_the_other_eye_are_told(tmp_path, codec, unit):
    make_clip(tmp_path / "one.ts", codec=codec, num_frames=24)
    with_units(tmp_path / "one.ts", tmp_path / "two.ts", unit)
    assert "second view" in subjects(tmp_path / "two.ts")
    assert "second view" not in subjects(tmp_path / "one.ts")


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_units_with_lengths_are_read_alike(tmp_path, codec):
    make_clip(tmp_path / "one.mp4", codec=codec, num_frames=12)
    assert "second view" not in subjects(tmp_path / "one.mp4")
