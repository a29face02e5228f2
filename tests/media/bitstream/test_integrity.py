"""Laws of checksums: what a file says of its own bytes counts, and what merely complains does not."""

import random

import av
import pytest

from seedvr2_ray.errors import DamagedMediaError
from seedvr2_ray.frames import FrameSpan
from seedvr2_ray.media.bitstream.ffv1_slices import has_intact_slices
from seedvr2_ray.media.bitstream.matroska import damaged_clusters
from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.reading.decode import decode_span
from tests.media.clips import make_clip

SLICED = {"codec": "ffv1", "num_frames": 36, "gop": 12, "size": (128, 96)}


def with_checksums(level="3", slicecrc="1"):
    return {"level": level, "slicecrc": slicecrc, "slices": "4"} if level == "3" else {"level": level}


def flipped(path, *positions):
    data = bytearray(path.read_bytes())
    for position in positions:
        data[position] ^= 4
    target = path.with_name(f"flipped-{path.name}")
    target.write_bytes(data)
    return target


def packets_of(path):
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size, packet.is_keyframe) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize("name", ["a.mkv", "a.avi"])
def test_bit_rot_in_ffv1_is_damage_of_those_frames(tmp_path, name):
    """The one that was hit, and those that go on with its statistics up to the next key frame."""
    make_clip(tmp_path / name, options=with_checksums(), **SLICED)
    assert not probe(str(tmp_path / name)).damaged_frames
    position, size, _ = packets_of(tmp_path / name)[15]
    path = flipped(tmp_path / name, position + size // 2)
    with pytest.raises(
        DamagedMediaError, match=r"27 of 36 frames can be read \(not: 15-23, by FFV1 slice CRC\).*--salvage"
    ):
        probe(str(path))


def test_salvage_restores_rotten_frames_as_they_decode_and_names_them(tmp_path):
    make_clip(tmp_path / "a.mkv", options=with_checksums(), **SLICED)
    position, size, _ = packets_of(tmp_path / "a.mkv")[30]
    media = probe(str(flipped(tmp_path / "a.mkv", position + size // 2)), salvage=True)
    assert media.damaged_frames == ((30, 36),) == media.video.suspect
    assert any(notice.subject == "suspect frames" and "6 of 36" in notice.reason for notice in media.preflight)
    span = FrameSpan(0, tuple(media.frame_pts))
    missing = []
    frames = list(decode_span(media.path, media.video, span, salvage=True, on_missing=missing.append))
    assert missing == list(range(30, 36)) and sum(map(len, frames)) == 36
    with pytest.raises(DamagedMediaError, match="frame 30 is damaged"):
        list(decode_span(media.path, media.video, span))


@pytest.mark.parametrize("options", [with_checksums(slicecrc="0"), with_checksums(level="1")])
def test_ffv1_without_checksums_is_believed(tmp_path, options):
    make_clip(tmp_path / "a.mkv", options=options, **SLICED)
    assert not probe(str(tmp_path / "a.mkv")).damaged_frames
    with av.open(str(tmp_path / "a.mkv")) as container:
        assert not any(has_intact_slices(bytes(packet)) for packet in container.demux(video=0))


def test_every_bit_of_an_ffv1_packet_is_watched(tmp_path):
    make_clip(tmp_path / "a.mkv", options=with_checksums(), **SLICED)
    with av.open(str(tmp_path / "a.mkv")) as container:
        packet = bytes(next(container.demux(video=0)))
    assert has_intact_slices(packet)
    for bit in random.Random(0).sample(range(8 * len(packet)), 200):
        data = bytearray(packet)
        data[bit // 8] ^= 1 << bit % 8
        assert not has_intact_slices(bytes(data))
    assert not has_intact_slices(packet[:-1]) and not has_intact_slices(packet[1:]) and not has_intact_slices(b"")


def test_a_wrong_checksum_of_a_matroska_cluster_is_damage_of_its_frames(tmp_path):
    """H.264 decodes such flips without a word, as often as not."""
    make_clip(tmp_path / "a.mkv", num_frames=48, gop=12, options={"x264-params": "keyint=12:min-keyint=12:scenecut=0"})
    assert damaged_clusters(str(tmp_path / "a.mkv")) == ()
    position, size, _ = packets_of(tmp_path / "a.mkv")[30]
    path = flipped(tmp_path / "a.mkv", position + size - 2)
    ((start, stop),) = damaged_clusters(str(path))
    assert start <= position < stop
    with pytest.raises(DamagedMediaError, match="by Matroska CRC-32"):
        probe(str(path))
    assert probe(str(path), salvage=True).damaged_frames


def test_damage_beside_the_pictures_is_said_to_be_there(tmp_path):
    """FFV1 answers for itself, so a cluster whose pictures are right is damaged elsewhere."""
    make_clip(tmp_path / "a.mkv", options=with_checksums(), subtitles=("eng",), **SLICED)
    path = flipped(tmp_path / "a.mkv", (tmp_path / "a.mkv").read_bytes().index(b"Caption of track"))
    with pytest.raises(DamagedMediaError, match="damaged outside of its pictures.*Matroska CRC-32.*--salvage"):
        probe(str(path))
    media = probe(str(path), salvage=True)
    assert not media.damaged_frames
    assert any(notice.subject == "damage between pictures" for notice in media.preflight)


# MPEG-TS.


def transport(tmp_path):
    """A clip with sound, its bytes, and where the packets of its pictures and its sound lie."""
    make_clip(tmp_path / "a.ts", num_frames=48, gop=24, audio_tracks=1, size=(192, 128))
    data = (tmp_path / "a.ts").read_bytes()
    places = {}
    for at in range(0, len(data), 188):
        places.setdefault(int.from_bytes(data[at + 1 : at + 3], "big") & 0x1FFF, []).append(at)
    return data, places[256], places[257]


def is_start(data, at):
    return bool(data[at + 1] & 0x40)


def test_a_transport_error_in_a_picture_is_damage(tmp_path):
    data, pictures, _ = transport(tmp_path)
    rotten = bytearray(data)
    rotten[pictures[len(pictures) // 2] + 1] |= 0x80
    (tmp_path / "b.ts").write_bytes(rotten)
    with pytest.raises(DamagedMediaError, match="by MPEG transport errors"):
        probe(str(tmp_path / "b.ts"))


def test_a_lost_transport_packet_is_damage(tmp_path):
    data, pictures, _ = transport(tmp_path)
    at = next(at for at in pictures[len(pictures) // 3 :] if not is_start(data, at))
    (tmp_path / "b.ts").write_bytes(data[:at] + data[at + 188 :])
    with pytest.raises(DamagedMediaError, match=r"frames can be read \(not: "):
        probe(str(tmp_path / "b.ts"))


@pytest.mark.slow
def test_a_transport_error_in_the_sound_is_no_damage_of_pictures(tmp_path):
    data, _, sound = transport(tmp_path)
    rotten = bytearray(data)
    rotten[sound[len(sound) // 2] + 1] |= 0x80
    (tmp_path / "b.ts").write_bytes(rotten)
    assert not probe(str(tmp_path / "b.ts")).damaged_frames


@pytest.mark.slow
@pytest.mark.parametrize("start_offset", [3, 1000])
def test_two_recordings_in_one_file_are_no_damage(tmp_path, start_offset):
    """The count of packets starts anew, and libav calls a picture corrupt that is whole."""
    data, *_ = transport(tmp_path)
    make_clip(tmp_path / "b.ts", num_frames=24, gop=24, audio_tracks=1, size=(192, 128), start_offset=start_offset)
    (tmp_path / "c.ts").write_bytes(data + (tmp_path / "b.ts").read_bytes())
    media = probe(str(tmp_path / "c.ts"))
    assert media.video.num_frames == 72 and not media.damaged_frames


@pytest.mark.slow
def test_a_recording_that_begins_in_mid_stream_is_no_damage(tmp_path):
    data, pictures, _ = transport(tmp_path)
    at = next(at for at in pictures[len(pictures) // 3 :] if is_start(data, at))
    (tmp_path / "b.ts").write_bytes(data[at:])
    assert not probe(str(tmp_path / "b.ts")).damaged_frames
