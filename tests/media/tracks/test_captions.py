"""Closed captions inside the pictures: found wherever they begin, and carried by the new pictures."""

import re
from fractions import Fraction

import av
import pytest

from seedvr2_ray.media.bitstream.payloads import with_t35
from seedvr2_ray.media.container.caption_data import captions_of, says_something
from seedvr2_ray.media.output.master import plan_master
from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.tracks.captions import FrameCaptions
from seedvr2_ray.settings import RestoreSettings
from tests.media.clips import make_clip
from tests.media.masters import a_source, decoded, restore_like

NUM_FRAMES = 48
SIGN = b"\xb5\x00\x31GA94\x03"


def _slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def triplets(frame):
    """EIA-608 text that says its frame, and a padding pair of CTA-708."""
    return bytes([0xFC, 0x21 + frame % 90, 0x21 + frame // 90, 0xFA, 0, 0])


def user_data(captions):
    return bytes([0xC0 | len(captions) // 3, 0xFF]) + captions + b"\xff"


def in_h264(path, first, *, bframes=0):
    """An MP4 whose pictures have captions from number ``first`` on, in display order."""
    make_clip(str(path) + ".mkv", num_frames=NUM_FRAMES, bframes=bframes, gop=12)
    return rewritten(str(path) + ".mkv", path, "h264", first, length_size=4)


def rewritten(source, path, codec, first, *, length_size, said=None):
    with av.open(source) as before, av.open(str(path), "w") as after:
        video = before.streams.video[0]
        rate = video.average_rate
        copy = after.add_stream_from_template(video, opaque=True)
        for packet in before.demux(video):
            if not packet.size:
                continue
            frame = round(packet.pts * packet.time_base * rate)
            data = bytes(packet)
            captions = triplets(frame) if said is None else b"".join(said[frame : frame + 1])
            if frame >= first and captions:
                message = SIGN + user_data(captions)
                data = with_t35(codec, data, message, length_size)
            new = av.Packet(data)
            new.pts, new.dts, new.time_base, new.is_keyframe = packet.pts, packet.dts, packet.time_base, True
            new.is_keyframe, new.duration, new.stream = packet.is_keyframe, packet.duration, copy
            after.mux(new)
    return str(path)


def in_mpeg2(path, first):
    """An MPEG-2 file with captions in the user data of its pictures, as ATSC broadcasts them."""
    make_clip(str(path) + ".mkv", codec="mpeg2", num_frames=NUM_FRAMES, rate=25, bframes=2)
    with av.open(str(path) + ".mkv") as before, av.open(str(path), "w") as after:
        video = before.streams.video[0]
        copy = after.add_stream_from_template(video, opaque=True)
        for packet in before.demux(video):
            if not packet.size:
                continue
            frame = round(packet.pts * packet.time_base * 25)
            data = bytes(packet)
            if frame >= first:
                at = re.search(rb"\x00\x00\x01\x01", data).start()
                data = data[:at] + b"\0\0\1\xb2GA94\3" + user_data(triplets(frame)) + data[at:]
            new = av.Packet(data)
            new.pts, new.dts, new.time_base, new.duration = packet.pts, packet.dts, packet.time_base, packet.duration
            new.is_keyframe, new.stream = packet.is_keyframe, copy
            after.mux(new)
    return str(path)


def captions_in_order(path):
    """The captions of every packet, in display order."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context.codec.canonical_name
        packets = [(p.pts, captions_of(codec, bytes(p))) for p in container.demux(stream) if p.size]
    return [captions for _, captions in sorted(packets)]


@pytest.mark.parametrize("first", [0, 7, 33, NUM_FRAMES - 1])
def test_captions_are_found_wherever_they_begin(tmp_path, first):
    media = probe(in_h264(tmp_path / "in.mp4", first))
    assert media.video.has_captions
    (notice,) = (notice for notice in media.preflight if notice.subject == "closed captions")
    assert f"{NUM_FRAMES - first} pictures" in notice.reason


def test_pictures_without_captions_have_none(tmp_path):
    make_clip(tmp_path / "in.mp4", num_frames=12)
    assert not probe(str(tmp_path / "in.mp4")).video.has_captions


def test_padding_alone_is_no_caption(tmp_path):
    assert not says_something(bytes([0xFC, 0x80, 0x80, 0xFD, 0x80, 0x80, 0xFA, 0, 0]))
    assert says_something(bytes([0xFC, 0x80, 0x80, 0xFC, 0x94, 0x2C]))
    assert says_something(bytes([0xFF, 0x01, 0x22]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "codec"),
    [("out.mp4", "h264"), _slow("out.mkv", "h264"), ("out.mov", "hevc"), _slow("out.mkv", "hevc")],
)
def test_every_frame_keeps_its_captions_in_the_new_pictures(tmp_path, target, codec):
    source = in_h264(tmp_path / "in.mp4", 30, bframes=2)
    written = str(tmp_path / target)
    plain = str(tmp_path / f"plain-{target}")
    restore_like(source, plain, codec=codec)
    _, _, report = restore_like(source, written, codec=codec, described={"has_captions": True})
    assert captions_in_order(written) == [b"" if frame < 30 else triplets(frame) for frame in range(NUM_FRAMES)]
    assert decoded(written) == decoded(plain)
    assert not [notice for notice in report.left_out if notice.subject == "closed captions"]


@pytest.mark.slow
def test_captions_of_mpeg2_become_those_of_h264(tmp_path):
    source = in_mpeg2(tmp_path / "in.mkv", 30)
    media = probe(source)
    assert media.video.has_captions
    written = str(tmp_path / "out.mp4")
    restore_like(source, written, described={"has_captions": True})
    assert captions_in_order(written) == [b"" if frame < 30 else triplets(frame) for frame in range(NUM_FRAMES)]


def test_captions_stand_before_the_first_slice_where_decoders_look_for_them(tmp_path):
    source = in_h264(tmp_path / "in.mp4", 0)
    written = str(tmp_path / "out.mp4")
    restore_like(source, written, described={"has_captions": True})
    with av.open(written) as container:
        stream = container.streams.video[0]
        units = [bytes(packet) for packet in container.demux(stream) if packet.size]
    # Length, NAL type 6, message type 4: before the first slice of every picture, by ITU-T H.264.
    assert all(re.search(rb"....\x06\x04.\xb5\x00\x31GA94\x03", unit, re.DOTALL) for unit in units)


@pytest.mark.parametrize(
    ("target", "codec", "outcome"),
    [
        ("out.mov", "prores", "converted"),
        ("out.mkv", "ffv1", "converted"),
        ("out.mkv", "av1", "converted"),
        ("out.avi", "ffv1", "left_out"),
        ("frames/", "auto", "left_out"),
    ],
)
def test_what_a_codec_cannot_carry_is_said(target, codec, outcome):
    media = a_source(has_captions=True)
    _, notices = plan_master(media, RestoreSettings(codec=codec), width=96, height=64, target=target)
    assert (outcome, "closed captions") in {(notice.outcome, notice.subject) for notice in notices}


def spoken(*lines):
    """EIA-608 captions of consecutive frames: each line pops on after 24 frames and off after 24 more."""

    def pair(first, second):
        return bytes([0xFC, *(code | 0x80 * (code.bit_count() % 2 == 0) for code in (first, second))])

    frames = []
    for line in lines:
        codes = [(0x14, 0x20), (0x14, 0x2E), (0x14, 0x70)]
        codes += [(ord(a), ord(b)) for a, b in zip(line[::2], line[1::2], strict=True)]
        waiting = [pair(*code) for code in codes]
        frames += [*waiting, *[pair(0, 0)] * (24 - len(waiting)), pair(0x14, 0x2F), *[pair(0, 0)] * 23]
        frames.append(pair(0x14, 0x2C))
    return frames


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "codec", "named"),
    [("out.mkv", "ffv1", "subrip"), ("out.mov", "prores", "mov_text"), ("out.webm", "av1", "webvtt")],
)
def test_captions_become_a_subtitle_track_where_the_pictures_cannot_carry_them(tmp_path, target, codec, named):
    said = spoken("HELLO ", "AND BYE ")
    path = str(tmp_path / "in.mp4")
    make_clip(path + ".mkv", num_frames=len(said) + 10, bframes=2, rate=24)
    rewritten(path + ".mkv", path, "h264", 0, length_size=4, said=said)
    written = str(tmp_path / target)
    _, _, report = restore_like(path, written, codec=codec, described={"has_captions": True})
    assert report.left_out == ()
    with av.open(written) as container:
        stream = container.streams.subtitles[0]
        assert stream.codec_context.codec.canonical_name == named
        found = []
        for packet in container.demux(stream):
            for rect in (packet.size and stream.codec_context.decode2(packet)) or ():
                text = re.sub(rb"{.*?}", b"", rect.dialogue).decode().strip()
                if text:
                    seconds = (packet.pts * packet.time_base, packet.duration * packet.time_base)
                    found.append((text, *(float(value) for value in seconds)))
    assert [text for text, _, _ in found] == ["HELLO", "AND BYE"]
    for (_, start, duration), first in zip(found, (24, 24 + 49), strict=True):
        assert start == pytest.approx(first / 24, abs=0.05)
        assert duration == pytest.approx(1, abs=0.1)


def test_captions_without_times_to_follow_are_said_to_be_lost():
    media = a_source(has_captions=True, timestamps="counted")
    _, notices = plan_master(media, RestoreSettings(), width=96, height=64, target="out.mp4")
    assert [notice.outcome for notice in notices if notice.subject == "closed captions"] == ["left_out"]


@pytest.mark.parametrize("form", [b"\x00\x00\x01\xb2CC\x01\xf8\x9e\xff", b"\x00\x00\x01\xb2\x03\x81\x22\x33"])
def test_captions_in_forms_of_mpeg2_alone_are_said_to_be_left_out(tmp_path, form):
    make_clip(tmp_path / "in.mpg", codec="mpeg2", num_frames=24, rate=25, container_format="mpeg2video")
    data = (tmp_path / "in.mpg").read_bytes()
    at = data.find(b"\x00\x00\x01\x01")
    (tmp_path / "dvd.m2v").write_bytes(data[:at] + form + data[at:])
    outcomes = {(notice.outcome, notice.subject) for notice in probe(str(tmp_path / "dvd.m2v")).preflight}
    assert any(outcome == "left_out" and "captions" in subject for outcome, subject in outcomes)


def test_start_codes_inside_captions_are_escaped():
    zeros = bytes([0xFC, 0, 0, 0, 1, 0, 0, 0, 3])
    slice_unit = b"\x65\x88\x84"
    packet = len(slice_unit).to_bytes(4, "big") + slice_unit
    written = with_t35("h264", packet, SIGN + user_data(zeros), 4)
    assert captions_of("h264", written) == zeros
    assert b"\x00\x00\x01" not in written[4:].replace(packet, b"")
    assert written.endswith(packet)


def test_two_fields_of_a_frame_bring_their_captions_together():
    captions = FrameCaptions(3)
    captions.add(1, b"abc")
    captions.add(2, b"xyz")
    captions.add(1, b"def")
    assert [captions.of_frame(number) for number in range(3)] == [b"", b"abcdef", b"xyz"]
    assert captions.num_frames == 2


@pytest.mark.slow
@pytest.mark.parametrize(("target", "named"), [("out.mp4", "mov_text"), ("out.mkv", "subrip"), ("out.mov", "eia_608")])
def test_a_caption_track_of_quicktime_is_copied_or_becomes_text(tmp_path, target, named):
    path, said = str(tmp_path / "in.mov"), spoken("HELLO ", "AND BYE ")
    make_clip(path + ".mkv", num_frames=len(said) + 10, rate=24)
    with av.open(path + ".mkv") as before, av.open(path, "w") as after:
        video = after.add_stream_from_template(before.streams.video[0], opaque=True)
        text = after.add_mux_stream("eia_608")
        text.time_base = Fraction(1, 24)
        for packet in before.demux(video=0):
            if packet.size:
                packet.stream = video
                after.mux(packet)
        for frame, captions in enumerate(said):
            packet = av.Packet(captions)
            packet.pts = packet.dts = frame
            packet.duration, packet.time_base, packet.stream, packet.is_keyframe = 1, Fraction(1, 24), text, True
            after.mux(packet)
    written = str(tmp_path / target)
    _, _, report = restore_like(path, written)
    assert report.left_out == ()
    with av.open(written) as container:
        assert container.streams.subtitles[0].codec_context.codec.canonical_name == named
    if named != "eia_608":
        assert text_of(written) == [
            ("HELLO", pytest.approx(1, abs=0.05)),
            ("AND BYE", pytest.approx(73 / 24, abs=0.05)),
        ]


def text_of(path):
    """Every line of the first subtitle track, without styling, and when it begins in seconds."""
    found = []
    with av.open(path) as container:
        stream = container.streams.subtitles[0]
        for packet in container.demux(stream):
            for rect in (packet.size and stream.codec_context.decode2(packet)) or ():
                text = re.sub(rb"{.*?}|^.*,", b"", rect.dialogue).decode().strip()
                if text:
                    found.append((text, float(packet.pts * packet.time_base)))
    return found
