"""Laws of what jobs hold: what is due, what is forgotten, and what somebody still needs."""

from datetime import timedelta

import pytest

from seedvr2_ray.errors import RetryableError
from seedvr2_ray.serve.db.artifact_store import ArtifactStore
from seedvr2_ray.serve.db.database import Database
from seedvr2_ray.serve.db.job_rows import ArtifactKind
from seedvr2_ray.serve.db.job_store import JobStore
from seedvr2_ray.serve.jobs import JobState
from tests.serve.conftest import HandClock
from tests.serve.job_samples import MASTER, held, submit
from tests.serve.racing import at_once


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


@pytest.fixture
def artifacts(database: Database) -> ArtifactStore:
    return ArtifactStore(database)


@pytest.mark.slow
@pytest.mark.parametrize("what", ArtifactKind)
def test_belongings_are_due_once_after_their_time_or_when_the_owner_asks(
    store: JobStore, artifacts: ArtifactStore, clock: HandClock, what: ArtifactKind
) -> None:
    submit(store)
    clock.pass_by(1)
    [running] = store.claim("one", lease_seconds=10_000, limit=1)
    old = held(store, JobState.FAILED)
    clock.pass_by(3600)
    new = held(store, JobState.COMPLETED)
    an_hour_ago = clock.now - timedelta(minutes=30)
    assert [job.id for job in artifacts.expired(what, ended_before=an_hour_ago)] == [old.id]
    store.request_delete(new.id, owner="ada")
    store.request_delete(running.id, owner="ada")
    assert [job.id for job in artifacts.expired(what, ended_before=an_hour_ago)] == [old.id, new.id]
    artifacts.mark_deleted(old.id, what)
    assert [job.id for job in artifacts.expired(what, ended_before=an_hour_ago)] == [new.id]


@pytest.mark.slow
def test_the_row_outlives_the_data_but_forgets_what_was_the_callers(
    store: JobStore, artifacts: ArtifactStore, clock: HandClock
) -> None:
    job = held(store, JobState.COMPLETED, metadata={"to": "aunt"}, webhook_url="https://example.org/?token=1")
    artifacts.mark_deleted(job.id, ArtifactKind.INPUTS)
    artifacts.mark_deleted(job.id, ArtifactKind.INTERMEDIATES)
    assert store.get(job.id).source.location == "upload_1"
    artifacts.mark_deleted(job.id, ArtifactKind.RESULTS)
    rest = store.get(job.id, even_deleted=True)
    assert (rest.deleted_at, rest.owner, rest.gpu_seconds) == (clock.now, "ada", job.gpu_seconds)
    assert (rest.source.location, rest.source.name, rest.webhook_url, rest.metadata) == ("", "", None, {})


def test_a_shared_result_is_in_use_until_the_last_job_goes(store: JobStore, artifacts: ArtifactStore) -> None:
    first, second = (held(store, JobState.ASSEMBLING) for _ in range(2))
    planned = held(store)
    store.note(planned.id, planned.fence, result_address=MASTER.address)
    for job in (first, second):
        store.advance(job.id, job.fence, JobState.COMPLETED, result=MASTER)
    assert not artifacts.begin_discard(MASTER.address, besides=first.id)
    store.request_delete(first.id, owner="ada")
    artifacts.mark_deleted(second.id, ArtifactKind.RESULTS)
    assert not artifacts.begin_discard(MASTER.address, besides=first.id)
    assert artifacts.begin_discard(MASTER.address, besides=planned.id)
    assert artifacts.begin_discard("sha256-other", besides=first.id)


def test_no_job_begins_to_use_a_result_that_is_being_deleted(
    store: JobStore, artifacts: ArtifactStore, clock: HandClock
) -> None:
    job = held(store)
    assert artifacts.begin_discard(MASTER.address, besides="job_gone")
    with pytest.raises(RetryableError, match="being deleted"):
        store.note(job.id, job.fence, result_address=MASTER.address)
    assert store.get(job.id).result_address is None
    store.note(job.id, job.fence, result_address="sha256-other")
    artifacts.end_discard(MASTER.address)
    store.note(job.id, job.fence, result_address=MASTER.address)
    assert not artifacts.begin_discard(MASTER.address, besides="job_gone")


@pytest.mark.slow
def test_a_deletion_that_was_cut_off_does_not_keep_a_result_from_being_made_for_ever(
    store: JobStore, artifacts: ArtifactStore, clock: HandClock
) -> None:
    job = held(store)
    artifacts.begin_discard(MASTER.address, besides="job_gone")
    clock.pass_by(3600)
    store.note(job.id, job.fence, result_address=MASTER.address)


def test_of_whoever_deletes_and_whoever_begins_to_use_only_one_gets_his_way(
    store: JobStore, artifacts: ArtifactStore
) -> None:
    waiting = [held(store) for _ in range(6)]

    def race(number: int) -> str:
        address = f"sha256-{number // 2}"
        if number % 2:
            return "deleted" if artifacts.begin_discard(address, besides="job_gone") else "left"
        try:
            store.note(waiting[number // 2].id, waiting[number // 2].fence, result_address=address)
        except RetryableError:
            return "refused"
        return "used"

    outcomes = at_once(12, race)
    assert len(outcomes) == 12
    pairs = [{outcomes[2 * number], outcomes[2 * number + 1]} for number in range(6)]
    assert all(pair in ({"deleted", "refused"}, {"left", "used"}) for pair in pairs), pairs


def test_only_an_owners_own_earlier_jobs_say_that_a_result_was_his(store: JobStore, artifacts: ArtifactStore) -> None:
    job = held(store)
    store.note(job.id, job.fence, result_address=MASTER.address)
    assert artifacts.has_had("ada", MASTER.address, besides="job_other")
    assert not artifacts.has_had("ada", MASTER.address, besides=job.id)
    assert not artifacts.has_had("bob", MASTER.address, besides="job_other")


def test_intermediates_and_uploads_are_in_use_while_a_job_may_read_them(
    store: JobStore, artifacts: ArtifactStore
) -> None:
    ended, running = held(store), held(store)
    for job in (ended, running):
        store.note(job.id, job.fence, content="sha256-1")
    store.advance(ended.id, ended.fence, JobState.FAILED)
    assert (artifacts.content_in_use("sha256-1"), artifacts.upload_in_use("upload_1")) == (2, 2)
    artifacts.mark_deleted(ended.id, ArtifactKind.INPUTS, ArtifactKind.INTERMEDIATES)
    assert (artifacts.content_in_use("sha256-1"), artifacts.upload_in_use("upload_1")) == (1, 1)
    store.request_delete(running.id, owner="ada")
    assert artifacts.content_in_use("sha256-1", besides=ended.id) == 1
    store.advance(running.id, running.fence, JobState.CANCELLED)
    assert (artifacts.content_in_use("sha256-1"), artifacts.upload_in_use("upload_1")) == (0, 0)
