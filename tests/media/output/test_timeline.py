import io
from fractions import Fraction

import av
import pytest

from seedvr2_ray.media.output.timeline import plan_timeline
from tests.media.masters import a_master, a_source

NTSC = Fraction(30000, 1001)
MILLISECONDS = Fraction(1, 1000)


@pytest.fixture
def source():
    """Some open file: only the name of its format and its streams' starts matter here."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as output:
        stream = output.add_stream("ffv1", rate=24)
        stream.width, stream.height = 16, 16
        output.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        output.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer) as opened:
        yield opened


def plan(source, pts, *, rate, time_base, container="mp4", variable=False):
    media = a_source(pts=pts, frame_rate=rate, time_base=time_base, is_variable_rate=variable)
    master = a_master(container=container, frame_rate=rate, time_base=time_base)
    return plan_timeline(source, media, master, pts)


@pytest.mark.parametrize("container", ["mp4", "mkv"])
@pytest.mark.parametrize("pts", [[0, 1001, 2002], [-1001, 0, 1001], [7, 1008, 2009]])
def test_times_that_are_exact_already_are_left_alone(source, pts, container):
    timeline = plan(source, pts, rate=NTSC, time_base=Fraction(1, 30000), container=container)
    assert (list(timeline.pts), timeline.time_base, timeline.notices) == (pts, Fraction(1, 30000), ())


def test_milliseconds_of_a_constant_rate_go_back_onto_its_grid(source):
    pts = [round(index * 1000 / NTSC) for index in range(300)]
    timeline = plan(source, pts, rate=NTSC, time_base=MILLISECONDS)
    assert [tick * timeline.time_base for tick in timeline.pts] == [index / NTSC for index in range(300)]
    assert len(timeline.notices) == 1


@pytest.mark.parametrize("pts", [[0, 33, 67, 500, 533], [0, 33, 67, 105, 133]])
def test_times_off_the_grid_are_kept_even_if_the_rate_is_called_constant(source, pts):
    timeline = plan(source, pts, rate=NTSC, time_base=MILLISECONDS)
    assert (list(timeline.pts), timeline.time_base) == (pts, MILLISECONDS)


def test_a_variable_rate_is_kept(source):
    pts = [round(index * 1000 / NTSC) for index in range(30)]
    timeline = plan(source, pts, rate=NTSC, time_base=MILLISECONDS, variable=True)
    assert (list(timeline.pts), timeline.notices) == (pts, ())


def test_avi_counts_frames(source):
    timeline = plan(source, [500, 542, 583], rate=Fraction(24), time_base=MILLISECONDS, container="avi")
    assert (timeline.pts, timeline.time_base, timeline.origin_seconds) == ((0, 1, 2), Fraction(1, 24), Fraction(1, 2))
    assert [notice.subject for notice in timeline.notices] == ["timestamps", "timestamps"]


def test_a_frame_lasts_at_least_one_tick(source):
    timeline = plan(source, [0, 1], rate=Fraction(5000), time_base=MILLISECONDS, variable=True)
    assert timeline.step(Fraction(5000)) == 1
    assert timeline.step(Fraction(25)) == 40
