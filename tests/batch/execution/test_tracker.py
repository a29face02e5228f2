import random
from dataclasses import replace
from typing import Any

import pytest

from seedvr2_ray.batch.execution.finishing import PartOrder
from seedvr2_ray.batch.execution.rows import SegmentResult, VideosRow, take_turns
from seedvr2_ray.batch.execution.tracker import VideosInFlight
from seedvr2_ray.batch.execution.videos import Video, VideoOutcome
from seedvr2_ray.batch.manifest.manifest import ManifestRow
from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.frames import FrameSpan
from seedvr2_ray.restoration.planning.plan import Plan, Recipe, Segment
from seedvr2_ray.restoration.work.failures import Failure
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.address import Fingerprint
from seedvr2_ray.storage.sources import Pinned

SET_ASIDE = Failure(stage="restore", error="broken", remedy="replace it")


def video_of(number: int, num_segments: int, *, restored: frozenset[str] = frozenset()) -> Video:
    """A planned video without media: of it only the segments matter here."""

    segments = tuple(
        Segment(
            index=index,
            shot=0,
            span=FrameSpan(10 * index, tuple(range(10 * index, 10 * index + 12))),
            overlap=2 if index else 0,
            part_frames=10,
            address=f"r{number}-{index}",
            part_address=f"p{number}-{index}",
        )
        for index in range(num_segments)
    )
    recipe: Any = object.__new__(Recipe)
    plan = Plan(recipe=recipe, media=None, shots=(0,), segments=segments, notices=())  # type: ignore[arg-type]
    row = ManifestRow(
        number=number,
        where=f"row {number}",
        source=f"{number}.mp4",
        target=f"out/{number}.mp4",
        settings=RestoreSettings(),
    )
    source = Pinned(url=row.source, content=f"sha256-{number}", version=Fingerprint(f"sha256-{number}", 1, "m"))
    return Video(row=row, source=source, plan=plan, key=f"k{number}", restored=restored, parts=frozenset())


def result_of(video: Video, index: int, *, first: bool = False, **more: Any) -> SegmentResult:
    result = SegmentResult(
        video_number=video.row.number,
        index=index,
        address=video.plan.segments[index].address,
        state="restored",
        num_frames=12,
        seconds=1.0,
        video=video if first else None,
    )
    return replace(result, **more)


def outcome(video: Video) -> VideoOutcome:
    return VideoOutcome(number=video.row.number, where="", source="", target="", state="published")


@pytest.mark.parametrize("seed", range(8))
def test_in_whatever_order_segments_come_each_part_is_ordered_once_and_the_video_last(seed):
    video = video_of(0, 6)
    chance = random.Random(seed)
    results = [result_of(video, index, first=index == 0) for index in range(6)]
    chance.shuffle(results)
    in_flight = VideosInFlight(1)
    waiting: list[Any] = []
    ordered: list[int] = []
    came: set[int] = set()
    while results or waiting:
        if results and (not waiting or chance.random() < 0.5):
            result = results.pop()
            came.add(result.index)
            waiting += list(in_flight.take_result(result))
            continue
        order = waiting.pop(chance.randrange(len(waiting)))
        if isinstance(order, PartOrder):
            index = order.segment.index
            assert {index, max(0, index - 1)} <= came, "a part needs its own segment and the one before"
            ordered.append(index)
            waiting += list(in_flight.take_part(order, None))
        else:
            assert sorted(ordered) == list(range(6))
            in_flight.take_published(order, outcome(video))
    assert sorted(ordered) == list(range(6))
    assert in_flight.num_open == 0


def test_a_video_restored_by_an_earlier_run_is_finished_without_segments():
    video = video_of(0, 2, restored=frozenset({"r0-0", "r0-1"}))
    in_flight = VideosInFlight(1)
    orders = list(in_flight.take_videos(VideosRow(outcomes=(), videos=(video,))))
    assert [order.segment.index for order in orders if isinstance(order, PartOrder)] == [0, 1]


def test_a_failed_segment_sets_its_video_aside_once_and_leaves_the_others_alone():
    one, other = video_of(0, 3), video_of(1, 1)
    in_flight = VideosInFlight(2)
    assert list(in_flight.take_result(result_of(one, 0, first=True, failure=SET_ASIDE, state="failed"))) == []
    assert list(in_flight.take_result(result_of(one, 1, failure=SET_ASIDE, state="failed"))) == []
    (order,) = in_flight.take_result(result_of(other, 0, first=True))
    assert isinstance(order, PartOrder) and order.video_number == 1
    (settled,) = in_flight.take_outcomes()
    assert (settled.number, settled.state, settled.failure) == (0, "quarantined", SET_ASIDE)
    assert in_flight.open_rows() == {1}


def test_a_video_put_off_is_open_for_the_next_pass_and_knows_why():
    video, later = video_of(0, 2), replace(SET_ASIDE, consequence="later")
    in_flight = VideosInFlight(1)
    list(in_flight.take_result(result_of(video, 0, first=True, failure=later, state="failed")))
    assert list(in_flight.take_result(result_of(video, 1))) == []
    assert (in_flight.open_rows(), in_flight.failure_of(0)) == ({0}, later)
    in_flight.begin_pass()
    assert len(list(in_flight.take_result(result_of(video, 0, first=True)))) == 1


def test_a_broken_installation_stops_the_job():
    video = video_of(0, 1)
    stop = replace(SET_ASIDE, consequence="stop")
    with pytest.raises(DeploymentError, match="broken"):
        list(VideosInFlight(1).take_result(result_of(video, 0, first=True, failure=stop, state="failed")))


def test_a_row_that_comes_back_twice_is_settled_once():
    video = video_of(0, 1)
    in_flight = VideosInFlight(1)
    (part,) = in_flight.take_result(result_of(video, 0, first=True))
    assert list(in_flight.take_result(result_of(video, 0, first=True))) == []
    assert isinstance(part, PartOrder)
    (publish,) = in_flight.take_part(part, None)
    assert list(in_flight.take_part(part, None)) == []
    assert isinstance(publish, Video)
    in_flight.take_published(publish, outcome(video))
    in_flight.take_published(publish, outcome(video))
    assert len(in_flight.take_outcomes()) == 1


def test_a_long_video_shares_the_workers_with_those_planned_after_it():
    rows = list(take_turns([video_of(0, 1000), video_of(1, 3), video_of(2, 5)], burst=16))
    assert len(rows) == 1008
    assert {row.video_number for row in rows[:60] if not isinstance(row, VideosRow)} == {0, 1, 2}
    for number, length in ((0, 1000), (1, 3), (2, 5)):
        own = [row.segment.index for row in rows if not isinstance(row, VideosRow) and row.video_number == number]
        assert own == list(range(length))


def test_videos_with_nothing_to_restore_travel_together():
    done = [video_of(0, 1, restored=frozenset({"r0-0"})), video_of(1, 1, restored=frozenset({"r1-0"}))]
    settled = VideoOutcome(number=2, where="", source="", target="", state="skipped")
    (row,) = take_turns([*done, settled])
    assert isinstance(row, VideosRow)
    assert ([video.row.number for video in row.videos], row.outcomes) == ([0, 1], (settled,))
