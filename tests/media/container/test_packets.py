"""Laws of what packets say: which of them hold a picture, and how long the last one is shown."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from seedvr2_ray.frames import ColourTags, FrameSpan
from seedvr2_ray.media.output.join import join_parts
from seedvr2_ray.media.output.master import plan_master
from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.reading.decode import decode_span
from seedvr2_ray.settings import RestoreSettings
from tests.media.clips import draw_frame, make_clip, read_frame_number, to_pixel_format
from tests.media.masters import split, write_parts

COLOUR = ColourTags()
NUM_SLOTS = 25
DROPPED = range(4, NUM_SLOTS - 1, 5)


def not_coded(number):
    """An MPEG-4 picture with ``vop_coded`` 0: a second has 25 ticks, so a time has 5 bits."""
    bits = "01" + "0" + "1" + format(number % 25, "05b") + "1" + "0" + "0"
    bits += "1" * (-len(bits) % 8)
    return b"\0\0\1\xb6" + int(bits, 2).to_bytes(len(bits) // 8, "big")


def drop_frames(path):
    """Write a clip of which every fifth frame was dropped, as DivX and XviD do."""
    encoder = av.CodecContext.create("mpeg4", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 96, 64, "yuv420p"
    encoder.time_base, encoder.framerate, encoder.gop_size, encoder.max_b_frames = Fraction(1, 25), Fraction(25), 12, 0
    encoder.flags |= 1 << 22  # parameters in the header
    encoder.bit_rate = 2_000_000
    packets = []
    for number in range(NUM_SLOTS):
        if number not in DROPPED:
            frame = to_pixel_format(draw_frame(number, (96, 64)), "yuv420p", COLOUR)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            packets += encoder.encode(frame)
    coded = {packet.pts: packet for packet in [*packets, *encoder.encode(None)]}
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.extradata = encoder.extradata
        for number in range(NUM_SLOTS):
            packet = av.Packet(bytes(coded[number]) if number in coded else not_coded(number))
            packet.pts = packet.dts = number
            packet.time_base, packet.duration, packet.stream = Fraction(1, 25), 1, stream
            packet.is_keyframe = number in coded and coded[number].is_keyframe
            file.mux(packet)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_a_packet_that_asks_for_the_last_picture_again_is_no_lost_frame(tmp_path, ending):
    drop_frames(tmp_path / f"dropped.{ending}")
    media = probe(str(tmp_path / f"dropped.{ending}"))
    coded = [number for number in range(NUM_SLOTS) if number not in DROPPED]
    assert media.damaged_frames == ()
    times = [stamp * media.video.time_base * 25 for stamp in media.frame_pts]
    assert times == pytest.approx(coded, abs=0.03)
    whole = FrameSpan(0, tuple(media.frame_pts))
    numbers = [read_frame_number(f) for batch in decode_span(media.path, media.video, whole) for f in batch.data_TCHW]
    assert numbers == coded


def hold_last(path, seconds):
    """Rewrite a clip so that its last picture is shown for so long."""
    with av.open(str(path)) as source:
        packets = [packet for packet in source.demux(video=0) if packet.size]
        last = max(packet.pts for packet in packets)
        with av.open(str(path.with_stem("held")), "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in packets:
                if packet.pts == last:
                    packet.duration = round(seconds / packet.time_base)
                packet.stream = stream
                target.mux(packet)
    return path.with_stem("held")


def animate(path):
    """Write an animation of three pictures, the last of which is shown for three seconds."""
    with av.open(str(path), "w", format="apng", options={"final_delay": "3/1"}) as container:
        stream = container.add_stream("apng", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 32, 32, "rgb24", Fraction(1, 10)
        stream.codec_context.time_base = Fraction(1, 10)
        packets = []
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 80 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet in packets:
            container.mux(packet)
    return path


def length_after_joining(path, target):
    media = probe(str(path))
    settings = RestoreSettings(resolution="x1")
    master, _ = plan_master(media, settings, width=media.video.width, height=media.video.height, target=str(target))
    parts = write_parts(Path(target).parent, master, split(media.video.num_frames))
    report = join_parts(
        parts, master=master, source_path=str(path), media=media, frame_pts=media.frame_pts, target_path=str(target)
    )
    with av.open(str(target)) as written:
        return Fraction(written.duration, 1_000_000), report


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize("bframes", [0, 2])
def test_the_last_picture_is_shown_as_long_as_in_the_source(tmp_path, ending, bframes):
    make_clip(tmp_path / f"a.{ending}", num_frames=9, rate=25, bframes=bframes)
    held = hold_last(tmp_path / f"a.{ending}", Fraction(3))
    meant = Fraction(8, 25) + 3
    media = probe(str(held))
    assert ("kept", "last frame") in {(notice.outcome, notice.subject) for notice in media.preflight}
    assert abs(media.duration_seconds - meant) <= Fraction(1, 500)
    for target in ("out.mp4", "out.mkv"):
        length, _ = length_after_joining(held, tmp_path / target)
        assert abs(length - meant) <= Fraction(1, 500)


def test_the_last_picture_of_an_animation_is_held(tmp_path):
    media = probe(str(animate(tmp_path / "held.png")))
    assert media.video.num_frames == 3
    assert media.duration_seconds == Fraction(32, 10)


def test_avi_says_that_it_cannot_hold_the_last_picture(tmp_path):
    make_clip(tmp_path / "a.mp4", num_frames=9, rate=25)
    _, report = length_after_joining(hold_last(tmp_path / "a.mp4", Fraction(3)), tmp_path / "out.avi")
    assert "last frame" in {notice.subject for notice in report.left_out}


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov", "ts", "avi"])
def test_an_ordinary_last_picture_is_not_mentioned(tmp_path, ending):
    codec = "mpeg4" if ending == "avi" else "h264"
    make_clip(tmp_path / f"a.{ending}", codec=codec, num_frames=12, rate=Fraction(24000, 1001), audio_tracks=1)
    media = probe(str(tmp_path / f"a.{ending}"))
    assert media.video.last_ticks == 0
    assert abs(media.duration_seconds - 12 / Fraction(24000, 1001)) <= Fraction(1, 500)


def test_places_of_dropped_frames_stay_empty_in_avi(tmp_path):
    drop_frames(tmp_path / "dropped.avi")
    length_after_joining(tmp_path / "dropped.avi", tmp_path / "out.avi")
    media, written = probe(str(tmp_path / "dropped.avi")), probe(str(tmp_path / "out.avi"))
    before = [(stamp - media.frame_pts[0]) * media.video.time_base for stamp in media.frame_pts]
    after = [(stamp - written.frame_pts[0]) * written.video.time_base for stamp in written.frame_pts]
    assert after == before
