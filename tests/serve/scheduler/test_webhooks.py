"""Laws of notifications: signed, tried again, given up in the end, never sent inside."""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.serve.config import Webhooks
from seedvr2_ray.serve.db.database import Database, open_database
from seedvr2_ray.serve.db.webhook_store import WebhookStore, enqueue
from seedvr2_ray.serve.problems import FetchRefusal, GoneRefusal
from seedvr2_ray.serve.scheduler.webhooks import Delivered, WebhookSender
from seedvr2_ray.serve.security.egress import Egress
from seedvr2_ray.serve.security.fetch import require_webhook_url
from tests.serve.conftest import HandClock
from tests.serve.servers import Server, redirecting, saying, serving

pytestmark = pytest.mark.slow

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
RULES = Webhooks(
    max_tries=3, first_pause_seconds=10, longest_pause_seconds=15, timeout_seconds=240, allow_private=("127.0.0.0/8",)
)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def database(tmp_path: Path, clock: HandClock) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path / 'jobs.sqlite'}", clock=clock)
    yield database
    database.close()


@pytest.fixture
def receiver() -> Iterator[Server]:
    with serving() as server:
        server.answers["/hook"] = saying(b"thanks")
        yield server


def _describe(job_id: str) -> Mapping[str, Any]:
    if job_id == "job_deleted":
        raise GoneRefusal("deleted")
    return {"id": job_id, "state": "completed", "name": "grüße.mov"}


def _sender(database: Database, rules: Webhooks = RULES, **changes: Any) -> WebhookSender:
    return WebhookSender(WebhookStore(database), rules, SECRET, _describe, clock=database.clock, **changes)


def _enqueue(database: Database, url: str, job_id: str = "job_1") -> None:
    with database.writing() as connection:
        enqueue(connection, job_id=job_id, url=url, event="job.completed", now=database.clock())


def test_a_message_arrives_once_with_a_signature_that_verifies(database: Database, receiver: Server) -> None:
    _enqueue(database, receiver.url("/hook"))
    assert _sender(database).deliver_due() == Delivered(num_delivered=1)
    assert _sender(database).deliver_due() == Delivered()
    [(method, _, headers, body)] = receiver.requests
    message = Verifier(SECRET).verify(body, headers)
    assert (method, headers["content-type"]) == ("POST", "application/json")
    assert message == {
        "type": "job.completed",
        "timestamp": "2026-01-01T00:00:00Z",
        "data": {"id": "job_1", "state": "completed", "name": "grüße.mov"},
    }
    with pytest.raises(WebhookVerificationError):
        Verifier(SECRET).verify(body.replace(b"completed", b"cancelled"), headers)
    with pytest.raises(WebhookVerificationError):
        Verifier("whsec_" + "A" * 32).verify(body, headers)


def test_a_failed_message_is_tried_again_later_with_the_same_id(
    database: Database, receiver: Server, clock: HandClock
) -> None:
    receiver.answers["/hook"] = saying(b"", 500)
    _enqueue(database, receiver.url("/hook"))
    sender = _sender(database)
    assert sender.deliver_due() == Delivered(num_failed=1)
    clock.pass_by(7)
    assert sender.deliver_due() == Delivered(), "the first pause is 10 seconds, give or take a fifth"
    clock.pass_by(6)
    receiver.answers["/hook"] = saying(b"", 204)
    assert sender.deliver_due() == Delivered(num_delivered=1)
    first, second = receiver.requests
    assert first[2]["webhook-id"] == second[2]["webhook-id"]
    assert Verifier(SECRET).verify(second[3], second[2])["data"]["id"] == "job_1"


def _hang(request: BaseHTTPRequestHandler) -> None:
    time.sleep(1.5)


def _drip(request: BaseHTTPRequestHandler) -> None:
    saying(b"", content_length="1000")(request)
    for _ in range(30):
        request.wfile.write(b"x")
        request.wfile.flush()
        time.sleep(0.05)


def _hang_up(request: BaseHTTPRequestHandler) -> None:
    request.connection.close()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (saying(b"", 500), "HTTP 500"),
        (saying(b"", 404), "HTTP 404"),
        (redirecting("/other"), "HTTP 302"),
        (_hang, "no answer within 0.5 s"),
        (_drip, "no answer within 0.5 s"),
        (_hang_up, "not reached"),
    ],
)
def test_after_the_last_try_a_message_is_given_up_and_the_log_says_why(
    database: Database, receiver: Server, clock: HandClock, caplog: pytest.LogCaptureFixture, answer: Any, reason: str
) -> None:
    receiver.answers["/hook"] = answer
    receiver.answers["/other"] = saying(b"thanks")
    _enqueue(database, receiver.url("/hook?token=5ecret"))
    deadline = 0.5 if "no answer" in reason else 240
    sender = _sender(database, RULES.model_copy(update={"max_tries": 2, "timeout_seconds": deadline}))
    assert sender.deliver_due() == Delivered(num_failed=1)
    clock.pass_by(30)
    assert sender.deliver_due() == Delivered(num_given_up=1)
    clock.pass_by(10**6)
    assert sender.deliver_due() == Delivered()
    asked = [path.partition("?")[0] for _, path, _, _ in receiver.requests]
    # Within half a second a busy machine may not have got as far as asking.
    assert asked == ["/hook"] * (len(asked) if "no answer" in reason else 2)
    assert reason in caplog.text and "5ecret" not in caplog.text


def test_pauses_grow_up_to_the_longest(database: Database, receiver: Server, clock: HandClock) -> None:
    receiver.answers["/hook"] = saying(b"", 503)
    _enqueue(database, receiver.url("/hook"))
    sender = _sender(database, RULES.model_copy(update={"max_tries": 6}))
    pauses = []
    began = clock.now
    while (outcome := sender.deliver_due()) != Delivered(num_given_up=1):
        if outcome == Delivered(num_failed=1):
            pauses.append((clock.now - began).total_seconds())
            began = clock.now
        clock.now += timedelta(seconds=0.5)
    assert len(pauses) == 5 and pauses[0] == 0
    assert 8 <= pauses[1] <= 12.5 and all(12 <= pause <= 18.5 for pause in pauses[2:])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "hooks.example.org"])
def test_nothing_is_sent_to_a_private_address(database: Database, receiver: Server, host: str) -> None:
    def resolve(name: str, port: int) -> Sequence[str]:
        return ["10.0.0.7"] if name == "hooks.example.org" else [name.strip("[]").replace("localhost", "127.0.0.1")]

    _enqueue(database, f"http://{host}:{receiver.port}/hook")
    sender = _sender(database, egress=Egress(resolver=resolve))
    assert sender.deliver_due() == Delivered(num_failed=1)
    assert receiver.requests == []


def test_an_endless_answer_is_not_read_to_its_end(database: Database, receiver: Server) -> None:
    sent = []

    def endless(request: BaseHTTPRequestHandler) -> None:
        saying(b"", content_length=str(10**12))(request)
        while True:
            request.wfile.write(bytes(65536))
            sent.append(65536)

    receiver.answers["/hook"] = endless
    _enqueue(database, receiver.url("/hook"))
    assert _sender(database).deliver_due() == Delivered(num_delivered=1)
    assert sum(sent) < 50_000_000


def test_a_slow_receiver_does_not_hold_up_the_others(database: Database, receiver: Server) -> None:
    waited = []

    def slow(request: BaseHTTPRequestHandler) -> None:
        """Say nothing before all the others have been told."""
        told = [path for _, path, _, _ in receiver.requests]
        limit = time.monotonic() + 120
        while told.count("/hook") < 4 and time.monotonic() < limit:
            time.sleep(0.02)
            told = [path for _, path, _, _ in receiver.requests]
        waited.append(told.count("/hook"))

    receiver.answers["/slow"] = slow
    for number in range(4):
        _enqueue(database, receiver.url("/slow"), f"job_{number}")
        _enqueue(database, receiver.url("/hook"), f"job_fast_{number}")
    assert _sender(database).deliver_due() == Delivered(num_delivered=4, num_failed=4)
    assert waited == [4] * 4


def test_a_deleted_job_is_not_told_about(database: Database, receiver: Server) -> None:
    _enqueue(database, receiver.url("/hook"), "job_deleted")
    assert _sender(database).deliver_due() == Delivered(num_given_up=1)
    assert receiver.requests == []


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_short", "whsec_" + "!" * 40, "whsec_" + "ü" * 40])
def test_a_secret_that_cannot_sign_is_refused_at_the_start(database: Database, secret: str) -> None:
    with pytest.raises(DeploymentError, match="SEEDVR2_WEBHOOK_SECRET must be .*openssl rand -base64 32"):
        WebhookSender(WebhookStore(database), RULES, secret, _describe)


@pytest.mark.parametrize(
    ("url", "secret", "reason"),
    [
        ("https://hooks.example.org/x", None, "sends no notifications"),
        ("ftp://hooks.example.org/x", SECRET, "scheme must be"),
        ("https://user:pa55@hooks.example.org/x", SECRET, "holds a user or password"),
        ("nonsense", SECRET, "scheme must be"),
    ],
)
def test_an_address_that_cannot_be_notified_is_refused_with_the_job(url: str, secret: str | None, reason: str) -> None:
    assert require_webhook_url("https://hooks.example.org/x", SECRET)
    with pytest.raises(FetchRefusal, match=reason) as refused:
        require_webhook_url(url, secret)
    assert "pa55" not in str(refused.value)
