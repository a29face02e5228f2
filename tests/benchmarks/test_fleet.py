"""Laws of the simulated fleet: nothing is lost for good, time is not made of nothing, stages bend where they must."""

import random
from dataclasses import replace

import pytest

from benchmarks.fleet import Assumptions, Node, Pool, Video, make_archive, simulate

QUIET = replace(Assumptions(), variation=0.0, ramp_seconds=0.0, idle_seconds=0.0)


@pytest.fixture(scope="module")
def archive() -> list[Video]:
    return make_archive(300, Assumptions(), random.Random(3))


def test_one_video_takes_as_long_as_arithmetic_says():
    outcome = simulate([Video(10, False)], 16, QUIET, is_spot=False)
    planned = 10 * 240 / 250
    restored = max(planned, QUIET.start_seconds) + 2 * 240 * QUIET.gpu_seconds_1080p  # Ten segments on eight GPUs.
    assert outcome.days * 86400 == pytest.approx(restored + 240 / 40, rel=0.1)


@pytest.mark.slow
def test_work_is_neither_lost_nor_invented(archive):
    seconds = sum(
        each.num_segments * 240 * (QUIET.gpu_seconds_2160p / 0.85 if each.is_2160p else QUIET.gpu_seconds_1080p)
        for each in archive
    )
    for is_spot in (False, True):
        outcome = simulate(archive, 64, replace(QUIET, spot_hours=0.5), is_spot=is_spot)
        assert outcome.gpu_busy * outcome.days * 86400 * 64 == pytest.approx(seconds, rel=2e-3)
        assert (outcome.num_lost_segments > 0) == is_spot == (outcome.gpu_lost > 0)


@pytest.mark.parametrize("is_spot", [False, True])
def test_every_segment_of_a_pool_ends_once_and_in_order(is_spot):
    chance = random.Random(5)
    assumed = replace(Assumptions(), spot_hours=0.05)
    node = Node(0.0, assumed, chance if is_spot else None)
    pool = Pool([node] * 8, 30.0, 1)
    released = [(float(number), number) for number in range(500)]
    ends = list(pool.restore(released, assumed, chance))
    assert sorted(number for _, number in ends) == list(range(500))
    assert [end for end, _ in ends] == sorted(end for end, _ in ends)
    assert (pool.num_lost > 0) == is_spot


def test_a_node_is_there_between_its_losses_only():
    node = Node(10.0, Assumptions(), random.Random(1))
    assert node.up_from(0.0) == 10.0
    for _ in range(20):
        lost = node.lost_after(node.up_from(0.0))
        assert node.up_from(lost) >= lost + Assumptions().back_seconds
        assert node.up_from(lost - 1e-6) == lost - 1e-6


@pytest.mark.slow
def test_the_same_fleet_twice_is_the_same(archive):
    assert simulate(archive, 64, QUIET, is_spot=True) == simulate(archive, 64, QUIET, is_spot=True)


@pytest.mark.slow
def test_more_gpus_are_faster_until_another_stage_bends(archive):
    small, large = (simulate(archive, num_gpus, QUIET, is_spot=False) for num_gpus in (64, 256))
    assert large.days < small.days / 2
    slow_driver = replace(QUIET, driver_seconds=2.0)
    bent = [simulate(archive, num_gpus, slow_driver, is_spot=False) for num_gpus in (256, 1024)]
    assert [each.bend for each in bent] == ["driver", "driver"]
    assert bent[1].days == pytest.approx(bent[0].days, rel=0.1)
    assert bent[1].gpu_busy < bent[0].gpu_busy / 3
