"""Laws of sizes in headers: what the pictures' own headers say is what decoding gives."""

import av
import pytest

from seedvr2_ray.errors import MediaError
from seedvr2_ray.media.bitstream.picture_size import sizes_in_header
from seedvr2_ray.media.probe import probe
from tests.media.clips import make_clip

CODED = [
    ("a.ts", {"codec": "h264"}),
    ("high444.ts", {"codec": "h264", "pixel_format": "yuv444p"}),
    ("fields.ts", {"codec": "h264", "interlaced": True}),
    ("lists.ts", {"codec": "h264", "options": {"x264-params": "cqm=jvt"}}),
    ("a.ts", {"codec": "hevc"}),
    ("a.ts", {"codec": "mpeg2"}),
    ("a.webm", {"codec": "vp9"}),
    ("a.webm", {"codec": "libvpx"}),
    ("a.mkv", {"codec": "av1"}),
    ("a.avi", {"codec": "mjpeg", "pixel_format": "yuvj420p"}),
]


@pytest.mark.parametrize(("name", "kwargs"), CODED)
@pytest.mark.parametrize("size", [(96, 64), (98, 68)])
def test_the_headers_of_key_frames_name_the_size_of_their_pictures(tmp_path, name, kwargs, size):
    make_clip(tmp_path / name, num_frames=3, size=size, **kwargs)
    with av.open(str(tmp_path / name)) as container:
        decoder = container.streams.video[0].codec_context
        packet = next(packet for packet in container.demux(video=0) if packet.size and packet.is_keyframe)
        named = sizes_in_header(decoder.codec.canonical_name, decoder.extradata or b"", memoryview(packet))
    assert named == {size}


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp8", "vp9", "av1", "mpeg2video", "mjpeg"])
@pytest.mark.parametrize("length", range(0, 40, 3))
def test_a_header_that_breaks_off_raises_nothing(codec, length):
    sizes_in_header(codec, b"", memoryview((b"\0\0\1\x67\xff\xd8\xff\xc0" * 5)[:length]))
    sizes_in_header(codec, b"\1" + bytes(30), memoryview(bytes(range(length))))


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg2"])
def test_a_size_that_changes_in_a_broadcast_is_refused_at_the_probe(tmp_path, codec):
    make_clip(tmp_path / "a.ts", codec=codec, num_frames=12)
    make_clip(tmp_path / "b.ts", codec=codec, num_frames=12, size=(112, 64), start_offset=1)
    (tmp_path / "c.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with pytest.raises(MediaError, match="changes its size from 96x64 to 112x64 at frame 12; cut it there"):
        probe(str(tmp_path / "c.ts"))


def test_a_browsers_recording_that_changes_its_size_is_refused_at_the_probe(tmp_path):
    for name, size in (("a", (96, 64)), ("b", (112, 64))):
        make_clip(tmp_path / f"{name}.webm", codec="vp9", num_frames=8, size=size)
    with av.open(str(tmp_path / "call.webm"), "w") as target:
        stream = None
        for number, name in enumerate("ab"):
            with av.open(str(tmp_path / f"{name}.webm")) as source:
                stream = stream or target.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.pts = packet.dts = (packet.pts or 0) + 400 * number
                        packet.stream = stream
                        target.mux(packet)
    with pytest.raises(MediaError, match="changes its size from 96x64 to 112x64 at frame 8"):
        probe(str(tmp_path / "call.webm"))
