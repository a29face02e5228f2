"""Laws of reading a master back: nothing is missing, doubled or late without being noticed."""

from dataclasses import replace
from fractions import Fraction

import pytest

from seedvr2_ray.errors import StorageError
from seedvr2_ray.media.output.timeline import Timeline
from seedvr2_ray.media.output.verify import verify_master
from tests.media.clips import make_clip

RATE = Fraction(24000, 1001)
MEANT = Timeline(pts=tuple(range(12)), time_base=1 / RATE, origin_seconds=Fraction(0), notices=())


@pytest.fixture(scope="module", params=["mp4", "mkv"])
def master(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("verify") / f"a.{request.param}"
    make_clip(path, num_frames=12, rate=RATE, bframes=2)
    return str(path), request.param


def test_what_was_meant_is_found_and_only_rounding_is_reported(master):
    path, container = master
    reasons = [notice.reason for notice in verify_master(path, container, MEANT)]
    assert [reason for reason in reasons if "milliseconds" not in reason] == []
    assert bool(reasons) == (container == "mkv")


@pytest.mark.parametrize("pts", [tuple(range(11)), tuple(range(13))])
def test_a_missing_or_doubled_frame_is_noticed(master, pts):
    with pytest.raises(StorageError, match="came out with 12 frames"):
        verify_master(*master, replace(MEANT, pts=pts))


def test_one_frame_at_a_wrong_time_is_noticed(master):
    finer = tuple(number * 10 + (number == 7) * 4 for number in range(12))
    with pytest.raises(StorageError, match="off its time"):
        verify_master(*master, replace(MEANT, pts=finer, time_base=MEANT.time_base / 10))


def test_a_timeline_that_was_moved_as_a_whole_is_reported(master):
    later = replace(MEANT, pts=tuple(number + 5 for number in MEANT.pts))
    assert any("starts at zero" in notice.reason for notice in verify_master(*master, later))
