"""Laws of the look at FLAC sound: what its checksums call damaged is, and nothing else."""

from fractions import Fraction

import av
import numpy as np
import pytest

from seedvr2_ray.errors import DamagedMediaError
from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.tracks.sound_check import damaged_sound
from tests.media.clips import make_clip


def make_sound(path, sample_format, num_samples=48000, channels="stereo"):
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=24)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("flac", rate=48000, layout=channels)
        sound.format = sample_format
        picture = av.VideoFrame(64, 48, "yuv420p")
        for plane in picture.planes:
            plane.update(bytes(plane.buffer_size))
        picture.pts, picture.time_base = 0, Fraction(1, 24)
        container.mux(video.encode(picture))
        container.mux(video.encode(None))
        rng = np.random.default_rng(0)
        for start in range(0, num_samples, 4608):
            count = 2 * min(4608, num_samples - start)
            codes = rng.integers(-(1 << 15), 1 << 15, (1, count)).astype(np.int16)
            if sample_format == "s32":
                codes = (codes.astype(np.int32) << 16) + 256 * rng.integers(0, 256, (1, count)).astype(np.int32)
            frame = av.AudioFrame.from_ndarray(codes, format=sample_format, layout=channels)
            frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


def sound_packets(path):
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.size]


@pytest.mark.parametrize("sample_format", ["s16", "s32"])
def test_sound_as_it_was_written_is_intact(tmp_path, sample_format):
    make_sound(tmp_path / "a.mkv", sample_format)
    assert damaged_sound(str(tmp_path / "a.mkv")) == ()
    probe(str(tmp_path / "a.mkv"))


def test_a_flipped_bit_in_the_sound_is_found_where_it_is(tmp_path):
    make_sound(tmp_path / "a.mkv", "s16")
    data = bytearray((tmp_path / "a.mkv").read_bytes())
    position, size = sound_packets(tmp_path / "a.mkv")[5]
    data[position + size // 2] ^= 1
    (tmp_path / "b.mkv").write_bytes(data)
    with pytest.raises(DamagedMediaError, match=r"sound: stream 1 at 0\.5 s, by its FLAC checksums.*--salvage"):
        probe(str(tmp_path / "b.mkv"))
    media = probe(str(tmp_path / "b.mkv"), salvage=True)
    assert any(notice.subject == "sound stream 1" and "0.5 s" in notice.reason for notice in media.preflight)


@pytest.mark.parametrize("sample_format", ["s16", "s32"])
def test_a_wrong_md5_of_the_whole_is_damage(tmp_path, sample_format):
    make_sound(tmp_path / "a.mkv", sample_format)
    with av.open(str(tmp_path / "a.mkv")) as container:
        md5 = bytes(container.streams.audio[0].codec_context.extradata)[-16:]
    data = (tmp_path / "a.mkv").read_bytes()
    assert data.count(md5) == 1
    (tmp_path / "b.mkv").write_bytes(data.replace(md5, bytes(15) + b"\1"))
    ((stream_index, reason),) = [(each.stream_index, each.reason) for each in damaged_sound(str(tmp_path / "b.mkv"))]
    assert stream_index == 1 and "MD5" in reason
    (tmp_path / "c.mkv").write_bytes(data.replace(md5, bytes(16)))
    assert damaged_sound(str(tmp_path / "c.mkv")) == (), "none is known"


def test_sound_that_was_cut_without_being_encoded_again_is_intact(tmp_path):
    """Its header still holds the MD5 of the whole."""
    make_sound(tmp_path / "a.mkv", "s16")
    with av.open(str(tmp_path / "a.mkv")) as source, av.open(str(tmp_path / "b.mkv"), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.size and packet.pts is not None and packet.pts < 400:
                packet.stream = streams[packet.stream_index]
                target.mux(packet)
    assert len(sound_packets(tmp_path / "b.mkv")) < len(sound_packets(tmp_path / "a.mkv"))
    assert damaged_sound(str(tmp_path / "b.mkv")) == ()


def test_other_sound_is_not_looked_at(tmp_path):
    make_clip(tmp_path / "a.mp4", num_frames=4, audio_tracks=1)
    assert damaged_sound(str(tmp_path / "a.mp4")) == ()
