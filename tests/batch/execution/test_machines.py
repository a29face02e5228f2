"""A process that went with its machine did not die of its work. Ray is asked for its machines; there is none here."""

import pytest
import ray

from seedvr2_ray.batch.execution import machines


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = [("a", True), ("b", False), ("c", True)]
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": name, "Alive": is_alive} for name, is_alive in alive])


@pytest.mark.usefixtures("nodes")
def test_attempts_on_machines_that_are_gone_are_not_deaths():
    lost = [{"machine": "b"}, {"machine": "preempted-long-ago"}, {"machine": "b"}]
    assert machines.losses_in(lost) == machines.Losses(0, ("b", "preempted-long-ago", "b"))
    assert machines.losses_in([*lost, {"machine": "a"}, {"machine": "c"}]).deaths == 2


def test_without_ray_every_attempt_that_was_left_is_a_death(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert machines.this_machine() == {}
    assert machines.losses_in([{}, {"machine": "b"}]).deaths == 2
