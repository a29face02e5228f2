"""Laws of usage records: each counts once, nothing takes them away, and sums add up."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from seedvr2_ray.serve.db.artifact_store import ArtifactStore
from seedvr2_ray.serve.db.database import Database
from seedvr2_ray.serve.db.job_rows import ArtifactKind
from seedvr2_ray.serve.db.job_store import JobStore
from seedvr2_ray.serve.db.usage_store import UsageStore, Use
from seedvr2_ray.serve.jobs import JobState
from tests.serve.conftest import HandClock
from tests.serve.job_samples import held
from tests.serve.racing import at_once

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(database: Database) -> UsageStore:
    return UsageStore(database)


def _use(reference: str, owner: str = "ada", **changes: Any) -> Use:
    values: dict[str, Any] = {
        "job_id": "job_1",
        "model": "nano",
        "gpu_seconds": 2.5,
        "megapixels": 100.0,
        "output_seconds": 4.0,
        "cost": 0.125,
    }
    return Use(reference=reference, owner=owner, **{**values, **changes})


def test_a_record_comes_back_with_its_moment(store: UsageStore, clock: HandClock) -> None:
    assert store.record(_use("a"))
    [use] = store.of_job("job_1")
    assert use == _use("a", at=clock.now)


def test_the_same_work_counts_once_however_often_and_at_once_it_is_reported(store: UsageStore) -> None:
    assert at_once(4, lambda _: store.record(_use("a"))).count(True) == 1
    assert not store.record(_use("a", gpu_seconds=99.0))
    assert store.gpu_seconds("ada", since=LONG_AGO) == 2.5


def test_records_outlive_their_job(store: UsageStore, database: Database) -> None:
    jobs = JobStore(database)
    job = held(jobs, JobState.COMPLETED)
    store.record(_use("a", job_id=job.id))
    jobs.request_delete(job.id, owner="ada")
    ArtifactStore(database).mark_deleted(job.id, *ArtifactKind)
    assert [use.gpu_seconds for use in store.of_job(job.id)] == [2.5]
    assert store.gpu_seconds("ada", since=LONG_AGO) == 2.5


def test_days_are_days_in_utc_and_their_sums_are_the_whole(store: UsageStore, clock: HandClock) -> None:
    clock.now = datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC)
    for number, (owner, seconds) in enumerate([("ada", 0), ("ada", 0.5), ("ada", 1), ("bob", 1)]):
        store.record(_use(str(number), owner, at=clock.now + timedelta(seconds=seconds)))
    days = store.by_day(since=LONG_AGO)
    assert [(day.owner, day.day, day.num_records) for day in days] == [
        ("ada", date(2026, 3, 1), 2),
        ("ada", date(2026, 3, 2), 1),
        ("bob", date(2026, 3, 2), 1),
    ]
    assert (days[0].gpu_seconds, days[0].megapixels, days[0].output_seconds, days[0].cost) == (5.0, 200.0, 8.0, 0.25)
    assert sum(day.gpu_seconds for day in days) == 10.0
    assert [day.day.day for day in store.by_day(owner="ada", since=LONG_AGO)] == [1, 2]
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    assert [day.num_records for day in store.by_day(owner="ada", since=LONG_AGO, until=midnight)] == [2]
    assert [day.owner for day in store.by_day(since=midnight)] == ["ada", "bob"]


def test_device_time_counts_from_a_moment_on_and_per_owner(store: UsageStore, clock: HandClock) -> None:
    store.record(_use("a"))
    clock.pass_by(3600)
    store.record(_use("b"))
    store.record(_use("c", "bob", gpu_seconds=1.0))
    assert store.gpu_seconds("ada", since=clock.now) == 2.5
    assert store.gpu_seconds("nobody", since=LONG_AGO) == 0.0
    assert store.gpu_seconds_by_owner(since=LONG_AGO) == {"ada": 5.0, "bob": 1.0}
    assert store.gpu_seconds_by_owner(since=clock.now + timedelta(seconds=1)) == {}
