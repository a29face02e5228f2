from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from tests.media.clips import make_clip
from tests.media.masters import describe, payloads, restore_like


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    """A Matroska file with two sound tracks, two subtitles, chapters, a font and free tags."""
    path = tmp_path_factory.mktemp("streams") / "rich.mkv"
    make_clip(
        path,
        num_frames=24,
        audio_tracks=2,
        subtitles=("eng", "deu"),
        chapters=((0, 0.5, "Opening"), (0.5, 1, "End")),
        attachments=(("letters.ttf", "font/ttf", b"\x00\x01font" * 50),),
        metadata={"title": "A film", "director": "Somebody"},
    )
    return str(path)


def tracks(path, kind):
    with av.open(path) as container:
        return [
            (stream.codec_context.codec.canonical_name, stream.metadata.get("language"))
            for stream in container.streams
            if stream.type == kind
        ]


def captions(path):
    """Text and times of the subtitles, track by track."""
    with av.open(path) as container:
        found = {stream.index: [] for stream in container.streams.subtitles}
        for packet in container.demux(container.streams.subtitles):
            if not packet.size:
                continue
            for rect in packet.stream.codec_context.decode2(packet) or ():
                if rect.dialogue:
                    times = (packet.pts * packet.time_base, packet.duration * packet.time_base)
                    found[packet.stream_index].append((rect.dialogue.decode(), *times))
        return list(found.values())


def test_matroska_keeps_everything_bit_for_bit(rich, tmp_path):
    target = str(tmp_path / "out.mkv")
    _, _, report = restore_like(rich, target)
    for kind in ("audio", "subtitle"):
        assert payloads(target, kind) == payloads(rich, kind)
        assert tracks(target, kind) == tracks(rich, kind)
    with av.open(rich) as before, av.open(target) as after:
        assert [(c["start"], c["metadata"]) for c in after.chapters()] == [
            (c["start"], c["metadata"]) for c in before.chapters()
        ]
        (font,) = (stream for stream in after.streams if stream.type == "attachment")
        assert (font.name, font.mimetype, font.data) == ("letters.ttf", "font/ttf", b"\x00\x01font" * 50)
        tags = {key.lower(): value for key, value in after.metadata.items()}
        assert (tags["title"], tags["director"]) == ("A film", "Somebody")
        assert [s.metadata["title"] for s in after.streams.audio] == ["Track 1", "Track 2"]
    assert (report.converted, report.left_out) == ((), ())
    assert len(report.copied) == 6


def test_mp4_gets_text_in_its_own_notation_and_the_report_says_what_is_missing(rich, tmp_path):
    target = str(tmp_path / "out.mp4")
    _, _, report = restore_like(rich, target)
    assert payloads(target, "audio") == payloads(rich, "audio")
    assert tracks(target, "subtitle") == [("mov_text", "eng"), ("mov_text", "deu")]
    assert captions(target) == captions(rich)
    assert {notice.subject for notice in report.converted} >= {"subtitle stream 3", "subtitle stream 4"}
    assert [notice.subject for notice in report.left_out] == ["attachment stream 5"]
    with av.open(target) as after:
        assert [chapter["metadata"]["title"] for chapter in after.chapters()] == ["Opening", "End"]
        tags = {key.lower(): value for key, value in after.metadata.items()}
        assert (tags["title"], tags["director"]) == ("A film", "Somebody")
        assert [s.metadata["handler_name"] for s in after.streams.audio] == ["Track 1", "Track 2"]


def test_what_was_converted_for_mp4_comes_back_in_matroska(rich, tmp_path):
    there, back = str(tmp_path / "there.mp4"), str(tmp_path / "back.mkv")
    restore_like(rich, there)
    _, _, report = restore_like(there, back)
    assert payloads(back, "audio") == payloads(rich, "audio")
    assert captions(back) == captions(rich)
    with av.open(back) as after:
        assert [chapter["metadata"]["title"] for chapter in after.chapters()] == ["Opening", "End"]
        assert not after.streams.data
    assert all(notice.outcome != "left_out" for notice in report.notices)


def test_lossless_sound_stays_lossless_in_quicktime(rich, tmp_path):
    target = str(tmp_path / "out.mov")
    _, _, report = restore_like(rich, target)
    assert tracks(target, "audio") == [("alac", "eng"), ("alac", "ger")]
    assert "alac" in next(notice.reason for notice in report.converted if notice.subject == "audio stream 1")
    for before, after in zip(sound(rich), sound(target), strict=True):
        assert np.array_equal(before, after)


@pytest.mark.slow
def test_webm_gets_opus_and_webvtt(rich, tmp_path):
    target = str(tmp_path / "out.webm")
    _, _, report = restore_like(rich, target)
    assert tracks(target, "audio") == [("opus", "eng"), ("opus", "deu")]
    assert captions(target) == captions(rich)
    assert [notice.outcome for notice in report.notices].count("converted") >= 4
    for before, after in zip(sound(rich), sound(target), strict=True):
        length = min(len(before), len(after)) - 2000
        assert abs(len(before) - len(after)) < 2000
        best = max(np.corrcoef(before[2000:length], after[2000 + lag : length + lag])[0, 1] for lag in range(-400, 401))
        assert best > 0.98


def sound(path):
    """Decode every sound track to its left channel, as floats."""
    found = []
    with av.open(path) as container:
        count = len(container.streams.audio)
    for track in range(count):
        with av.open(path) as container:
            resampler = av.AudioResampler(format="fltp", layout="stereo", rate=48000)
            frames = [out for frame in container.decode(audio=track) for out in resampler.resample(frame)]
            found.append(np.concatenate([frame.to_ndarray()[0] for frame in frames]))
    return found


def test_cover_art_travels_between_mp4_and_matroska(tmp_path):
    plain = make_clip(tmp_path / "plain.mp4", num_frames=6)
    with_cover = tmp_path / "cover.mp4"
    picture = png_bytes()
    with av.open(plain.path) as source, av.open(str(with_cover), "w") as output:
        video = output.add_stream_from_template(source.streams.video[0], opaque=True)
        cover = output.add_mux_stream("png", width=8, height=8)
        cover.disposition = av.stream.Disposition.attached_pic
        packet = av.Packet(picture)
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = cover, 0, 0, True
        for copied in source.demux(video=0):
            if copied.size:
                copied.stream = video
                output.mux(copied)
        output.mux(packet)
    for container in ("mp4", "mkv"):
        target = str(tmp_path / f"out.{container}")
        _, _, report = restore_like(str(with_cover), target)
        assert [notice.outcome for notice in report.notices if "cover" in notice.subject] == ["kept"]
        with av.open(target) as after:
            covers = [
                stream for stream in after.streams.video if stream.disposition & av.stream.Disposition.attached_pic
            ]
            (index,) = (stream.index for stream in covers)
            assert next(bytes(p) for p in after.demux(after.streams[index]) if p.size) == picture


def png_bytes():
    context = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 8, 8, "rgb24", Fraction(1, 25)
    (packet,) = context.encode(av.VideoFrame(8, 8, "rgb24"))
    return bytes(packet)


def test_a_timecode_is_carried_over(tmp_path):
    clip = make_clip(tmp_path / "in.mov", num_frames=12, rate=25, metadata={"timecode": "10:00:00:00"})
    for container in ("mov", "mkv"):
        target = str(tmp_path / f"out.{container}")
        restore_like(clip.path, target)
        with av.open(target) as after:
            tags = [stream.metadata for stream in after.streams] + [after.metadata]
            assert "10:00:00:00" in [value for tag in tags for value in tag.values()]


def test_a_timecode_that_the_rate_cannot_count_does_not_stop_the_join(tmp_path):
    clip = make_clip(tmp_path / "in.mkv", num_frames=12, rate=Fraction(49, 2), metadata={"timecode": "10:00:00;00"})
    target = str(tmp_path / "out.mov")
    restore_like(clip.path, target)
    assert describe(target).video.num_frames == 12


def test_avi_gets_sound_it_can_time(tmp_path):
    clip = make_clip(tmp_path / "in.mp4", num_frames=24, audio_tracks=1)
    target = str(tmp_path / "out.avi")
    _, _, report = restore_like(clip.path, target)
    assert tracks(target, "audio") == [("pcm_s16le", None)]
    assert "pcm_s16le" in report.converted[0].reason
    (before,), (after,) = sound(clip.path), sound(target)
    assert abs(len(after) - len(before)) <= 2048


def test_sound_that_matroska_stored_in_milliseconds_is_sample_exact_again(tmp_path):
    clip = make_clip(tmp_path / "aac.mp4", num_frames=24, audio_tracks=1)
    rounded, target = str(tmp_path / "rounded.mkv"), str(tmp_path / "out.mp4")
    restore_like(clip.path, rounded)
    restore_like(rounded, target)
    with av.open(target) as after:
        stream = after.streams.audio[0]
        starts = [packet.pts for packet in after.demux(stream) if packet.size]
        assert stream.time_base == Fraction(1, 48000)
        assert {late - early for early, late in pairwise(starts)} == {1024}


def test_dispositions_are_kept(tmp_path):
    clip = make_clip(tmp_path / "in.mkv", num_frames=6, audio_tracks=2)
    first, second = str(tmp_path / "first.mkv"), str(tmp_path / "second.mkv")
    with av.open(clip.path) as source, av.open(first, "w") as output:
        copies = {stream.index: output.add_stream_from_template(stream, opaque=True) for stream in source.streams}
        copies[1].disposition = av.stream.Disposition.comment
        copies[2].disposition = av.stream.Disposition.default | av.stream.Disposition.forced
        for packet in source.demux():
            if packet.size:
                packet.stream = copies[packet.stream_index]
                output.mux(packet)
    restore_like(first, second)
    with av.open(first) as before, av.open(second) as after:
        kept = [stream.disposition for stream in after.streams]
        assert kept == [stream.disposition for stream in before.streams]
        assert av.stream.Disposition.forced in kept[2]


def test_a_file_without_other_streams_has_nothing_to_report(tmp_path):
    clip = make_clip(tmp_path / "silent.mp4", num_frames=6)
    _, _, report = restore_like(clip.path, str(tmp_path / "out.mp4"))
    assert report.notices == ()
    assert describe(report.outputs[0]).video.num_frames == 6
