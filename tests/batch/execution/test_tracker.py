import random
import sys
from dataclasses import replace
from typing import Any

import pytest

from seedvr2_ray.batch.execution.finishing import PartOrder, PublishOrder
from seedvr2_ray.batch.execution.rows import SegmentResult, VideosRow, take_turns
from seedvr2_ray.batch.execution.tracker import CleaningOrder, VideosInFlight
from seedvr2_ray.batch.execution.videos import Video, VideoOutcome
from seedvr2_ray.batch.manifest.manifest import ManifestRow
from seedvr2_ray.batch.manifest.normalise import source_key
from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.frames import FrameSpan
from seedvr2_ray.restoration.planning.plan import Plan, Recipe, Segment
from seedvr2_ray.restoration.work.failures import Failure
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.address import Fingerprint
from seedvr2_ray.storage.records import Commit
from seedvr2_ray.storage.sources import Pinned

DONE = Commit({}, None, "token")
SET_ASIDE = Failure(stage="restore", error="broken", remedy="replace it")


def video_of(
    number: int,
    num_segments: int,
    *,
    restored: frozenset[str] = frozenset(),
    content: int | None = None,
    kind: str = "",
) -> Video:
    """A planned video without media: of it only the segments matter here.

    Videos of one content share their intermediates, and their parts too where they are masters of one kind.
    """
    content = number if content is None else content

    segments = tuple(
        Segment(
            index=index,
            shot=0,
            span=FrameSpan(10 * index, tuple(range(10 * index, 10 * index + 12))),
            overlap=2 if index else 0,
            part_frames=10,
            address=f"r{content}-{index}",
            part_address=f"p{content}-{index}{kind}",
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
    source = Pinned(url=row.source, content=f"sha256-{content}", version=Fingerprint(f"sha256-{number}", 1, "m"))
    return Video(row=row, source=source, plan=plan, key=f"k{number}", restored=restored, parts=frozenset())


def result_of(video: Video, index: int, *, first: bool = False, **more: Any) -> SegmentResult:
    result = SegmentResult(
        video_number=video.row.number,
        content=video.source.content,
        index=index,
        address=video.plan.segments[index].address,
        part_address=video.plan.segments[index].part_address,
        state="restored",
        num_frames=12,
        seconds=1.0,
        video=video if first else None,
    )
    return replace(result, **more)


def outcome(video: Video) -> VideoOutcome:
    return VideoOutcome(
        number=video.row.number,
        where="",
        source=video.row.source,
        target="",
        state="published",
        content=video.source.content,
    )


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
            waiting += list(in_flight.receive_result(result))
            continue
        order = waiting.pop(chance.randrange(len(waiting)))
        if isinstance(order, PartOrder):
            index = order.segment.index
            assert {index, max(0, index - 1)} <= came, "a part needs its own segment and the one before"
            ordered.append(index)
            waiting += list(in_flight.receive_part(order, DONE))
        else:
            assert sorted(ordered) == list(range(6))
            list(in_flight.receive_published(order.video, outcome(video)))
    assert sorted(ordered) == list(range(6))
    assert in_flight.num_open == 0


def test_a_video_restored_by_an_earlier_run_is_finished_without_segments():
    video = video_of(0, 2, restored=frozenset({"r0-0", "r0-1"}))
    in_flight = VideosInFlight(1)
    orders = list(in_flight.receive_videos(VideosRow(outcomes=(), videos=(video,))))
    assert [order.segment.index for order in orders if isinstance(order, PartOrder)] == [0, 1]


def test_a_failed_segment_sets_its_video_aside_once_and_leaves_the_others_alone():
    one, other = video_of(0, 3), video_of(1, 1)
    in_flight = VideosInFlight(2)
    assert list(in_flight.receive_result(result_of(one, 0, first=True, failure=SET_ASIDE, state="failed"))) == []
    assert list(in_flight.receive_result(result_of(one, 1, failure=SET_ASIDE, state="failed"))) == []
    (order,) = in_flight.receive_result(result_of(other, 0, first=True))
    assert isinstance(order, PartOrder) and order.video_number == 1
    (settled,) = in_flight.take_outcomes()
    assert (settled.number, settled.state, settled.failure) == (0, "quarantined", SET_ASIDE)
    assert in_flight.open_rows() == {1}


def test_a_video_put_off_is_open_for_the_next_pass_and_knows_why():
    video, later = video_of(0, 2), replace(SET_ASIDE, consequence="later")
    in_flight = VideosInFlight(1)
    list(in_flight.receive_result(result_of(video, 0, first=True, failure=later, state="failed")))
    assert list(in_flight.receive_result(result_of(video, 1))) == []
    assert (in_flight.open_rows(), in_flight.failure_of(0)) == ({0}, later)
    in_flight.begin_pass()
    assert len(list(in_flight.receive_result(result_of(video, 0, first=True)))) == 1


def test_a_broken_installation_stops_the_job():
    video = video_of(0, 1)
    stop = replace(SET_ASIDE, consequence="stop")
    with pytest.raises(DeploymentError, match="broken"):
        list(VideosInFlight(1).receive_result(result_of(video, 0, first=True, failure=stop, state="failed")))


def test_a_row_that_comes_back_twice_is_settled_once():
    video = video_of(0, 1)
    in_flight = VideosInFlight(1)
    (part,) = in_flight.receive_result(result_of(video, 0, first=True))
    assert list(in_flight.receive_result(result_of(video, 0, first=True))) == []
    assert isinstance(part, PartOrder)
    (publish,) = in_flight.receive_part(part, DONE)
    assert list(in_flight.receive_part(part, DONE)) == []
    assert isinstance(publish, PublishOrder)
    list(in_flight.receive_published(publish.video, outcome(video)))
    list(in_flight.receive_published(publish.video, outcome(video)))
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


def run_dry(in_flight: VideosInFlight, events: list[Any]) -> tuple[list[Any], list[str]]:
    """Carry out all orders at once; return them, and the intermediates deleted on the way."""
    done, deleted = [], []
    while events:
        order = events.pop(0)
        done.append(order)
        if isinstance(order, PartOrder):
            deleted += order.served.keys()
            events += list(in_flight.receive_part(order, DONE))
        elif isinstance(order, PublishOrder):
            events += list(in_flight.receive_published(order.video, outcome(order.video)))
    return done, deleted


def test_copies_share_every_part_and_the_last_one_cleans_up():
    first, second = video_of(0, 4), video_of(1, 4, content=0)
    in_flight = VideosInFlight(2)
    list(in_flight.receive_videos(VideosRow(outcomes=(), videos=(second,))))
    orders: list[Any] = []
    for index in range(4):
        orders += run_dry(in_flight, list(in_flight.receive_result(result_of(first, index, first=index == 0))))[0]
    for index in range(4):  # Found by the worker, and of no consequence any more.
        assert not list(in_flight.receive_result(result_of(second, index, state="found")))
    assert sorted(order.segment.index for order in orders if isinstance(order, PartOrder)) == [0, 1, 2, 3]
    assert sorted(order.video.row.number for order in orders if isinstance(order, PublishOrder)) == [0, 1]
    assert [order.contents for order in orders if isinstance(order, CleaningOrder)] == [("sha256-0",)]


def test_masters_of_several_kinds_share_intermediates_which_go_when_none_of_them_needs_them():
    first, second = video_of(0, 6), video_of(1, 6, content=0, kind="-prores")
    in_flight = VideosInFlight(2)
    list(in_flight.receive_videos(VideosRow(outcomes=(), videos=(second,))))
    deleted: list[str] = []
    for index in range(6):
        orders, gone = run_dry(in_flight, list(in_flight.receive_result(result_of(first, index, first=index == 0))))
        assert len([order for order in orders if isinstance(order, PartOrder)]) == 2
        deleted += gone
        assert f"r0-{index}" not in deleted, "the next part is blended with it"
    assert deleted == [f"r0-{index}" for index in range(5)][: len(deleted)] and len(deleted) >= 4
    assert in_flight.num_open == 0


def test_intermediates_stay_while_a_row_that_names_their_source_is_not_planned():
    first, second = video_of(0, 3), video_of(1, 3, content=0, kind="-prores")
    second = replace(second, row=replace(second.row, source=first.row.source))
    in_flight = VideosInFlight(2, {source_key(first.row.source): 2})
    for index in range(3):
        orders, gone = run_dry(in_flight, list(in_flight.receive_result(result_of(first, index, first=index == 0))))
        assert gone == []
        assert not [order for order in orders if isinstance(order, CleaningOrder)]
    second = replace(second, restored=frozenset({"r0-0", "r0-1", "r0-2"}))
    orders, _ = run_dry(in_flight, list(in_flight.receive_videos(VideosRow(outcomes=(), videos=(second,)))))
    assert isinstance(orders[-1], CleaningOrder)


@pytest.mark.parametrize("number", [0, 1])
def test_a_failed_segment_fails_every_video_that_needs_it_whichever_was_met_first(number):
    videos = [video_of(0, 3), video_of(1, 3, content=0)]
    in_flight = VideosInFlight(2)
    list(in_flight.receive_videos(VideosRow(outcomes=(), videos=(videos[number],))))
    list(in_flight.receive_result(result_of(videos[0], 1, failure=SET_ASIDE, state="failed")))
    list(in_flight.receive_videos(VideosRow(outcomes=(), videos=(videos[1 - number],))))
    list(in_flight.receive_result(result_of(videos[0], 1, failure=SET_ASIDE, state="failed")))
    assert in_flight.num_open == 0
    assert {each.state for each in in_flight.take_outcomes()} == {"quarantined"}


@pytest.mark.parametrize("keep_work", [False, True])
def test_work_goes_with_its_last_video_except_what_was_set_aside_or_is_to_be_kept(keep_work):
    good, broken = video_of(0, 1), video_of(1, 1, content=0, kind="-prores")
    for failure in (DONE, SET_ASIDE):
        in_flight = VideosInFlight(2, keep_work=keep_work)
        orders = list(in_flight.receive_videos(VideosRow(outcomes=(), videos=(broken,))))
        orders += in_flight.receive_result(result_of(good, 0, first=True))
        of_broken = next(each for each in orders if isinstance(each, PartOrder) and each.video_number == 1)
        orders.remove(of_broken)
        after = list(in_flight.receive_part(of_broken, failure))
        done, _ = run_dry(in_flight, orders + after)
        assert any(isinstance(each, CleaningOrder) for each in done) == (failure is DONE and not keep_work)
        assert in_flight.num_open == 0


def test_the_work_for_an_event_does_not_grow_with_the_length_of_a_video():
    def lines_for(num_segments: int) -> int:
        """Lines of Python that were carried out: the same on every machine."""
        num_lines = 0

        def count(frame, event, argument):
            nonlocal num_lines
            num_lines += event == "line"
            return count

        video = video_of(0, num_segments)
        results = [result_of(video, index, first=index == 0) for index in range(num_segments)]
        in_flight, before = VideosInFlight(1), sys.gettrace()
        sys.settrace(count)
        try:
            for result in results:
                run_dry(in_flight, list(in_flight.receive_result(result)))
        finally:
            sys.settrace(before)
        assert in_flight.num_open == 0
        return num_lines

    short, long = lines_for(50), lines_for(500)
    assert long < 12 * short, "ten times as long a video takes ten times the work, not a hundred"
