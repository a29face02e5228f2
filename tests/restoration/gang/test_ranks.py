"""Laws of the ranks of a gang that need none: hosts and ranks here are made of nothing."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Client
from typing import Any

import pytest

from seedvr2_ray.errors import GangError
from seedvr2_ray.restoration.gang import processes, restorer
from seedvr2_ray.restoration.gang.messages import RankOrder
from seedvr2_ray.restoration.gang.processes import LocalProcesses
from seedvr2_ray.restoration.gang.ranks import GangSpec, Ranks, Timeouts
from seedvr2_ray.restoration.gang.restorer import GangRestorer
from seedvr2_ray.restoration.lanczos import LANCZOS
from seedvr2_ray.settings import RestoreSettings
from tests.restoration.gang.row_shards import RowShards

SPEC = GangSpec(
    source=RowShards(""), settings=RestoreSettings(model="lanczos"), size=1, timeouts=Timeouts(start_seconds=0.3)
)


class _MuteHost:
    """Its rank calls and says nothing, as when it is stopped just then."""

    def start(self, orders: Sequence[RankOrder]) -> None:
        self._connection = Client(orders[0].address, family="AF_UNIX")

    def lost(self) -> tuple[int, str] | None:
        return None

    def silent(self, seconds: float) -> list[int]:
        return []

    def end(self, pids: Iterable[int]) -> None:
        self._connection.close()


class _StandIn:
    """Ranks that are up as soon as somebody lets them."""

    def __init__(self) -> None:
        self.identity = LANCZOS
        self.loss: str | None = None
        self.is_over = False

    def end(self) -> None:
        self.is_over = True


def _errors_of(function: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    """Call something in a thread and collect what it raises."""
    raised: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001  # Looked at by the test.
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread, raised


def test_a_rank_that_calls_and_says_nothing_is_not_waited_for_longer_than_any_other() -> None:
    thread, raised = _errors_of(lambda: Ranks.start(SPEC, _MuteHost()))
    thread.join(240)
    assert [type(error) for error in raised] == [GangError]
    assert "not all ranks have reported" in str(raised[0])


class _Immortal:
    """A process whose driver hangs: not even SIGKILL ends it."""

    def kill(self) -> None:
        pass

    def wait(self, timeout: float | None = None) -> int:
        time.sleep(3600 if timeout is None else timeout)
        raise subprocess.TimeoutExpired("rank", timeout or 0)


def test_a_rank_that_nothing_ends_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_GONE_SECONDS", 0.1)
    host: Any = LocalProcesses(None)
    host._processes = [_Immortal(), _Immortal()]
    thread, raised = _errors_of(host.end)
    thread.join(240)
    assert not thread.is_alive() and not raised


def test_a_gang_that_is_closed_while_it_is_started_again_leaves_no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[_StandIn] = []
    is_starting, may_come_up = threading.Event(), threading.Event()

    def start(*values: Any) -> _StandIn:
        if started:
            is_starting.set()
            may_come_up.wait(240)
        started.append(_StandIn())
        return started[-1]

    monkeypatch.setattr(restorer.Ranks, "start", start)
    host: Any = _MuteHost
    gang = GangRestorer(SPEC, host)
    started[0].loss = "a rank was lost"
    thread, raised = _errors_of(gang.revive)
    assert is_starting.wait(240)
    gang.close()
    may_come_up.set()
    thread.join(240)
    assert [ranks.is_over for ranks in started] == [True, True]
    assert [type(error) for error in raised] == [GangError]
