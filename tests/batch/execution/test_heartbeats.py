from collections.abc import Mapping

import pytest

from seedvr2_ray.batch.execution.heartbeats import Heartbeats, Kind, Watch, at_work

PATIENCE = 100.0


class Scene:
    """A watch whose clock and whose workers' heartbeats are set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.quiet: Mapping[Kind, float] | None = {}
        self.num_questions = 0
        self.watch = Watch(self._ask, PATIENCE, lambda: self.now)

    def _ask(self) -> Mapping[Kind, float] | None:
        self.num_questions += 1
        return self.quiet

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_work_is_stuck_only_after_nobody_gave_a_sign_for_long(scene: Scene) -> None:
    scene.passes(PATIENCE - 1)
    assert not scene.watch.is_stuck()
    scene.passes(2)
    assert scene.watch.is_stuck()
    assert not scene.watch.is_stuck(times=2)
    scene.passes(PATIENCE)
    assert scene.watch.is_stuck(times=2)


def test_what_comes_in_or_is_finished_is_a_sign(scene: Scene) -> None:
    scene.passes(PATIENCE - 1)
    scene.watch.received("plan")
    scene.passes(PATIENCE - 1)
    assert not scene.watch.is_stuck()
    scene.watch.received("finish")
    scene.passes(PATIENCE - 1)
    assert not scene.watch.is_stuck()
    scene.passes(2)
    assert scene.watch.is_stuck()


@pytest.mark.parametrize("kind", ["plan", "restore", "finish"])
def test_a_segment_that_takes_hours_is_not_stuck_while_its_process_says_so(scene: Scene, kind: Kind) -> None:
    for _ in range(1000):
        scene.passes(30)
        scene.quiet = {kind: 3.0}
        assert not scene.watch.is_stuck()
    scene.quiet = {kind: PATIENCE + 30}
    scene.passes(PATIENCE + 30)
    assert scene.watch.is_stuck()


def test_nobody_who_can_be_asked_proves_nothing(scene: Scene) -> None:
    scene.quiet = None
    for _ in range(10):
        scene.passes(PATIENCE)
        assert not scene.watch.is_stuck()


def test_workers_are_asked_seldom(scene: Scene) -> None:
    scene.passes(PATIENCE)
    for _ in range(100):
        scene.passes(0.2)
        scene.watch.is_stuck()
    assert 5 <= scene.num_questions <= 10


def test_tasks_that_finish_are_stuck_only_when_there_is_something_to_finish(scene: Scene) -> None:
    for _ in range(10):
        scene.passes(50)
        scene.quiet = {"restore": 1.0}
        assert not scene.watch.is_finishing_stuck(is_wanted=False)
    scene.passes(PATIENCE - 1)
    assert not scene.watch.is_finishing_stuck(is_wanted=True)
    scene.passes(2)
    assert scene.watch.is_finishing_stuck(is_wanted=True)
    assert not scene.watch.is_stuck()
    scene.quiet = {"finish": 1.0}
    scene.passes(5)
    assert not scene.watch.is_finishing_stuck(is_wanted=True)


def test_a_new_pass_begins_with_all_patience(scene: Scene) -> None:
    scene.passes(PATIENCE + 1)
    assert scene.watch.is_stuck()
    scene.watch.begin()
    assert not scene.watch.is_stuck()
    assert not scene.watch.is_finishing_stuck(is_wanted=True)


def test_heartbeats_are_kept_by_kind() -> None:
    heartbeats = Heartbeats()
    assert heartbeats.quiet_seconds() == {}
    heartbeats.heartbeat("restore")
    assert set(heartbeats.quiet_seconds()) == {"restore"}
    assert 0 <= heartbeats.quiet_seconds()["restore"] < 5


def test_work_outside_ray_says_nothing() -> None:
    with at_work("no-such-run", "restore", 1.0):
        pass
