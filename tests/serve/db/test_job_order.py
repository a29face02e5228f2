"""Laws of the order of jobs and of how much there is to do, on SQLite and PostgreSQL alike."""

import random
from collections import Counter

import pytest

from seedvr2_ray.serve.db.database import Database
from seedvr2_ray.serve.db.job_store import JobStore, Load
from seedvr2_ray.serve.jobs import Job, JobState
from seedvr2_ray.serve.problems import RateRefusal
from tests.serve.conftest import HandClock
from tests.serve.job_samples import held, new_job, submit
from tests.serve.racing import at_once


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


def refuse(load: Load) -> None:
    raise RateRefusal(f"{load.num_queued} jobs wait", 5)


def test_arefused_job_leaves_nothing(store: JobStore) -> None:
    with pytest.raises(RateRefusal):
        store.create(new_job(idempotency_key="k"), admit=refuse)
    assert store.list(owner=None).jobs == ()


def test_no_more_jobs_are_admitted_than_allowed_however_many_come_at_once(store: JobStore) -> None:
    def admit(load: Load) -> None:
        if load.num_queued >= 3:
            refuse(load)

    def create(_: int) -> bool:
        try:
            return store.create(new_job(), admit=admit)[1]
        except RateRefusal:
            return False

    assert at_once(8, create).count(True) == 3


def test_the_load_counts_what_is_unfinished(store: JobStore, clock: HandClock) -> None:
    assert store.load("ada") == Load(
        num_queued=0,
        queued_gpu_seconds=0.0,
        remaining_gpu_seconds=0.0,
        num_by_state={},
        oldest_queued_at=None,
        num_unfinished_of_owner=0,
    )
    held(store, JobState.COMPLETED, estimated_gpu_seconds=1000.0)
    running = held(store, JobState.RESTORING, estimated_gpu_seconds=100.0)
    store.note(running.id, running.fence, gpu_seconds=30.0)
    overdue = held(store, JobState.RESTORING, estimated_gpu_seconds=10.0)
    store.note(overdue.id, overdue.fence, gpu_seconds=50.0)
    oldest = submit(store, estimated_gpu_seconds=5.0)
    clock.pass_by(60)
    submit(store, "bob", estimated_gpu_seconds=2.0)
    assert store.load("ada") == Load(
        num_queued=2,
        queued_gpu_seconds=7.0,
        remaining_gpu_seconds=77.0,
        num_by_state={JobState.QUEUED: 2, JobState.RESTORING: 2},
        oldest_queued_at=oldest.created_at,
        num_unfinished_of_owner=3,
        reserved_gpu_seconds_of_owner=155.0,
    )
    assert store.load().num_unfinished_of_owner == 0


def _claimed_one_by_one(store: JobStore, limit: int = 1) -> list[str]:
    order: list[str] = []
    while claimed := store.claim("one", lease_seconds=1000, limit=limit):
        order += [job.id for job in claimed]
    return order


def test_owners_take_turns_and_each_has_his_most_urgent_job_first(store: JobStore, clock: HandClock) -> None:
    names: dict[str, str] = {}
    for name, owner, priority in [
        ("ada 1", "ada", 0),
        ("ada 2", "ada", 0),
        ("ada 3", "ada", 0),
        ("bob 1", "bob", 0),
        ("bob 2", "bob", 0),
        ("cy low", "cy", -5),
        ("cy 1", "cy", 0),
        ("ada high", "ada", 5),
    ]:
        names[submit(store, owner, priority=priority).id] = name
        clock.pass_by(1)
    order = [names[job_id] for job_id in _claimed_one_by_one(store)]
    assert order == ["bob 1", "cy 1", "ada high", "ada 1", "bob 2", "cy low", "ada 2", "ada 3"]


def test_priority_takes_nothing_from_other_owners(store: JobStore, clock: HandClock) -> None:
    for _ in range(30):
        submit(store, "ada", priority=10)
    clock.pass_by(60)
    waiting = submit(store, "bob", priority=-10)
    assert store.queue_position(waiting) == 2
    store.claim("one", lease_seconds=1000, limit=1)
    assert store.queue_position(waiting) == 1


def test_no_owner_holds_every_place_of_the_runners(store: JobStore, clock: HandClock) -> None:
    for _ in range(10):
        submit(store, "ada")
    assert len(store.claim("one", lease_seconds=1000, limit=64, most_per_owner=3)) == 3
    assert store.claim("two", lease_seconds=1000, limit=64, most_per_owner=3) == []
    later = submit(store, "bob")
    assert [job.id for job in store.claim("two", lease_seconds=1000, limit=64, most_per_owner=3)] == [later.id]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_whatever_arrives_when_the_least_served_owner_is_next_with_his_most_urgent_job(
    store: JobStore, clock: HandClock, seed: int
) -> None:
    chance = random.Random(seed)
    waiting: dict[str, Job] = {}
    num_held: Counter[str] = Counter()
    for _ in range(40):
        clock.pass_by(chance.choice([0, 1, 5]))
        if chance.random() < 0.6:
            owner = chance.choice(["ada", "ada", "ada", "bob", "cy"])
            job = submit(store, owner, priority=chance.randint(-10, 10))
            waiting[job.id] = job
            continue
        for claimed in store.claim("one", lease_seconds=10_000, limit=chance.choice([1, 1, 3])):
            own = [job for job in waiting.values() if job.owner == claimed.owner]
            assert num_held[claimed.owner] == min(num_held[job.owner] for job in waiting.values())
            assert claimed.id == min(own, key=lambda job: (-job.priority, job.created_at, job.id)).id
            del waiting[claimed.id]
            num_held[claimed.owner] += 1


@pytest.mark.parametrize(("seed", "limit"), [(0, 1), (0, 4), (1, 1)])
def test_the_place_in_the_queue_is_the_place_in_the_order_of_claims(
    store: JobStore, clock: HandClock, seed: int, limit: int
) -> None:
    chance = random.Random(seed)
    for _ in range(15):
        submit(store, chance.choice(["ada", "bob", "cy"]), priority=chance.choice([-1, 0, 0, 0, 2]))
        clock.pass_by(chance.choice([0, 1]))
    held_already = store.claim("one", lease_seconds=1000, limit=4)
    positions = store.queue_positions()
    assert sorted(positions.values()) == list(range(1, 12))
    for job_id, position in positions.items():
        assert store.queue_position(store.get(job_id)) == position
    assert _claimed_one_by_one(store, limit) == sorted(positions, key=positions.__getitem__)
    assert store.queue_position(store.get(held_already[0].id)) is None


def test_an_owner_with_a_hundred_jobs_does_not_keep_another_waiting(store: JobStore, clock: HandClock) -> None:
    for _ in range(20):
        submit(store, "ada")
        clock.pass_by(1)
    store.claim("one", lease_seconds=1000, limit=3)
    assert store.queue_position(submit(store, "bob")) == 1
