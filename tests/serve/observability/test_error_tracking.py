"""Laws of error tracking: our mistakes are reported without secrets, callers' mistakes are not."""

import json
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from seedvr2_ray.errors import MediaError
from seedvr2_ray.serve.observability.error_tracking import start_error_tracking
from seedvr2_ray.serve.observability.logs import logged_with
from seedvr2_ray.serve.security.redaction import Redactor

DSN = "https://public@sentry.example.org/1"


class _Kept(Transport):
    sent: ClassVar[list[Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        """Keep a report instead of sending it."""
        self.sent.append(envelope.get_event())


@pytest.fixture
def sent() -> Iterator[list[Any]]:
    _Kept.sent = []
    assert start_error_tracking(DSN, Redactor(["known-secret"]), process="runner", transport=_Kept)
    yield _Kept.sent
    sentry_sdk.get_client().close()
    sentry_sdk.init()


@pytest.mark.slow
def test_a_mistake_is_reported_with_ids_and_without_secrets(sent: list[Any]) -> None:
    url = "https://ada:pa55word@example.org/x?sig=5ignature"
    sentry_sdk.add_breadcrumb(message=f"asked {url}")
    password = "pa55word"
    with logged_with(job_id="job_a"):
        try:
            raise ValueError(f"cannot read {url} with known-secret and {len(password)}")
        except ValueError as error:
            sentry_sdk.capture_exception(error)
    [event] = sent
    text = json.dumps(event, default=str)
    assert event["tags"]["job_id"] == "job_a"
    assert "ValueError" in text and "example.org/x" in text
    for secret in ("pa55word", "5ignature", "known-secret"):
        assert secret not in text


@pytest.mark.slow
def test_what_a_caller_must_change_is_no_mistake_of_ours(sent: list[Any]) -> None:
    sentry_sdk.capture_exception(MediaError("film.mp4 holds text"))
    assert sent == []


def test_without_an_address_nothing_is_reported() -> None:
    assert not start_error_tracking(None, Redactor(), process="runner")
