"""Laws of a clock that starts anew: the output's goes on, and pictures and sound stay in step."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import torch

from seedvr2_ray.frames import FrameSpan
from seedvr2_ray.media.container.clock import ClockReader
from seedvr2_ray.media.output.join import join_parts
from seedvr2_ray.media.output.master import plan_master
from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.reading.decode import decode_span
from seedvr2_ray.settings import RestoreSettings
from tests.media.clips import make_clip, read_frame_number
from tests.media.masters import split, video_times, write_parts

HOURS = 36000


def recordings(folder, ending, codec, *, starts):
    """Two recordings, each with sound, put one behind the other; the second counts its pictures from 500."""
    joined = folder / f"joined.{ending}"
    for number, start in enumerate(starts):
        part = folder / f"{number}.{ending}"
        make_clip(
            part,
            codec=codec,
            num_frames=30,
            rate=25,
            bframes=2 if codec != "flv" else 0,
            audio_tracks=1 if ending != "flv" else 0,
            start_offset=start,
            first_number=500 * number,
        )
        data = part.read_bytes()
        with joined.open("ab") as file:
            file.write(data[13:] if ending == "flv" and number else data)
    return joined


def sound_times(path):
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size and packet.pts is not None]
        return [packet.pts * packet.time_base for packet in packets]


def joined_master(path, target):
    media = probe(str(path))
    settings = RestoreSettings(resolution="x1", preset="ultrafast")
    master, _ = plan_master(media, settings, width=media.video.width, height=media.video.height, target=str(target))
    parts = write_parts(Path(target).parent, master, split(media.video.num_frames))
    report = join_parts(
        parts, master=master, source_path=str(path), media=media, frame_pts=media.frame_pts, target_path=str(target)
    )
    return media, report


KINDS = [("ts", "h264", (0, 0)), ("ts", "h264", (5, 2)), ("ts", "h264", (0, HOURS)), ("vob", "mpeg2", (0, 0))]


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "codec", "starts"), [*KINDS, ("flv", "flv", (0, 0))])
def test_recordings_joined_end_to_end_go_on_at_their_rate(tmp_path, ending, codec, starts):
    media = probe(str(recordings(tmp_path, ending, codec, starts=starts)))
    assert media.video.num_frames == 60
    assert media.video.frame_rate == 25 and not media.video.is_variable_rate
    assert media.duration_seconds == Fraction(60, 25)
    assert ("converted", "clock") in {(notice.outcome, notice.subject) for notice in media.preflight}
    span = FrameSpan(28, tuple(media.frame_pts[28:33]))
    found = torch.cat([batch.data_TCHW for batch in decode_span(media.path, media.video, span)])
    assert [read_frame_number(frame_CHW) for frame_CHW in found] == [28, 29, 500, 501, 502]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "codec", "starts", "container"),
    [
        (*KINDS[0], "mp4"),
        *(pytest.param(*kind, "mkv", marks=pytest.mark.slow) for kind in KINDS),
        *(pytest.param(*kind, "mp4", marks=pytest.mark.slow) for kind in KINDS[1:]),
    ],
)
def test_sound_keeps_its_distance_to_the_pictures_of_its_own_recording(tmp_path, ending, codec, starts, container):
    path = recordings(tmp_path, ending, codec, starts=starts)
    target = tmp_path / f"out.{container}"
    joined_master(path, target)
    shown, heard = video_times(str(target)), sound_times(target)
    assert len(shown) == 60
    assert all(early < late for early, late in pairwise(heard))
    for number, first in ((0, 0), (1, 30)):
        part = tmp_path / f"{number}.{ending}"
        expected = [time - video_times(str(part))[0] for time in sound_times(part)]
        found = [time - shown[first] for time in heard]
        own = found[: len(expected)] if number == 0 else found[-len(expected) + 3 :]
        assert own == pytest.approx(expected[-len(own) :], abs=0.003)


def reader(*stamps, container="mpegts"):
    clock = ClockReader(container, Fraction(1, 1000), Fraction(40))
    for number, stamp in enumerate(stamps):
        clock.accept(SimpleNamespace(pts=stamp, dts=stamp, pos=1000 * number))
    return clock.changes()


def test_a_clock_that_goes_on_does_not_change():
    assert reader(*range(0, 4000, 40)) == ()
    assert reader(0, 40, 100_000, 100_040) == ()  # a gap
    assert reader(0, 40, 10**8, 10**8 + 40, container="matroska,webm") == ()  # meant so
    assert reader(1000, 1040, 1030, 1080) == ()  # rounding


def test_a_clock_that_falls_or_leaps_by_hours_follows_the_one_before():
    (change,) = reader(1000, 1040, 0, 40)
    assert (change.position, change.shift, change.start) == (2000, Fraction(1080, 1000), Fraction(1080, 1000))
    (change,) = reader(1000, 1040, 10**8, 10**8 + 40)
    assert change.shift == Fraction(1080 - 10**8, 1000)


def test_a_single_stray_time_moves_nothing_behind_it():
    stray, back = reader(5000, 5040, 0, 5120, 5160)
    assert stray.shift == Fraction(5080, 1000)
    assert back.shift == 0
