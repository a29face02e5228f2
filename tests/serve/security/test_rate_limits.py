"""Laws of counting requests: everybody has their own count, and no crowd fills the memory."""

import time
from typing import Any

import pytest
from limits.errors import StorageError
from limits.storage import MemoryStorage

from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.serve.problems import RateRefusal
from seedvr2_ray.serve.security import rate_limits
from seedvr2_ray.serve.security.auth import Caller
from seedvr2_ray.serve.security.rate_limits import RequestLimiter, counted_as


def test_one_request_too_many_is_refused_with_the_time_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    limiter = RequestLimiter()
    for _ in range(5):
        limiter.require("key/a", 5)
    with pytest.raises(RateRefusal, match="more than 5 requests in a minute, the limit here; wait 60 s") as refused:
        limiter.require("key/a", 5)
    assert refused.value.retry_after_seconds == 60
    limiter.require("key/b", 5)


def test_the_window_moves_so_that_no_burst_fits_around_a_full_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    start = time.time()
    clock = [start]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    limiter = RequestLimiter()
    accepted = []
    for second in range(180):
        clock[0] = start + second
        try:
            limiter.require("key/a", 4)
            accepted.append(second)
        except RateRefusal as refusal:
            assert refusal.retry_after_seconds is not None
            assert refusal.retry_after_seconds in range(accepted[-4] + 60 - second, accepted[-4] + 62 - second)
    assert max(sum(begin <= second < begin + 60 for second in accepted) for begin in range(120)) == 4
    assert len(accepted) in (11, 12)


def test_a_changed_limit_holds_at_once() -> None:
    limiter = RequestLimiter()
    limiter.require("key/a", 1)
    with pytest.raises(RateRefusal):
        limiter.require("key/a", 1)
    limiter.require("key/a", 2)


def test_a_crowd_of_addresses_shares_one_count_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MOST_COUNTED", 10)
    limiter = RequestLimiter()
    limiter.require("key/known", 3)
    for number in range(9):
        limiter.require(f"address/{number}", 3)
    for number in range(3):
        limiter.require(f"address/more/{number}", 3)
    with pytest.raises(RateRefusal):
        limiter.require("address/more/another", 3)
    limiter.require("key/known", 3)
    assert limiter._memory is not None and len(limiter._memory.events) == 11


@pytest.mark.parametrize(
    ("caller", "host", "name"),
    [
        (Caller(owner="ada", scopes=frozenset(), key_id="k1"), "203.0.113.9", "key/k1"),
        (Caller(owner="ada", scopes=frozenset()), "203.0.113.9", "owner/ada"),
        (None, "203.0.113.9", "address/203.0.113.9"),
        (None, "::ffff:203.0.113.9", "address/203.0.113.9"),
        (None, "2001:db8:1:2:3:4:5:6", "address/2001:db8:1:2::/64"),
        (None, "2001:db8:1:2:ffff::", "address/2001:db8:1:2::/64"),
        (None, None, "address/unknown"),
        (None, "testclient", "address/unknown"),
    ],
)
def test_requests_are_counted_by_key_then_owner_then_network(
    caller: Caller | None, host: str | None, name: str
) -> None:
    assert counted_as(caller, host) == name


def test_a_store_that_does_not_answer_does_not_stop_the_service(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limiter = RequestLimiter()

    def fail(*_: Any, **__: Any) -> bool:
        raise StorageError(ConnectionError("redis://:secret@host"))

    monkeypatch.setattr(MemoryStorage, "acquire_entry", fail)
    limiter.require("key/a", 1)
    assert "ConnectionError" in caplog.text and "secret" not in caplog.text


@pytest.mark.parametrize("url", ["mystery://host", "redis://:secret@host", ""])
def test_a_store_that_cannot_be_used_is_named_without_its_password(url: str) -> None:
    with pytest.raises(DeploymentError, match="use memory://, or redis://") as refused:
        RequestLimiter(url)
    assert "secret" not in str(refused.value)
