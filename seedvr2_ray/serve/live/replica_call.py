"""A live stream inside a restorer's replica: a session whose two ends are a relay's."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, Protocol

from seedvr2_ray.live.byte_queue import ByteQueue
from seedvr2_ray.live.endless import make_endless
from seedvr2_ray.live.fragments import FragmentCutter, codecs_of
from seedvr2_ray.live.inputs import open_bytes
from seedvr2_ray.live.session import LiveRules, LiveSession
from seedvr2_ray.live.sound import COPIED
from seedvr2_ray.live.source import LiveSource
from seedvr2_ray.models.weights.catalogue import find_entry
from seedvr2_ray.restoration.restorer import Restorer
from seedvr2_ray.serve.live.order import STARTED, LiveOrder
from seedvr2_ray.telemetry.metrics import count, observe

_QUEUE_BYTES = 4 << 20
_SIGN_SECONDS = 1.0
"""Between two signs of life."""


class RelayPort(Protocol):
    """A relay as the replica reaches it."""

    def take(self) -> Awaitable[bytes]:
        """Return bytes of the caller."""

    def give(self, content: bytes | dict[str, Any]) -> Awaitable[str | None]:
        """Hand a piece over; returns why nobody wants it."""


class RelayActor:
    """A relay in a process of its own."""

    def __init__(self, actor: Any) -> None:
        """Wrap its handle."""
        self._actor = actor

    async def take(self) -> bytes:
        """Return bytes of the caller; none when the relay is gone."""
        data: bytes = await self._actor.take.remote()
        return data

    async def give(self, content: bytes | dict[str, Any]) -> str | None:
        """Hand a piece over."""
        why: str | None = await self._actor.give.remote(content)
        return why


class LiveCall:
    """One stream at a replica."""

    def __init__(self, restorer: Restorer, order: LiveOrder, relay: RelayPort, threads: Executor) -> None:
        """Begin to restore in a thread."""
        self._relay = relay
        self._loop = asyncio.get_running_loop()
        self._queue = ByteQueue(_QUEUE_BYTES)
        self._opened = False
        self._heard_at = time.monotonic()
        self._gone = threading.Event()
        target = _RelayTarget(self._give)
        entry = find_entry(order.settings.model)
        self._session = LiveSession(
            LiveSource(
                self._open,
                copies_sound=COPIED["browser"].__contains__,
                merges_fields=order.settings.deinterlace == "bwdif",
                tell=self._tell,
            ),
            make_endless(restorer, entry, order.settings),
            lambda: target,
            "browser",
            LiveRules(policy=order.policy, least_factor=order.least_factor),
            self._tell,
        )
        self.thread = threads.submit(self._run)

    @property
    def silent_seconds(self) -> float:
        """How long nothing has come out since nothing more comes in; a stream that goes on may be silent."""
        return time.monotonic() - self._heard_at if self._queue.is_closed else 0.0

    async def events(self) -> AsyncGenerator[str, None]:
        """Say that it has started, and give signs of life until it is over.

        Raises:
            SeedVR2Error: what was wrong with the stream.
        """
        pump = asyncio.create_task(self._pump())
        done = asyncio.wrap_future(self.thread)
        # Where nobody is left to be told, what it ended with is no news.
        done.add_done_callback(lambda future: future.cancelled() or future.exception())
        try:
            yield STARTED
            while not done.done():
                await asyncio.wait([done], timeout=_SIGN_SECONDS)
                yield "alive"
            await done
        finally:
            self._gone.set()
            self._session.stop()
            self._close()
            pump.cancel()

    def _run(self) -> None:
        try:
            self._session.run()
        except BrokenPipeError:
            return  # The relay knows why.

    def _open(self) -> Any:
        if self._opened:
            return None
        self._opened = True
        return open_bytes(self._queue)

    async def _pump(self) -> None:
        try:
            while data := await self._relay.take():
                while not await asyncio.to_thread(self._queue.write, data, 0.5):
                    if self._queue.is_closed:
                        return
        finally:
            self._close()

    def _close(self) -> None:
        """Let nothing more in."""
        self._heard_at = time.monotonic()
        self._queue.close()

    def _tell(self, event: Any) -> None:
        if event["event"] == "chunk":
            count("seedvr2_frames", event["frames"])
            observe("seedvr2_live_latency_seconds", event["latency_ms"] / 1000, stage="live")
        elif event["event"] == "dropped":
            count("seedvr2_live_dropped_frames", event["frames"])
        self._give(dict(event))

    def _give(self, content: bytes | dict[str, Any]) -> None:
        """Hand a piece over from one of the session's threads; waits while there is no room for it."""
        self._heard_at = time.monotonic()
        if self._gone.is_set():
            raise BrokenPipeError
        given = asyncio.run_coroutine_threadsafe(_awaited(self._relay.give(content)), self._loop).result()
        if given is not None:
            self._gone.set()
            raise BrokenPipeError(given)


class _RelayTarget:
    """What the muxer writes to: whole fragments go to the relay, the first with the codecs that a browser asks for."""

    def __init__(self, give: Callable[[bytes | dict[str, Any]], None]) -> None:
        self._give = give
        self._cutter = FragmentCutter()

    def write(self, data: bytes) -> int:
        for fragment in self._cutter.take(bytes(data)):
            if fragment.kind == "init":
                self._give({"event": "begin", "mime": f'video/mp4; codecs="{codecs_of(fragment.data)}"'})
            self._give(fragment.data)
        return len(data)

    def close(self) -> None:
        pass


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer
