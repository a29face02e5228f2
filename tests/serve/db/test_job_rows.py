"""Laws of jobs as rows: what is written comes back, lists and pages, on SQLite and PostgreSQL alike."""

import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest

from seedvr2_ray.errors import InputError
from seedvr2_ray.serve.db.database import Database
from seedvr2_ray.serve.db.job_store import JobStore
from seedvr2_ray.serve.jobs import ErrorInfo, JobState, Progress, Source
from seedvr2_ray.serve.problems import MissingRefusal
from tests.serve.conftest import HandClock
from tests.serve.job_samples import MASTER, held, new_job, submit


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


def test_a_job_comes_back_as_it_was_submitted(store: JobStore, clock: HandClock) -> None:
    new = new_job(
        priority=3,
        estimated_gpu_seconds=12.5,
        webhook_url="https://example.org/hook",
        metadata={"note": "“ü”", "nested": [1, None]},
    )
    job, is_new = store.create(new)
    assert is_new
    assert store.get(job.id) == job
    assert (job.owner, job.source, job.settings, job.priority) == ("ada", new.source, new.settings, 3)
    assert (job.estimated_gpu_seconds, job.webhook_url, job.metadata) == (12.5, new.webhook_url, new.metadata)
    assert (job.state, job.version, job.fence, job.runner, job.result) == (JobState.QUEUED, 1, 0, None, None)
    assert (job.created_at, job.created_at.tzinfo) == (clock.now, UTC)


def test_times_come_back_in_utc_to_the_microsecond_wherever_they_were_taken(store: JobStore, clock: HandClock) -> None:
    clock.now = datetime(2026, 7, 1, 1, 2, 3, 456789, tzinfo=timezone(timedelta(hours=9)))
    job = store.get(submit(store).id)
    assert job.created_at.isoformat() == "2026-06-30T16:02:03.456789+00:00"


def test_what_a_runner_writes_is_what_others_read(store: JobStore) -> None:
    job = held(store)
    progress = Progress(segments_done=1, segments_total=4, frames_done=60, frames_per_second=2.5, seconds_left=30.0)
    source = Source(kind="url", location="https://example.org/a.mov", name="a.mov", num_bytes=7)
    store.note(job.id, job.fence, progress=progress, source=source, content="sha256-1", gpu_seconds=4.0, cost=0.25)
    noted = store.get(job.id)
    assert (noted.progress, noted.source, noted.content) == (progress, source, "sha256-1")
    assert (noted.gpu_seconds, noted.cost) == (4.0, 0.25)
    store.advance(job.id, job.fence, JobState.RESTORING)
    store.advance(job.id, job.fence, JobState.ASSEMBLING)
    ended = store.advance(job.id, job.fence, JobState.COMPLETED, result=MASTER)
    assert store.get(job.id) == ended
    assert (ended.result, ended.progress, ended.runner, ended.lease_until) == (MASTER, progress, None, None)


def test_a_failed_job_says_why_and_when(store: JobStore, clock: HandClock) -> None:
    job = held(store)
    clock.pass_by(5)
    error = ErrorInfo(kind="media", detail="film.mp4 holds no picture", remedy="Replace the file.")
    failed = store.advance(job.id, job.fence, JobState.FAILED, error=error)
    assert (failed.error, failed.finished_at) == (error, clock.now)
    assert failed.started_at == clock.now - timedelta(seconds=5)


def test_what_a_runner_may_not_change_is_refused(store: JobStore) -> None:
    job = held(store)
    with pytest.raises(TypeError, match="cannot change 'owner'"):
        store.note(job.id, job.fence, owner="eve")  # type: ignore[call-arg]


def test_pages_visit_every_job_once_even_while_others_are_submitted(store: JobStore, clock: HandClock) -> None:
    submitted = []
    for number in range(23):
        submitted.append(submit(store).id)
        clock.pass_by(number % 3 == 0)  # Some share a moment.
    visited: list[str] = []
    cursor = None
    while True:
        page = store.list(owner="ada", limit=5, cursor=cursor)
        visited += [job.id for job in page.jobs]
        submit(store)
        clock.pass_by(1)
        if (cursor := page.next_cursor) is None:
            break
    assert sorted(visited) == sorted(submitted)


def test_lists_are_newest_first_and_hold_only_the_states_asked_for(store: JobStore, clock: HandClock) -> None:
    old = held(store, JobState.RESTORING)
    clock.pass_by(1)
    new = submit(store)
    assert [job.id for job in store.list(owner="ada").jobs] == [new.id, old.id]
    assert [job.id for job in store.list(owner="ada", states={JobState.QUEUED}).jobs] == [new.id]
    assert store.list(owner="ada", states=()).jobs == ()
    assert store.list(owner="ada", limit=0) == store.list(owner="ada", limit=1)


def _cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "?", "bm9uc2Vuc2U", "WzEsMl0", "é", "WyIyMDI2LTAxLTAxIiwgImpvYiJd"),
        *(_cursor('["0001-01-01T00:00:00+14:00", "job"]'), _cursor('["9999-12-31T23:59:59-14:00", "job"]')),
        _cursor("[" * 100_000),
    ],
)
def test_a_cursor_that_no_list_gave_is_refused(store: JobStore, cursor: str) -> None:
    with pytest.raises(InputError, match="take next_cursor from the last page"):
        store.list(owner="ada", cursor=cursor)


def test_owners_see_and_stop_only_their_own(store: JobStore) -> None:
    job = submit(store, "ada")
    for call in (store.get, store.request_cancel, store.request_delete):
        with pytest.raises(MissingRefusal, match="there is no job"):
            call(job.id, owner="eve")
    assert store.list(owner="eve").jobs == ()
    assert store.get(job.id, owner="ada") == store.get(job.id) == store.list(owner=None).jobs[0]
    assert store.get(job.id).state is JobState.QUEUED
