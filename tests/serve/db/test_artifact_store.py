"""Laws of what jobs hold: what is due, what is forgotten, and what somebody still needs."""

from datetime import timedelta

import pytest

from seedvr2_ray.serve.db.artifact_store import ArtifactStore
from seedvr2_ray.serve.db.database import Database
from seedvr2_ray.serve.db.job_rows import ArtifactKind
from seedvr2_ray.serve.db.job_store import JobStore
from seedvr2_ray.serve.jobs import JobState
from tests.serve.conftest import HandClock
from tests.serve.job_samples import MASTER, held, submit


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


@pytest.fixture
def artifacts(database: Database) -> ArtifactStore:
    return ArtifactStore(database)


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
    assert artifacts.results_in_use(MASTER.address) == 3
    assert artifacts.results_in_use(MASTER.address, besides=first.id) == 2
    store.request_delete(first.id, owner="ada")
    artifacts.mark_deleted(second.id, ArtifactKind.RESULTS)
    assert artifacts.results_in_use(MASTER.address) == 1
    assert artifacts.results_in_use("sha256-other") == 0


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
