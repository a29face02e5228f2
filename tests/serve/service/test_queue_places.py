"""Looks at waiting jobs cost the same however many wait."""

from seedvr2_ray.serve.db.database import Database
from seedvr2_ray.serve.db.job_store import JobStore
from seedvr2_ray.serve.service.queue_places import QueuePlaces
from tests.serve.conftest import HandClock
from tests.serve.job_samples import submit


class Counted(JobStore):
    num_rankings = 0

    def queue_positions(self) -> dict[str, int]:
        self.num_rankings += 1
        return super().queue_positions()


def test_a_thousand_looks_within_a_moment_rank_the_queue_once(database: Database, clock: HandClock) -> None:
    store, now = Counted(database), [0.0]
    places = QueuePlaces(store, now=lambda: now[0])
    waiting = []
    for _ in range(5):
        waiting.append(submit(store))
        clock.pass_by(1)
    for _ in range(200):
        assert [places.of(job) for job in waiting] == [1, 2, 3, 4, 5]
    assert [places.known(job) for job in waiting] == [1, 2, 3, 4, 5]
    assert store.num_rankings == 1
    store.claim("one", lease_seconds=60, limit=2)
    now[0] = 1.0
    assert places.known(waiting[2]) is None
    assert [places.of(job) for job in waiting[2:]] == [1, 2, 3]
    assert places.of(store.get(waiting[0].id)) is None


def test_a_job_that_has_just_come_is_told_a_place_at_once(database: Database, clock: HandClock) -> None:
    store, now = Counted(database), [0.0]
    places = QueuePlaces(store, now=lambda: now[0])
    assert places.of(submit(store)) == 1
    clock.pass_by(1)
    assert places.of(submit(store)) == 2
    assert store.num_rankings == 1
    now[0] = 0.2
    clock.pass_by(1)
    assert places.of(submit(store, "bob")) == 2
    assert store.num_rankings == 2
