"""Laws of opening: what a camera writes around its pictures is no damage, and what is missing is."""

import av
import pytest

from seedvr2_ray.errors import DamagedMediaError
from seedvr2_ray.media.probe import probe
from tests.media.clips import make_clip
from tests.media.damaged import cut_short

TRAILERS = {
    "dashcam": b"&&&& $GPRMC,000000.00,A,0000.0000,N\r\n" * 20,
    "camera360": b"\0\0\x10\0" + bytes(range(256)) * 3,
    "padding": bytes(5000),
    "letters": b"\xff\xff\xff\xf0free of any box",
}


@pytest.mark.slow
@pytest.mark.parametrize("trailer", TRAILERS.values(), ids=TRAILERS)
@pytest.mark.parametrize("ending", ["mp4", "mov"])
def test_bytes_behind_the_last_box_are_no_damage(tmp_path, trailer, ending):
    path = tmp_path / f"a.{ending}"
    make_clip(path, num_frames=24, audio_tracks=1)
    path.write_bytes(path.read_bytes() + trailer)
    media = probe(str(path))
    assert media.video.num_frames == 24
    assert media.damaged_frames == ()


def test_a_last_box_that_names_too_many_bytes_is_no_damage(tmp_path):
    path = tmp_path / "a.mp4"
    make_clip(path, num_frames=24, audio_tracks=1, container_options={"movflags": "faststart"})
    data = bytearray(path.read_bytes())
    at = data.find(b"mdat") - 4
    data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") + 8).to_bytes(4, "big")
    path.write_bytes(data)
    assert probe(str(path)).video.num_frames == 24


@pytest.mark.parametrize("size", [0xFFFFFFFF, None])
def test_a_riff_size_that_is_wrong_is_no_damage_while_all_frames_are_there(tmp_path, size):
    path = tmp_path / "a.avi"
    make_clip(path, codec="mpeg4", num_frames=24, audio_tracks=1)
    data = bytearray(path.read_bytes())
    data[4:8] = (size or int.from_bytes(data[4:8], "little") + 8).to_bytes(4, "little")
    path.write_bytes(data)
    assert probe(str(path)).video.num_frames == 24


def test_sound_that_is_cut_off_behind_the_last_picture_is_damage(tmp_path):
    path = tmp_path / "a.mp4"
    make_clip(path, num_frames=24, audio_tracks=1, audio_offset=3, container_options={"movflags": "faststart"})
    with pytest.raises(DamagedMediaError, match="24 of 24 frames can be read and its last"):
        probe(str(cut_short(path, 0.95)))


def broadcast_with_two_videos(path):
    make_clip(path.with_name("one.ts"), num_frames=24, audio_tracks=1)
    with av.open(str(path.with_name("one.ts"))) as source, av.open(str(path), "w", format="mpegts") as target:
        first = target.add_stream_from_template(source.streams.video[0])
        second = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                for stream in (first, second):
                    copy = av.Packet(bytes(packet))
                    copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                    copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                    target.mux(copy)


def test_the_first_video_that_holds_pictures_is_restored(tmp_path):
    path = tmp_path / "two.ts"
    broadcast_with_two_videos(path)
    data = path.read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    kept = [packet for packet in packets if (packet[1] & 0x1F) << 8 | packet[2] != 0x100]
    (tmp_path / "dvb.ts").write_bytes(b"".join(kept))
    whole, announced = probe(str(path)), probe(str(tmp_path / "dvb.ts"))
    assert (whole.video.stream_index, announced.video.stream_index) == (0, 1)
    assert announced.video.num_frames == 24
    reasons = {notice.subject: notice.reason for notice in announced.preflight}
    assert reasons["video stream 0"] == "it holds no pictures"
    assert {n.subject: n.reason for n in whole.preflight}["video stream 1"] == "only the first video is restored"
