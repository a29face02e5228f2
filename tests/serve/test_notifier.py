"""The law of a runner's notifications: a receiver sees the job as its owner does, and can open nothing with it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from standardwebhooks import Webhook as Verifier

from seedvr2_ray.serve.config import ServiceConfig, Webhooks
from seedvr2_ray.serve.db.database import Database, open_database
from seedvr2_ray.serve.db.job_store import JobStore
from seedvr2_ray.serve.jobs import JobState
from seedvr2_ray.serve.notifier import notifier_of
from seedvr2_ray.serve.secrets import Secrets
from tests.serve.job_samples import held
from tests.serve.servers import saying, serving

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path / 'service.db'}")
    yield database
    database.close()


@pytest.mark.parametrize("base", [None, "https://films.example.org/"])
def test_a_finished_job_is_told_about_without_anything_secret(database: Database, base: str | None) -> None:
    config = ServiceConfig(public_url=base, webhooks=Webhooks(allow_private=("127.0.0.0/8",)))
    notifier = notifier_of(config, Secrets(webhook_secret=SECRET), database)
    assert notifier is not None
    with serving() as receiver:
        receiver.answers["/hook"] = saying(b"")
        job = held(JobStore(database), JobState.FAILED, webhook_url=receiver.url("/hook?token=5ecret"))
        assert notifier.deliver_due().num_delivered == 1
        [(_, _, headers, body)] = receiver.requests
    message = Verifier(SECRET).verify(body, headers)
    assert (message["type"], message["data"]["id"], message["data"]["state"]) == ("job.failed", job.id, "failed")
    assert message["data"]["links"]["self"] == f"{(base or '').rstrip('/')}/v1/jobs/{job.id}"
    for secret in ("5ecret", "signature", "webhook_url", "owner"):
        assert secret not in body.decode()


def test_without_a_secret_nobody_is_notified(database: Database) -> None:
    assert notifier_of(ServiceConfig(), Secrets(), database) is None
