"""HDR10's static metadata goes from any source into any master that can hold it."""

from dataclasses import replace
from fractions import Fraction

import av
import pytest

from seedvr2_ray.frames import ColourTags
from seedvr2_ray.media.bitstream.nal_units import length_size_of
from seedvr2_ray.media.output.encode import PartWriter
from seedvr2_ray.media.output.encoders import tag_frame
from seedvr2_ray.media.output.join import join_parts
from seedvr2_ray.media.output.master import plan_master
from seedvr2_ray.media.picture.hdr import (
    MasteringDisplay,
    StaticHdr,
    hdr_of_container,
    hdr_of_header,
    hdr_of_packet,
    svt_av1_params,
    x265_params,
)
from seedvr2_ray.media.probe import probe
from seedvr2_ray.settings import RestoreSettings
from tests.media.clips import make_clip
from tests.media.masters import HD, a_source, decoded

PQ = ColourTags("bt2020", "smpte2084", "bt2020nc")
HLG = ColourTags("bt2020", "arib-std-b67", "bt2020nc")
GRADED = StaticHdr(
    mastering=MasteringDisplay(
        red=(34000, 16000),
        green=(13250, 34500),
        blue=(7500, 3000),
        white=(15635, 16450),
        max_luminance=10_000_000,
        min_luminance=50,
    ),
    max_cll=993,
    max_fall=411,
)
LIGHT_ONLY = StaticHdr(max_cll=1000, max_fall=200)
DISPLAY_ONLY = replace(GRADED, max_cll=0, max_fall=0)


def in_container(stream):
    return hdr_of_container(stream)[0]


def in_pictures(path):
    """What the codec's own messages say, those of the header included."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        codec, extradata = stream.codec_context.codec.canonical_name, stream.codec_context.extradata
        packet = next(bytes(packet) for packet in container.demux(stream) if packet.size)
        of_header = hdr_of_header(codec, extradata)
        return hdr_of_packet(codec, packet, length_size_of(codec, extradata)).filled_from(of_header)


def write_master(folder, target, hdr, *, codec, colour=PQ, num_frames=6):
    """Restore nothing, but write a master as if ``hdr`` had been found in its source."""
    source = str(folder / "source.mkv")
    make_clip(source, codec="ffv1", pixel_format="yuv420p10le", num_frames=num_frames, colour=colour)
    media = a_source(path=source, pts=range(num_frames), colour=colour, bit_depth=10, hdr=hdr)
    settings = RestoreSettings(codec=codec, preset="12" if codec == "av1" else "auto")
    master, notices = plan_master(media, settings, width=96, height=64, target=target)
    master = replace(master, time_base=Fraction(1, 24))
    part = str(folder / "0.part")
    with PartWriter(part, master) as writer:
        for number in range(num_frames):
            frame = av.VideoFrame(96, 64, master.pixel_format)
            for plane in frame.planes:
                plane.update(bytes([number]) * plane.buffer_size)
            tag_frame(frame, colour)
            writer.write(frame)
    written = str(folder / target)
    join_parts([part], master=master, source_path=source, media=media, frame_pts=media.frame_pts, target_path=written)
    return written, part, notices


@pytest.mark.parametrize(
    "hdr",
    [
        pytest.param(GRADED, id="both"),
        pytest.param(LIGHT_ONLY, id="light", marks=pytest.mark.slow),
        pytest.param(DISPLAY_ONLY, id="display", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("target", "codec"),
    [
        ("out.mp4", "hevc"),
        ("out.mov", "hevc"),
        ("out.mkv", "hevc"),
        ("out.mp4", "av1"),
        ("out.webm", "av1"),
        ("out.mkv", "ffv1"),
        ("out.mov", "prores"),
    ],
)
def test_a_master_says_what_its_source_says(tmp_path, target, codec, hdr):
    written, part, notices = write_master(tmp_path, target, hdr, codec=codec)
    with av.open(written) as container:
        assert in_container(container.streams.video[0]) == hdr
    if codec in ("hevc", "av1"):
        assert in_pictures(written) == hdr
    assert decoded(written) == decoded(part)
    assert not [notice for notice in notices if notice.subject == "HDR10 metadata"]
    found = probe(written).video.hdr
    assert found == hdr


def test_messages_in_the_pictures_are_found_where_the_container_is_silent(tmp_path):
    path = str(tmp_path / "in.mkv")
    params = f"log-level=none:pools=1:repeat-headers=1:{x265_params(GRADED)}"
    make_clip(path, codec="hevc", pixel_format="yuv420p10le", num_frames=3, colour=PQ,
              options={"x265-params": params, "preset": "ultrafast"})  # fmt: skip
    media = probe(path)
    assert media.video.hdr == GRADED
    assert ("kept", "HDR10 metadata") in {(notice.outcome, notice.subject) for notice in media.preflight}


def test_messages_of_av1_are_found(tmp_path):
    path = str(tmp_path / "in.mkv")
    make_clip(path, codec="av1", pixel_format="yuv420p10le", num_frames=3, colour=PQ,
              options={"preset": "12", "svtav1-params": svt_av1_params(GRADED)})  # fmt: skip
    assert probe(path).video.hdr == GRADED


def test_a_source_that_is_not_hdr_has_no_hdr_metadata_to_keep(tmp_path):
    path = str(tmp_path / "in.mkv")
    params = f"log-level=none:pools=1:repeat-headers=1:{x265_params(GRADED)}"
    make_clip(path, codec="hevc", pixel_format="yuv420p10le", num_frames=3, colour=HD,
              options={"x265-params": params, "preset": "ultrafast"})  # fmt: skip
    assert probe(path).video.hdr.is_empty


@pytest.mark.parametrize(("target", "codec"), [("out.avi", "ffv1"), ("frames/", "auto")])
def test_what_cannot_hold_it_says_so(target, codec):
    media = a_source(colour=PQ, bit_depth=10, hdr=GRADED)
    _, notices = plan_master(media, RestoreSettings(codec=codec), width=96, height=64, target=target)
    assert ("left_out", "HDR10 metadata") in {(notice.outcome, notice.subject) for notice in notices}


def test_hlg_keeps_it_too(tmp_path):
    written, _, _ = write_master(tmp_path, "out.mp4", GRADED, codec="hevc", colour=HLG)
    assert probe(written).video.hdr == GRADED


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (b"\xb5\x00\x3c\x00\x01\x04\x01\x40", "HDR10+"),
        (b"\x26\x00\x04\x00\x05\x01", "HDR Vivid"),
        (None, "Dolby Vision"),
    ],
)
def test_metadata_that_follows_the_old_shots_is_said_to_be_left_out(tmp_path, payload, name):
    make_clip(tmp_path / "in.mkv", codec="hevc", pixel_format="yuv420p10le", num_frames=12, colour=PQ)
    with av.open(str(tmp_path / "in.mkv")) as before, av.open(str(tmp_path / "out.mkv"), "w") as after:
        stream = before.streams.video[0]
        copy = after.add_stream_from_template(stream, opaque=True)
        for packet in before.demux(stream):
            if packet.size:
                after.mux(marked(packet, payload, copy))
    outcomes = {(notice.outcome, notice.subject) for notice in probe(str(tmp_path / "out.mkv")).preflight}
    assert ("left_out", name) in outcomes


def marked(packet, payload, stream):
    from seedvr2_ray.media.bitstream.payloads import with_t35

    unit = b"\x7c\x01\x19\x08\x09\x80"  # An RPU: NAL type 62, beginning with 25.
    data = bytes(packet)
    new = av.Packet(
        data + len(unit).to_bytes(4, "big") + unit if payload is None else with_t35("hevc", data, payload, 4)
    )
    new.pts, new.dts, new.time_base, new.duration = packet.pts, packet.dts, packet.time_base, packet.duration
    new.is_keyframe, new.stream = packet.is_keyframe, stream
    return new
