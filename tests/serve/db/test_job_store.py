"""Laws of the job store, on SQLite and PostgreSQL alike: who holds a job, what may be written, what is forgotten."""

import random
from datetime import timedelta

import pytest

from seedvr2_ray.serve.db.artifact_store import ArtifactStore
from seedvr2_ray.serve.db.database import Database
from seedvr2_ray.serve.db.job_rows import ArtifactKind
from seedvr2_ray.serve.db.job_store import JobStore, LeaseLost
from seedvr2_ray.serve.jobs import TRANSITIONS, Job, JobState, Progress
from seedvr2_ray.serve.problems import ConflictRefusal, GoneRefusal
from tests.serve.conftest import HandClock
from tests.serve.job_samples import WAYS, held, new_job, submit
from tests.serve.racing import at_once

ACTIVE = [state for state in JobState if state.is_active]


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


def _lost(store: JobStore, job: Job) -> bool:
    """Try to write with a job's fence."""
    before = store.get(job.id, even_deleted=True)
    try:
        store.note(job.id, job.fence, progress=Progress(frames_done=before.progress.frames_done + 1))
    except LeaseLost:
        assert store.get(job.id, even_deleted=True) == before
        return True
    return False


# Who holds a job


def test_runners_that_claim_at_once_never_get_the_same_job(store: JobStore) -> None:
    waiting = {submit(store, owner=f"owner {number % 3}").id for number in range(24)}

    def claim_all(index: int) -> list[str]:
        mine: list[str] = []
        while claimed := store.claim(f"runner {index}", lease_seconds=15, limit=2):
            mine += [job.id for job in claimed]
            assert all(job.runner == f"runner {index}" and job.fence == 1 for job in claimed)
        return mine

    taken = [job_id for mine in at_once(4, claim_all) for job_id in mine]
    assert len(taken) == len(set(taken))
    # On PostgreSQL a runner leaves out rows that another one is about to take, and may see nothing for a moment.
    taken += [job.id for job in store.claim("last", lease_seconds=15, limit=24)]
    assert sorted(taken) == sorted(waiting)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_whatever_runners_do_only_the_last_who_got_a_job_can_write(
    store: JobStore, clock: HandClock, seed: int
) -> None:
    chance = random.Random(seed)
    everything = [submit(store).id for _ in range(4)]
    claims: dict[str, list[Job]] = {job_id: [] for job_id in everything}
    for _ in range(40):
        runner = chance.choice(["one", "two", "three"])
        mine = {job_id: past[-1] for job_id, past in claims.items() if past and past[-1].runner == runner}
        match chance.randrange(4):
            case 0:
                for job in store.claim(runner, lease_seconds=10, limit=chance.randint(1, 3)):
                    claims[job.id].append(job)
            case 1:
                store.renew(runner, {job_id: job.fence for job_id, job in mine.items()}, lease_seconds=10)
            case 2:
                clock.pass_by(chance.choice([1, 4, 11]))
            case 3 if mine:
                job = mine[chance.choice(sorted(mine))]
                store.release(runner, {job.id: job.fence})
                claims[job.id].append(job)  # A claim that is over counts as an old one.
                claims[job.id].append(store.get(job.id))
        past = claims[chance.choice(everything)]
        assert all(_lost(store, job) for job in past[:-1])
        assert not past or _lost(store, past[-1]) == (past[-1].runner is None)


def test_a_job_that_nobody_claimed_takes_no_news(store: JobStore) -> None:
    job = submit(store)
    assert _lost(store, job)
    with pytest.raises(LeaseLost):
        store.advance(job.id, job.fence, JobState.PLANNING)
    with pytest.raises(LeaseLost):
        store.note("job_unknown", 1, gpu_seconds=1.0)


def test_a_claim_starts_planning_and_is_not_given_twice(store: JobStore, clock: HandClock) -> None:
    job = held(store)
    assert (job.state, job.runner, job.fence, job.num_tries) == (JobState.PLANNING, "one", 1, 1)
    assert (job.started_at, job.lease_until) == (clock.now, clock.now + timedelta(seconds=15))
    clock.pass_by(15)
    assert store.claim("two", lease_seconds=15, limit=1) == []


@pytest.mark.parametrize("state", ACTIVE)
def test_a_job_whose_runner_died_is_planned_again_by_another(
    store: JobStore, clock: HandClock, state: JobState
) -> None:
    lost = held(store, state)
    store.note(lost.id, lost.fence, gpu_seconds=7.0, content="sha256-1")
    clock.pass_by(15.001)
    [job] = store.claim("two", lease_seconds=15, limit=5)
    assert (job.id, job.state, job.runner, job.num_tries) == (lost.id, JobState.PLANNING, "two", 2)
    assert (job.started_at, job.gpu_seconds, job.content) == (lost.started_at, 7.0, "sha256-1")
    assert job.fence > lost.fence
    assert store.renew("one", {lost.id: lost.fence}, lease_seconds=15).lost == {lost.id}
    assert _lost(store, lost)
    with pytest.raises(LeaseLost, match="leave it to whoever has it now"):
        store.advance(lost.id, lost.fence, JobState.FAILED)
    assert store.advance(job.id, job.fence, JobState.RESTORING).state is JobState.RESTORING


def test_a_renewed_claim_lasts_and_a_late_renewal_helps_while_nobody_took_the_job(
    store: JobStore, clock: HandClock
) -> None:
    job = held(store)
    for seconds in (10, 10, 100):
        clock.pass_by(seconds)
        renewal = store.renew("one", {job.id: job.fence}, lease_seconds=15)
        assert (renewal.lost, renewal.cancelled) == (frozenset(), frozenset())
        assert store.claim("two", lease_seconds=15, limit=1) == []


def test_renewing_names_exactly_the_jobs_that_are_lost_or_to_be_stopped(store: JobStore) -> None:
    kept, stopped, ended = (held(store) for _ in range(3))
    store.request_cancel(stopped.id, owner="ada")
    store.advance(ended.id, ended.fence, JobState.FAILED)
    fences = {kept.id: kept.fence, stopped.id: stopped.fence, ended.id: ended.fence, "job_unknown": 1}
    renewal = store.renew("one", fences, lease_seconds=15)
    assert (renewal.lost, renewal.cancelled) == ({ended.id, "job_unknown"}, {stopped.id})
    assert store.renew("another", {kept.id: kept.fence}, lease_seconds=15).lost == {kept.id}
    assert store.renew("one", {}, lease_seconds=15).lost == frozenset()


def test_a_released_job_is_free_at_once_and_closed_to_who_released_it(store: JobStore) -> None:
    job = held(store, JobState.RESTORING)
    store.release("another", {job.id: job.fence})
    assert store.get(job.id).runner == "one"
    store.release("one", {job.id: job.fence})
    store.release("one", {})
    assert _lost(store, job)
    assert [again.id for again in store.claim("two", lease_seconds=15, limit=1)] == [job.id]


# Steps


@pytest.mark.slow
@pytest.mark.parametrize("before", WAYS)
def test_only_legal_steps_are_written(store: JobStore, before: JobState) -> None:
    for after in JobState:
        job = held(store, before)
        as_it_was = store.get(job.id)
        if after in TRANSITIONS[before]:
            assert store.advance(job.id, job.fence, after, cost=1.0) == store.get(job.id)
            assert (store.get(job.id).state, store.get(job.id).cost) == (after, 1.0)
        else:
            with pytest.raises(LeaseLost if before.is_final else ConflictRefusal):
                store.advance(job.id, job.fence, after, cost=1.0)
            assert store.get(job.id) == as_it_was


def test_every_change_makes_the_version_grow(store: JobStore, clock: HandClock) -> None:
    job = submit(store)
    seen = [store.versions([job.id])[job.id]]

    def look() -> None:
        seen.append(store.versions([job.id, "job_unknown"])[job.id])

    [job] = store.claim("one", lease_seconds=15, limit=1)
    look()
    store.note(job.id, job.fence, progress=Progress(frames_done=1))
    look()
    store.advance(job.id, job.fence, JobState.RESTORING)
    look()
    store.release("one", {job.id: job.fence})
    look()
    [job] = store.claim("two", lease_seconds=15, limit=1)
    look()
    store.request_cancel(job.id, owner=None)
    look()
    store.advance(job.id, job.fence, JobState.CANCELLED)
    look()
    assert seen == sorted(set(seen)) and seen[0] == 1
    assert store.versions([]) == {}


# Stopping


def test_a_queued_job_is_cancelled_at_once(store: JobStore, clock: HandClock) -> None:
    job = store.request_cancel(submit(store).id, owner="ada")
    assert (job.state, job.cancel_requested, job.finished_at) == (JobState.CANCELLED, True, clock.now)
    assert store.claim("one", lease_seconds=15, limit=1) == []
    assert store.request_cancel(job.id, owner="ada") == job


@pytest.mark.parametrize("state", ACTIVE)
def test_a_job_that_is_worked_on_is_asked_to_stop_and_ended_by_its_runner(store: JobStore, state: JobState) -> None:
    job = held(store, state)
    asked = store.request_cancel(job.id, owner="ada")
    assert (asked.state, asked.cancel_requested) == (state, True)
    assert store.request_cancel(job.id, owner="ada") == asked
    assert store.advance(job.id, job.fence, JobState.CANCELLED).state is JobState.CANCELLED


def test_a_job_that_nobody_holds_any_more_is_cancelled_at_once_too(store: JobStore, clock: HandClock) -> None:
    released, expired = held(store, JobState.RESTORING), held(store, JobState.ASSEMBLING)
    store.release("one", {released.id: released.fence})
    clock.pass_by(16)
    for job in (released, expired):
        assert store.request_cancel(job.id, owner="ada").state is JobState.CANCELLED
        assert _lost(store, job)


def test_a_runner_that_dies_with_a_cancelled_job_needs_no_successor(store: JobStore, clock: HandClock) -> None:
    job = held(store, JobState.RESTORING)
    store.request_cancel(job.id, owner="ada")
    clock.pass_by(16)
    assert store.claim("two", lease_seconds=15, limit=5) == []
    assert store.get(job.id).state is JobState.CANCELLED
    assert _lost(store, job)


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED])
def test_what_has_ended_cannot_be_cancelled(store: JobStore, state: JobState) -> None:
    job = held(store, state)
    with pytest.raises(ConflictRefusal, match=f"is {state} and cannot become cancelled"):
        store.request_cancel(job.id, owner="ada")


# Repeated requests


def test_the_same_request_makes_one_job(store: JobStore) -> None:
    new = new_job(idempotency_key="k", request_digest="one")
    first, is_new = store.create(new)
    assert is_new
    assert store.create(new) == (first, False)
    assert store.create(new, admit=lambda load: pytest.fail(f"{load} is asked about")) == (first, False)
    other, is_new = store.create(new_job("bob", idempotency_key="k", request_digest="one"))
    assert is_new and other.id != first.id
    assert submit(store).id != submit(store).id


def test_a_key_cannot_be_used_for_another_request(store: JobStore) -> None:
    first = submit(store, idempotency_key="k", request_digest="one")
    with pytest.raises(ConflictRefusal, match=f"belongs to another request, which made job {first.id}; use a new key"):
        store.create(new_job(idempotency_key="k", request_digest="two"))
    assert len(store.list(owner="ada").jobs) == 1


def test_a_key_does_not_bring_a_deleted_job_back(store: JobStore) -> None:
    job = submit(store, idempotency_key="k", request_digest="one")
    store.request_delete(job.id, owner="ada")
    with pytest.raises(GoneRefusal):
        store.create(new_job(idempotency_key="k", request_digest="one"))


@pytest.mark.parametrize("is_admitted", [False, True])
def test_the_same_request_from_eight_threads_makes_one_job(store: JobStore, is_admitted: bool) -> None:
    new = new_job(idempotency_key="k", request_digest="one")
    admit = (lambda _: None) if is_admitted else None
    made = at_once(8, lambda _: store.create(new, admit=admit))
    assert len({job.id for job, _ in made}) == 1
    assert [is_new for _, is_new in made].count(True) == 1


# Deleting


def test_a_finished_job_is_gone_as_soon_as_its_deletion_is_asked_for(store: JobStore) -> None:
    job = held(store, JobState.COMPLETED)
    store.request_delete(job.id, owner="ada")
    for call in (store.get, store.request_cancel, store.request_delete):
        with pytest.raises(GoneRefusal, match="was deleted"):
            call(job.id, owner="ada")
    assert store.list(owner="ada").jobs == ()
    assert store.versions([job.id]) == {}
    assert store.get(job.id, even_deleted=True).delete_requested


def test_an_unfinished_job_is_stopped_and_then_gone(store: JobStore, database: Database, clock: HandClock) -> None:
    queued = submit(store)
    assert store.request_delete(queued.id, owner="ada").state is JobState.CANCELLED
    running = held(store, JobState.RESTORING)
    assert store.request_delete(running.id, owner="ada").state is JobState.RESTORING
    assert store.renew("one", {running.id: running.fence}, lease_seconds=15).cancelled == {running.id}
    assert store.get(running.id).cancel_requested
    store.advance(running.id, running.fence, JobState.CANCELLED)
    for job in (queued, running):
        with pytest.raises(GoneRefusal):
            store.get(job.id)
        assert job.id in {
            due.id for due in ArtifactStore(database).expired(ArtifactKind.RESULTS, ended_before=clock.now)
        }
