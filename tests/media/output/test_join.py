import os
from fractions import Fraction
from pathlib import Path

import av
import pytest

from seedvr2_ray.errors import StorageError
from seedvr2_ray.media.output.join import join_parts
from seedvr2_ray.media.output.master import plan_master
from seedvr2_ray.settings import RestoreSettings
from tests.media.clips import make_clip, read_frame_number
from tests.media.masters import (
    a_source,
    decoded,
    describe,
    payloads,
    restore_like,
    video_times,
    write_parts,
)

QUICK_PAIRS = [
    ("mp4", "h264", {"preset": "medium"}),
    ("mkv", "h264", {}),
    ("mp4", "hevc", {"bit_depth": 10}),
    ("mov", "prores", {}),
    ("avi", "ffv1", {}),
]
SLOW_PAIRS = [
    ("mov", "h264", {"preset": "slow"}),
    ("mp4", "h264", {"bit_depth": 10}),
    ("mkv", "hevc", {"preset": "medium"}),
    ("mov", "hevc", {"bit_depth": 12}),
    ("mp4", "av1", {}),
    ("mkv", "av1", {"bit_depth": 10}),
    ("webm", "av1", {}),
    ("mkv", "prores", {}),
    ("mov", "prores4444", {}),
    ("mkv", "prores4444", {}),
    ("mkv", "ffv1", {"bit_depth": 12}),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("join") / "source.mp4"
    make_clip(path, num_frames=24, bframes=2, audio_tracks=1, rate=Fraction(24000, 1001))
    return str(path)


@pytest.mark.parametrize(
    ("container", "codec", "settings"),
    [*QUICK_PAIRS, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW_PAIRS)],
)
def test_a_join_is_the_parts_one_after_another(container, codec, settings, source, tmp_path):
    target = str(tmp_path / f"out.{container}")
    _, parts, report = restore_like(source, target, codec=codec, **settings)
    assert decoded(target) == [picture for part in parts for picture in decoded(part)]
    assert report.num_frames == 24
    # Matroska has milliseconds, and no time before zero for the silence with which AAC begins.
    tick, lead = {
        "mkv": (Fraction(1, 1000), Fraction(21, 1000)),
        "webm": (Fraction(1, 1000), Fraction(0)),
    }.get(container, (Fraction(0), Fraction(0)))
    assert any("starts at zero" in notice.reason for notice in report.converted) == (lead > 0)
    for index, time in enumerate(video_times(target)):
        assert abs(time - lead - index * Fraction(1001, 24000)) <= tick
    if container not in ("webm", "avi"):  # These cannot hold AAC; see test_streams.
        assert payloads(target, "audio") == payloads(source, "audio")


@pytest.mark.parametrize(("container", "codec"), [("mp4", "h264"), ("mkv", "h264"), ("mov", "hevc")])
def test_seeking_to_any_frame_shows_that_frame(container, codec, source, tmp_path):
    target = str(tmp_path / f"out.{container}")
    restore_like(source, target, codec=codec, preset="fast")
    times = video_times(target)
    with av.open(target) as opened:
        stream = opened.streams.video[0]
        for number in (0, 7, 8, 9, 16, 23, 3):
            opened.seek(int(times[number] / stream.time_base), stream=stream)
            frame = next(f for f in opened.decode(stream) if f.pts * stream.time_base >= times[number])
            assert read_frame_number(frame.to_ndarray(format="rgb24").transpose(2, 0, 1)) == number


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_variable_times_are_kept(container, tmp_path):
    ticks = [0, 40, 80, 200, 210, 221, 400, 440, 1000, 1033, 1066, 1100]
    clip = make_clip(
        tmp_path / "vfr.mkv", num_frames=12, pts=ticks, time_base=Fraction(1, 1000), bframes=2, audio_tracks=1
    )
    target = str(tmp_path / f"out.{container}")
    _, _, report = restore_like(clip.path, target, described={"is_variable_rate": True}, codec="h264", preset="medium")
    assert video_times(target) == [Fraction(tick, 1000) for tick in ticks]
    assert not report.converted


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
def test_a_start_offset_keeps_sound_and_picture_together(container, tmp_path):
    clip = make_clip(tmp_path / "late.mkv", num_frames=12, start_offset=Fraction(1, 2), time_base=Fraction(1, 24),
                     audio_tracks=1, audio_offset=Fraction(1, 4))  # fmt: skip
    target = str(tmp_path / f"out.{container}")
    restore_like(clip.path, target)
    with av.open(target) as opened:
        picture, sound = (next(opened.demux(s)) for s in (opened.streams.video[0], opened.streams.audio[0]))
        assert picture.pts * picture.time_base == Fraction(1, 2)
        assert sound.pts * sound.time_base == Fraction(3, 4)


def test_a_rate_that_matroska_rounded_is_exact_again_in_mp4(tmp_path):
    clip = make_clip(tmp_path / "ntsc.mkv", num_frames=24, rate=Fraction(30000, 1001))
    target = str(tmp_path / "out.mp4")
    _, _, report = restore_like(clip.path, target, described={"frame_rate": Fraction(30000, 1001)})
    assert video_times(target) == [index * Fraction(1001, 30000) for index in range(24)]
    assert [notice.subject for notice in report.converted] == ["timestamps"]


def test_a_transport_stream_starts_at_zero(tmp_path):
    clip = make_clip(tmp_path / "live.ts", num_frames=12, audio_tracks=1, start_offset=Fraction(90), rate=25)
    target = str(tmp_path / "out.mkv")
    _, _, report = restore_like(clip.path, target)
    before, after = video_times(clip.path), video_times(target)
    assert 0 <= after[0] < Fraction(1, 2)
    assert all(abs((b - before[0]) - (a - after[0])) <= Fraction(1, 1000) for b, a in zip(before, after, strict=True))
    assert any("earlier" in notice.reason for notice in report.converted)


def test_joining_twice_gives_the_same_bytes(source, tmp_path):
    target = tmp_path / "out.mp4"
    restore_like(source, str(target), codec="h264", preset="fast")
    first = target.read_bytes()
    restore_like(source, str(target), codec="h264", preset="fast")
    assert target.read_bytes() == first


def test_a_missing_or_surplus_frame_is_refused_and_leaves_no_file(source, tmp_path):
    target = str(tmp_path / "out.mp4")
    master, parts, _ = restore_like(source, target)
    os.unlink(target)
    media = describe(source)
    for some in (parts[:-1], [*parts, parts[0]]):
        with pytest.raises(StorageError, match="24"):
            join_parts(
                some, master=master, source_path=source, media=media, frame_pts=media.frame_pts, target_path=target
            )
        assert not Path(target).exists()


def test_parts_of_different_masters_are_refused(source, tmp_path):
    target = str(tmp_path / "out.mp4")
    master, parts, _ = restore_like(source, target, preset="ultrafast")
    (tmp_path / "other").mkdir()
    _, others, _ = restore_like(source, str(tmp_path / "other" / "out.mp4"), preset="slow")
    media = describe(source)
    with pytest.raises(StorageError, match="other parameters"):
        join_parts(
            [parts[0], *others[1:]],
            master=master,
            source_path=source,
            media=media,
            frame_pts=media.frame_pts,
            target_path=target,
        )
    assert not Path(target).exists()


def test_colour_is_tagged_in_the_output(source, tmp_path):
    for container in ("mp4", "mkv"):
        target = str(tmp_path / f"out.{container}")
        master, _, _ = restore_like(source, target)
        with av.open(target) as opened:
            context = opened.streams.video[0].codec_context
            assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)
            assert opened.streams.video[0].average_rate == master.frame_rate


def test_images_of_a_sequence_are_numbered_from_one(tmp_path):
    media = a_source(pts=range(5))
    target = str(tmp_path / "frames" / "shot_%03d.png")
    master, _ = plan_master(media, RestoreSettings(), width=96, height=64, target=target)
    parts = write_parts(tmp_path, master, [2, 3])
    report = join_parts(
        parts, master=master, source_path="", media=media, frame_pts=media.frame_pts, target_path=target
    )
    assert [Path(path).name for path in report.outputs] == [f"shot_{number:03d}.png" for number in range(1, 6)]
    for number, path in enumerate(report.outputs):
        with av.open(path) as image:
            frame = next(image.decode(video=0))
            assert read_frame_number(frame.to_ndarray(format="rgb24").transpose(2, 0, 1)) == number


def test_names_with_colons_and_tags_in_other_encodings_are_joined_like_any(tmp_path, monkeypatch):
    """libav takes what precedes a colon for a protocol, and old tags are not always UTF-8."""
    monkeypatch.chdir(tmp_path)
    make_clip("plain.avi", codec="mpeg4", num_frames=6, audio_tracks=1, metadata={"title": "Caf#"})
    Path("10:30.avi").write_bytes(Path("plain.avi").read_bytes().replace(b"Caf#", b"Caf\xe9"))
    restore_like("10:30.avi", "out:1.mkv")
    assert len(decoded("file:out:1.mkv")) == 6
    with av.open("file:out:1.mkv") as written:
        assert written.metadata["title"] == "Caf\N{REPLACEMENT CHARACTER}"
        assert [stream.type for stream in written.streams] == ["video", "audio"]
