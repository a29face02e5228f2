"""From a thread that restores a segment to events on an event loop; the same for a replica and for a thread."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from concurrent.futures import Executor, Future
from typing import Any

from seedvr2_ray.restoration.restorer import Restorer
from seedvr2_ray.serve.workers.protocol import SegmentEvent, SegmentOrder
from seedvr2_ray.serve.workers.restore import Stopped, restore
from seedvr2_ray.serve.workers.storage_layout import StorageLayout

_EVENT_PAUSE_SECONDS = 0.2
"""Frames are reported together, at most so often."""


class SegmentCall:
    """One segment at work in a thread. Stopping it takes effect at its next batch of frames."""

    def __init__(self, layout: StorageLayout, order: SegmentOrder, restorer: Restorer, executor: Executor) -> None:
        """Start at once; to be called on an event loop."""
        self._stop = threading.Event()
        self._has_event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._num_frames = 0
        self._lock = threading.Lock()
        self._heard_at = time.monotonic()
        self.thread: Future[dict[str, Any]] = executor.submit(self._work, layout, order, restorer)

    @property
    def silent_seconds(self) -> float:
        """How long the thread has shown no sign of life."""
        return time.monotonic() - self._heard_at

    async def events(self) -> AsyncGenerator[SegmentEvent, None]:
        """Yield what happens, the record last. Closing the generator stops the thread, and does not wait for it."""
        done = asyncio.wrap_future(self.thread)
        done.add_done_callback(self._end)
        try:
            yield SegmentEvent(started=True)
            while not done.done():
                await self._has_event.wait()
                self._has_event.clear()
                num_frames = self._take_frames()
                if num_frames:
                    yield SegmentEvent(num_frames=num_frames)
                    await asyncio.wait([done], timeout=_EVENT_PAUSE_SECONDS)
            num_frames = self._take_frames()
            yield SegmentEvent(num_frames=num_frames, record=await done)
        finally:
            self._stop.set()

    def _work(self, layout: StorageLayout, order: SegmentOrder, restorer: Restorer) -> dict[str, Any]:
        return restore(layout, order, restorer, on_frames=self._on_frames, check_cancelled=self._check)

    def _on_frames(self, num_frames: int) -> None:
        with self._lock:
            self._num_frames += num_frames
        self._heard_at = time.monotonic()
        try:
            self._loop.call_soon_threadsafe(self._has_event.set)
        except RuntimeError:
            self._stop.set()  # The loop is closed: nobody wants this any more.

    def _end(self, done: asyncio.Future[dict[str, Any]]) -> None:
        self._has_event.set()
        if not done.cancelled():
            done.exception()  # Looked at, for nobody else may do so any more.

    def _check(self) -> None:
        self._heard_at = time.monotonic()
        if self._stop.is_set():
            raise Stopped("the segment is not wanted any more")

    def _take_frames(self) -> int:
        with self._lock:
            taken, self._num_frames = self._num_frames, 0
        return taken
