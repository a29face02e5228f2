import itertools
import random

import pytest

from seedvr2_ray.frames import FrameSpan
from seedvr2_ray.restoration.planning.plan import Segment
from seedvr2_ray.restoration.work.remaining import is_needed, plan_work


def video(overlaps):
    """Segments of which those with an overlap blend with the one before."""
    return [
        Segment(
            index=index,
            shot=0,
            span=FrameSpan(index * 10, tuple(range(12))),
            overlap=overlap,
            part_frames=10,
            address=f"r{index}",
            part_address=f"p{index}",
        )
        for index, overlap in enumerate(overlaps)
    ]


def served(segments, restored, parts):
    """Intermediates that lie there and may go."""
    return [
        segment.index
        for segment in segments
        if segment.address in restored and not is_needed(segments, segment.index, parts)
    ]


VIDEOS = [video(overlaps) for overlaps in itertools.product((0, 2), repeat=4) if overlaps[0] == 0]


@pytest.mark.parametrize("segments", VIDEOS)
def test_any_order_of_work_ends_with_all_parts_and_nothing_restored_twice(segments):
    for seed in range(10):
        rng = random.Random(seed)
        restored, parts, history = set(), set(), []
        while not (work := plan_work(segments, restored, parts)).is_done:
            choices = [("restore", i) for i in work.to_restore] + [("finish", i) for i in work.to_finish]
            choices += [("discard", i) for i in served(segments, restored, parts)]
            step, index = rng.choice(choices)
            history.append((step, index))
            if step == "restore":
                restored.add(segments[index].address)
            elif step == "finish":
                parts.add(segments[index].part_address)
            else:
                restored.remove(segments[index].address)
        assert parts == {segment.part_address for segment in segments}
        assert len(history) == len(set(history))


def test_an_intermediate_is_kept_until_its_successor_is_blended_with_it():
    segments = video([0, 2])
    assert served(segments, {"r0", "r1"}, {"p0"}) == []
    assert served(segments, {"r0", "r1"}, {"p0", "p1"}) == [0, 1]


def test_a_segment_whose_parts_are_all_there_is_not_restored_again():
    segments = video([0, 2, 0])
    assert plan_work(segments, set(), {"p0", "p1"}).to_restore == (2,)
    assert plan_work(segments, set(), {"p0", "p2"}).to_restore == (0, 1)
