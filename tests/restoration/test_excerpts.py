"""Laws of excerpts: their frames are the whole's, their time is the source's, and the whole repeats nothing."""

import json
from bisect import bisect_left
from fractions import Fraction
from itertools import pairwise

import av
import pytest
import torch

from seedvr2_ray.errors import InputError
from seedvr2_ray.frames import FrameSpan
from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.reading.decode import decode_span
from seedvr2_ray.restoration.lanczos import LanczosRestorer
from seedvr2_ray.restoration.run import prepare, restore_video
from seedvr2_ray.restoration.work import first_pass
from seedvr2_ray.restoration.work.work_folder import open_work_to_look
from seedvr2_ray.settings import RestoreSettings
from tests.media import clips

pytestmark = pytest.mark.slow

LOSSLESS = {"model": "lanczos", "resolution": "x1", "segment_seconds": 0.5, "segment_overlap": 4, "codec": "ffv1"}
NUM_FRAMES, CUT = 50, 20
IN_A_BLEND = "frames 29-33"
"""Begins among the frames that two segments of the second shot share (28 to 31)."""
STRETCHES = (
    "frames 0-4",
    "frames 20-33",
    "frames 15-19",
    "frames 18-22",
    "frames 28-31",
    IN_A_BLEND,
    "frames 31",
    "frames 49",
    "0.5-1.25",
    "1.5-",
    "-0.25",
)


class CountingRestorer(LanczosRestorer):
    """Adds what depends on the segment, so that blends show, and may stop like a killed process would."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.segments = []
        self.num_batches = 0
        self.stop_after = stop_after

    def restore(self, frames, task):
        self.segments.append(task.first_frame)
        for batch in super().restore(frames, task):
            self.num_batches += 1
            if self.stop_after is not None and self.num_batches > self.stop_after:
                raise KeyboardInterrupt
            batch.data_TCHW.copy_((batch.data_TCHW.int() + task.first_frame % 23).clamp(0, 255).to(torch.uint8))
            yield batch


def restore(source, target, excerpt="", restorer=None, report=False, **settings):
    restorer = restorer or CountingRestorer()
    chosen = RestoreSettings.from_mapping({**LOSSLESS, **settings, "excerpt": excerpt})
    return restore_video(str(source), str(target), chosen, restorer.identity, lambda: restorer, report=report)


def pictures(path):
    media = probe(str(path))
    span = FrameSpan(0, tuple(media.frame_pts))
    return torch.cat([batch.data_TCHW for batch in decode_span(str(path), media.video, span)])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "film.mkv"
    chapters = ((0, 0.5, "one"), (0.5, 1.5, "two"), (1.5, 2, "three"))
    clips.make_clip(path, num_frames=NUM_FRAMES, cuts=(CUT,), audio_tracks=1, subtitles=("eng",), chapters=chapters)
    return path


@pytest.fixture(scope="module")
def whole(clip, tmp_path_factory):
    """The whole, restored by a run that knows of no excerpts: its master, and the segments it restored."""
    restorer = CountingRestorer()
    target = tmp_path_factory.mktemp("whole") / "whole.mkv"
    restore(clip, target, restorer=restorer)
    return target, restorer.segments


@pytest.fixture(scope="module")
def whole_pictures(whole):
    return pictures(whole[0])


@pytest.mark.parametrize("stretch", STRETCHES)
def test_an_excerpt_holds_exactly_the_frames_of_the_whole(clip, whole_pictures, tmp_path, stretch):
    finished = restore(clip, tmp_path / "part.mkv", stretch)
    excerpt = finished.plan.excerpt
    assert finished.plan.media.video.num_frames == excerpt.stop - excerpt.start
    assert torch.equal(pictures(tmp_path / "part.mkv"), whole_pictures[excerpt.start : excerpt.stop])


@pytest.mark.parametrize(
    ("stretch", "frames"),
    [
        ("0.5-1.25", (12, 30)),
        ("-0.25", (0, 6)),
        ("1.5-", (36, 50)),
        ("0.51-0.52", (12, 13)),  # Between two frames: the one that is shown then.
        ("frames 7", (7, 8)),
        ("frames 20 - 49", (20, 50)),
    ],
)
def test_bounds_mean_the_frames_that_are_shown_between_them(clip, tmp_path, stretch, frames):
    plan = planned(clip, tmp_path / "part.mkv", stretch).plan
    assert (plan.excerpt.start, plan.excerpt.stop) == frames


def planned(source, target, excerpt="", **settings):
    chosen = RestoreSettings.from_mapping({**LOSSLESS, **settings, "excerpt": excerpt})
    with open_work_to_look(str(target), None, excerpt_of=str(source) if excerpt else None) as (store, workspace):
        identity = LanczosRestorer().identity
        return prepare(str(source), str(target), chosen, identity, store=store, workspace=workspace)


@pytest.mark.parametrize("stretch", ["frames 22-33", IN_A_BLEND])
def test_after_an_excerpt_the_whole_restores_only_the_rest_and_is_the_same(clip, whole, tmp_path, stretch):
    first, then = CountingRestorer(), CountingRestorer()
    restore(clip, tmp_path / "part.mkv", stretch, restorer=first)
    restore(clip, tmp_path / "whole.mkv", restorer=then)
    assert first.segments
    assert sorted(first.segments + then.segments) == sorted(whole[1])
    assert (tmp_path / "whole.mkv").read_bytes() == whole[0].read_bytes()
    # What was kept for the whole has served.
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("part.mkv", "part.mkv.json", "whole.mkv", "whole.mkv.json")
    ]


def test_a_second_excerpt_repeats_nothing_of_the_first_and_looks_through_the_source_no_more(
    clip, tmp_path, monkeypatch
):
    looks = []
    look = first_pass._look
    monkeypatch.setattr(first_pass, "_look", lambda *args, **kwargs: looks.append(1) or look(*args, **kwargs))
    second = CountingRestorer()
    restore(clip, tmp_path / "a.mkv", "frames 22-33")
    restore(clip, tmp_path / "b.mkv", "frames 22-30", restorer=second)
    restore(clip, tmp_path / "whole.mkv")
    assert second.segments == []
    assert len(looks) == 1


def test_all_segments_and_every_part_that_is_not_trimmed_have_the_addresses_of_the_whole(clip, tmp_path):
    plan = planned(clip, tmp_path / "whole.mkv", codec="h264").plan
    part = planned(clip, tmp_path / "part.mkv", "frames 5-45", codec="h264").plan
    parts = {segment.part_address for segment in plan.segments}
    assert {segment.address for segment in part.segments} <= {segment.address for segment in plan.segments}
    assert [segment.part_address in parts for segment in part.segments] == [
        not (segment.num_skipped or segment.num_dropped) for segment in part.segments
    ]
    assert any(segment.part_address in parts for segment in part.segments)


def test_an_excerpt_that_was_killed_goes_on(clip, whole_pictures, tmp_path):
    resumed = CountingRestorer()
    with pytest.raises(KeyboardInterrupt):
        restore(clip, tmp_path / "part.mkv", "frames 5-45", restorer=CountingRestorer(stop_after=30))
    restore(clip, tmp_path / "part.mkv", "frames 5-45", restorer=resumed)
    assert 0 < len(resumed.segments) < len(planned(clip, tmp_path / "x.mkv", "frames 5-45").plan.segments)
    assert torch.equal(pictures(tmp_path / "part.mkv"), whole_pictures[5:46])


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("start_offset", [0, 2])
def test_sound_that_is_heard_with_a_frame_is_heard_with_it_in_the_excerpt(tmp_path, ending, start_offset):
    source, target = tmp_path / f"film{ending}", tmp_path / f"part{ending}"
    clips.make_clip(source, num_frames=NUM_FRAMES, audio_tracks=1, start_offset=start_offset)
    plan = restore(source, target, "0.5-1.25", codec="h264").plan
    begins = plan.media.frame_pts[0] * plan.media.video.time_base
    heard, there = sound_packets(target), sound_packets(source)
    times = [time for time, _ in there]
    first_picture = probe(str(target)).frame_pts[0] * probe(str(target)).video.time_base
    for time, data in heard:
        place = bisect_left(times, time - first_picture + begins - Fraction(1, 500))
        assert abs(there[place][0] - begins - (time - first_picture)) <= Fraction(1, 500)
        assert there[place][1] == data
    longest = max(after - before for before, after in pairwise(times))
    assert heard[0][0] - first_picture <= longest
    assert Fraction(3, 4) - longest - Fraction(1, 500) <= heard[-1][0] - first_picture + longest
    assert heard[-1][0] - first_picture < Fraction(3, 4)


def sound_packets(path):
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in container.demux(stream) if packet.size]


def test_sound_that_is_encoded_anew_begins_with_the_first_frame(tmp_path):
    clips.make_clip(tmp_path / "film.mkv", num_frames=NUM_FRAMES, audio_tracks=1)
    restore(tmp_path / "film.mkv", tmp_path / "part.webm", "0.5-1.25", codec="av1", preset="12")
    with av.open(str(tmp_path / "part.webm")) as container:
        frames = list(container.decode(audio=0))
    assert abs(frames[0].time) < 0.1
    assert abs(frames[-1].time - 0.75) < 0.1


def test_text_and_chapters_are_cut_where_the_pictures_are(clip, tmp_path):
    restore(clip, tmp_path / "part.mkv", "1-1.75")
    with av.open(str(tmp_path / "part.mkv")) as container:
        chapters = [(c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in container.chapters()]
        text = [packet for packet in container.demux(container.streams.subtitles[0]) if packet.size]
    assert [(float(begin), float(end)) for begin, end in chapters] == [(0, 0.5), (0.5, 0.75)]
    (caption,) = text  # Shown from 0.521 to 1.563 s.
    assert caption.pts == 0
    assert float(caption.duration * caption.time_base) == pytest.approx(0.563, abs=0.002)


def test_frames_of_a_variable_rate_are_shown_for_as_long_as_in_the_source(tmp_path):
    pts = [0, 1, 2, 6, 7, 9, 14, 15, 16, 20, 21, 22]
    source, target = tmp_path / "film.mkv", tmp_path / "part.mkv"
    clips.make_clip(source, num_frames=12, pts=pts, time_base=Fraction(1, 20))
    restore(source, target, "0.25-0.75")  # From the one that is shown at 0.25 s, which began at 0.1 s.
    media = probe(str(target))
    assert [pts * media.video.time_base for pts in media.frame_pts] == [
        0,
        Fraction(1, 5),
        Fraction(1, 4),
        Fraction(7, 20),
        Fraction(3, 5),
    ]
    assert media.duration_seconds == pytest.approx(0.65, abs=0.002)
    assert [clips.read_frame_number(picture) for picture in pictures(target)] == [2, 3, 4, 5, 6]


def test_an_excerpt_of_images_has_one_for_every_frame(clip, tmp_path):
    restore(clip, f"{tmp_path}/frames/", "frames 18-22", codec="png")
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == [
        f"frame_{number:06d}.png" for number in range(1, 6)
    ]


def test_provenance_and_report_say_that_it_is_an_excerpt(clip, tmp_path):
    finished = restore(clip, tmp_path / "part.mkv", "frames 18-30", report=True)
    sidecar = json.loads((tmp_path / "part.mkv.json").read_text())
    assert (sidecar["excerpt"]["first_frame"], sidecar["excerpt"]["last_frame"]) == (18, 30)
    assert sidecar["excerpt"]["of_frames"] == NUM_FRAMES
    assert [segment["segment"] for segment in sidecar["segments"]] == list(range(len(sidecar["segments"])))
    page = (tmp_path / "part.mkv.html").read_text()
    assert "this is an excerpt, frames 18 to 30 of 50" in page
    assert finished.summary()["excerpt"]["of_frames"] == NUM_FRAMES


def test_a_part_that_was_made_for_an_excerpt_is_counted_as_the_whole_counts(clip, tmp_path):
    restore(clip, tmp_path / "part.mkv", "frames 20-49")
    restore(clip, tmp_path / "whole.mkv", report=True)
    segments = json.loads((tmp_path / "whole.mkv.json").read_text())["segments"]
    assert [segment["segment"] for segment in segments] == list(range(len(segments)))


@pytest.mark.parametrize(
    ("stretch", "said"),
    [
        ("3-4", "the video ends at 2.084 s; an excerpt from 3 s to 4 s does not lie in it"),
        ("1-5", "the video ends at 2.084 s"),
        ("2.5-", "the video ends at 2.084 s"),
        ("frames 45-50", "the video has frames 0 to 49; frames 45 to 50 are not all in it"),
    ],
)
def test_an_excerpt_outside_the_video_is_refused_before_anything_is_done(clip, tmp_path, stretch, said):
    with pytest.raises(InputError, match=said):
        restore(clip, tmp_path / "part.mkv", stretch)
    assert list(tmp_path.iterdir()) == []


def test_an_image_has_no_excerpt(tmp_path):
    clips.make_image(tmp_path / "photo.png", pixel_format="rgb24", codec="png")
    with pytest.raises(InputError, match="an image has no stretch of time"):
        restore(tmp_path / "photo.png", tmp_path / "out.png", "frames 0", codec="auto")
