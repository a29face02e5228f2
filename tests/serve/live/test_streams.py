"""Laws of streams as an ingress opens them, without Ray."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from seedvr2_ray.serve.config import ModelPool, ServiceConfig
from seedvr2_ray.serve.live import streams as live_streams
from seedvr2_ray.serve.live.relay import RelayLimits, StreamRelay
from seedvr2_ray.serve.live.streams import LiveStreams
from seedvr2_ray.settings import RestoreSettings
from tests.waiting import within


class _RelayHandle:
    """A relay as if it were an actor."""

    def __init__(self, name: str, owner: str, limits: RelayLimits) -> None:
        self._relay = StreamRelay(owner, limits)

    def __getattr__(self, name: str) -> Any:
        async def call(*values: Any) -> Any:
            answer = getattr(self._relay, name)(*values)
            return await answer if asyncio.iscoroutine(answer) else answer

        return SimpleNamespace(remote=call)


class _Restorers:
    """A handle of replicas of which none is ever free."""

    def __init__(self) -> None:
        self.is_asked, self.is_cancelled = asyncio.Event(), asyncio.Event()
        self.live = SimpleNamespace(remote=lambda order, relay: self)
        self.cancel = self.is_cancelled.set

    def options(self, *, stream: bool) -> "_Restorers":
        return self

    def __aiter__(self) -> "_Restorers":
        return self

    async def __anext__(self) -> str:
        self.is_asked.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


def test_a_caller_who_goes_while_no_replica_is_free_leaves_nothing_behind_that_waits_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_streams, "_start_relay", _RelayHandle)

    async def story() -> None:
        restorers: Any = _Restorers()
        config = ServiceConfig(models={"lanczos": ModelPool()}, default_model="lanczos")
        streams = LiveStreams(config, {"lanczos": restorers})
        opening = asyncio.create_task(streams.open("anna", RestoreSettings(model="lanczos"), "drop"))
        await restorers.is_asked.wait()
        opening.cancel()
        await asyncio.wait([opening])
        await restorers.is_cancelled.wait()

    asyncio.run(within(240, story()))
