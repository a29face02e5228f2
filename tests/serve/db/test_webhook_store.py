"""Laws of the outbox: a notification for every end of a job that wants one, tried until it is delivered or given up."""

from datetime import timedelta

import pytest

from seedvr2_ray.serve.db.database import Database
from seedvr2_ray.serve.db.job_store import JobStore
from seedvr2_ray.serve.db.webhook_store import Webhook, WebhookStore
from seedvr2_ray.serve.jobs import JobState
from seedvr2_ray.serve.problems import ConflictRefusal
from tests.serve.conftest import HandClock
from tests.serve.job_samples import held, submit
from tests.serve.racing import at_once

URL = "https://example.org/hook"


@pytest.fixture
def store(database: Database) -> WebhookStore:
    return WebhookStore(database)


@pytest.fixture
def jobs(database: Database) -> JobStore:
    return JobStore(database)


def _due(store: WebhookStore) -> list[Webhook]:
    return list(store.claim_due(lease_seconds=30, limit=10))


@pytest.mark.parametrize("state", [state for state in JobState if state.is_final])
def test_every_end_of_a_job_is_notified_once(store: WebhookStore, jobs: JobStore, state: JobState) -> None:
    job = held(jobs, state, webhook_url=URL)
    [webhook] = _due(store)
    assert (webhook.job_id, webhook.url, webhook.event, webhook.num_tries) == (job.id, URL, f"job.{state}", 1)
    assert webhook.created_at == job.finished_at


def test_a_cancellation_on_the_spot_is_notified_too(store: WebhookStore, jobs: JobStore, clock: HandClock) -> None:
    queued = submit(jobs, webhook_url=URL)
    jobs.request_cancel(queued.id, owner="ada")
    abandoned = held(jobs, webhook_url=URL)
    jobs.request_cancel(abandoned.id, owner="ada")
    clock.pass_by(16)
    jobs.claim("two", lease_seconds=15, limit=1)
    assert [(webhook.job_id, webhook.event) for webhook in _due(store)] == [
        (queued.id, "job.cancelled"),
        (abandoned.id, "job.cancelled"),
    ]


def test_nothing_is_sent_about_jobs_that_go_on_or_want_no_webhook(store: WebhookStore, jobs: JobStore) -> None:
    held(jobs, JobState.COMPLETED)
    job = held(jobs, webhook_url=URL)
    with pytest.raises(ConflictRefusal):
        jobs.advance(job.id, job.fence, JobState.QUEUED)
    assert store.num_waiting() == 0


def test_an_end_that_is_not_written_is_not_notified(store: WebhookStore, jobs: JobStore, database: Database) -> None:
    job = held(jobs, webhook_url=URL)
    with pytest.raises(Exception, match="not JSON serializable"):
        jobs.advance(job.id, job.fence, JobState.FAILED, error={"not": object()})  # type: ignore[typeddict-item]
    assert jobs.get(job.id).state is JobState.PLANNING
    assert store.num_waiting() == 0


def test_a_delivered_notification_is_not_sent_again(store: WebhookStore, jobs: JobStore, clock: HandClock) -> None:
    held(jobs, JobState.COMPLETED, webhook_url=URL)
    [webhook] = _due(store)
    assert _due(store) == []
    assert store.mark_delivered(webhook)
    clock.pass_by(3600)
    assert (_due(store), store.num_waiting()) == ([], 0)


def test_a_failed_try_is_repeated_when_its_time_has_come_as_the_same_message(
    store: WebhookStore, jobs: JobStore, clock: HandClock
) -> None:
    held(jobs, JobState.COMPLETED, webhook_url=URL)
    [first] = _due(store)
    assert store.mark_failed(first, "503", next_try_at=clock.now + timedelta(seconds=60))
    clock.pass_by(59)
    assert _due(store) == []
    clock.pass_by(1)
    [second] = _due(store)
    assert (second.id, second.num_tries) == (first.id, 2)
    assert store.mark_failed(second, "503", next_try_at=None)
    clock.pass_by(10_000)
    assert (_due(store), store.num_waiting()) == ([], 0)


def test_a_deliverer_that_died_is_replaced_and_its_late_word_counts_for_nothing(
    store: WebhookStore, jobs: JobStore, clock: HandClock
) -> None:
    held(jobs, JobState.COMPLETED, webhook_url=URL)
    [lost] = _due(store)
    clock.pass_by(31)
    [taken] = _due(store)
    assert taken.id == lost.id
    assert not store.mark_failed(lost, "timeout", next_try_at=None)
    assert not store.mark_delivered(lost)
    assert store.num_waiting() == 1
    assert store.mark_delivered(taken)


def test_deliverers_that_claim_at_once_never_get_the_same_notification(store: WebhookStore, jobs: JobStore) -> None:
    for _ in range(8):
        jobs.request_cancel(submit(jobs, webhook_url=URL).id, owner="ada")
    taken = [
        webhook.id for mine in at_once(4, lambda _: store.claim_due(lease_seconds=30, limit=2)) for webhook in mine
    ]
    taken += [webhook.id for webhook in _due(store)]
    assert len(taken) == len(set(taken)) == 8


def test_only_notifications_that_are_done_with_are_forgotten(
    store: WebhookStore, jobs: JobStore, clock: HandClock
) -> None:
    held(jobs, JobState.COMPLETED, webhook_url=URL)
    [done] = _due(store)
    store.mark_delivered(done)
    held(jobs, JobState.FAILED, webhook_url=URL)
    clock.pass_by(60)
    assert store.forget(created_before=clock.now) == 1
    assert store.num_waiting() == 1
