"""Which segment goes to a replica next, and what happens when one stalls, dies or is not wanted any more."""

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from seedvr2_ray.errors import RetryableError
from seedvr2_ray.restoration.work.failures import RetryPolicy, is_transient
from seedvr2_ray.serve.config import Limits, ModelPool
from seedvr2_ray.serve.scheduler.fair_share import Candidate, FairShare
from seedvr2_ray.serve.workers.protocol import SegmentEvent, SegmentOrder, Workers
from seedvr2_ray.serve.workers.restore import StalePlanError
from seedvr2_ray.telemetry.metrics import count

_log = logging.getLogger(__name__)
_CLOSE_SECONDS = 5.0
_SPEED_MEMORY = 0.8
"""How much of the measured speed a new measurement leaves."""


class StalledError(RetryableError):
    """A segment made no progress on several replicas; trying once more would hold up another one."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A segment is committed."""

    order: SegmentOrder
    record: Mapping[str, Any]


@dataclass(eq=False, slots=True)
class _Call:
    queue: "SegmentQueue"
    order: SegmentOrder
    estimated_seconds: float
    task: "asyncio.Task[None] | None" = None
    started_at: float | None = None
    """When a replica took it up; None while it waits for one."""


@dataclass(eq=False, slots=True)
class SegmentQueue:
    """The segments of one job that wait, and those that are with replicas. Made by :meth:`Dispatcher.open_queue`."""

    candidate: Candidate
    model: str
    megapixels_per_frame: float
    on_frames: Callable[[SegmentOrder, int], None]
    """Told how many more frames are restored; 0 when what was done of a segment is lost."""
    on_seconds: Callable[[float], None]
    """Told how long a replica was at work, whatever came of it."""
    waiting: deque[SegmentOrder] = field(default_factory=deque)
    calls: dict[int, _Call] = field(default_factory=dict)
    outcomes: "asyncio.Queue[Restored | BaseException]" = field(default_factory=asyncio.Queue)
    tries: Counter[int] = field(default_factory=Counter)
    stalls: Counter[int] = field(default_factory=Counter)
    paused: set[asyncio.TimerHandle] = field(default_factory=set)
    is_open: bool = True


class Dispatcher:
    """Shares the replicas of every model among the jobs of one runner. Belongs to one event loop.

    A pool gets as many segments as it may have replicas; those that no replica has taken up yet are taken back when
    somebody else's turn comes first, so that they never stand in anybody's way.
    """

    def __init__(
        self, workers: Workers, pools: Mapping[str, ModelPool], limits: Callable[[], Limits], retries: RetryPolicy
    ) -> None:
        """Send nothing yet.

        Args:
            workers: who restores.
            pools: the models of this deployment.
            limits: asked whenever one matters, for they may change.
            retries: of a segment whose error may pass.
        """
        self._workers = workers
        self._pools = pools
        self._limits = limits
        self._retries = retries
        self._shares = {model: FairShare() for model in pools}
        self._queues: dict[str, SegmentQueue] = {}
        self._speeds = {model: pool.megapixels_per_second for model, pool in pools.items()}
        self._is_draining = False

    @property
    def num_in_flight(self) -> int:
        """Segments that are with replicas."""
        return sum(call.started_at is not None for queue in self._queues.values() for call in queue.calls.values())

    @property
    def num_waiting(self) -> int:
        """Segments that no replica has taken up."""
        waiting = sum(len(queue.waiting) for queue in self._queues.values())
        return waiting + sum(
            call.started_at is None for queue in self._queues.values() for call in queue.calls.values()
        )

    def open_queue(
        self,
        candidate: Candidate,
        model: str,
        orders: list[SegmentOrder],
        *,
        megapixels_per_frame: float,
        on_frames: Callable[[SegmentOrder, int], None],
        on_seconds: Callable[[float], None],
    ) -> SegmentQueue:
        """Have segments restored, in their order as far as replicas allow; what came of them is in ``outcomes``.

        The queue must be closed, whatever happens.
        """
        queue = SegmentQueue(candidate, model, megapixels_per_frame, on_frames, on_seconds, deque(orders))
        self._queues[candidate.job_id] = queue
        self._shares[model].enter(candidate.job_id, candidate.owner)
        self._fill(model)
        return queue

    async def close_queue(self, queue: SegmentQueue) -> None:
        """Want nothing more of a job: waiting segments are forgotten, replicas stop within a batch of frames.

        Returns when what they have taken until now is counted.
        """
        queue.is_open = False
        queue.waiting.clear()
        for timer in queue.paused:
            timer.cancel()
        tasks = [call.task for call in queue.calls.values() if call.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_SECONDS)
        if not queue.calls:
            self._forget(queue)

    def stop_sending(self) -> None:
        """Send nothing more to replicas, and take back what none of them has taken up."""
        self._is_draining = True
        for queue in self._queues.values():
            for call in queue.calls.values():
                if call.started_at is None and call.task is not None:
                    call.task.cancel()

    def is_idle(self, job_id: str) -> bool:
        """Whether none of a job's segments is with a replica."""
        queue = self._queues.get(job_id)
        return queue is None or all(call.started_at is None for call in queue.calls.values())

    def _fill(self, model: str) -> None:
        """Send what there is room for, the fairest first."""
        most_taken_back = self._pools[model].max_replicas
        while not self._is_draining:
            ready = [queue for queue in self._queues.values() if queue.model == model and queue.waiting]
            if not ready:
                return
            ranked = self._shares[model].ranked(queue.candidate for queue in ready)
            queue = self._queues[ranked[0].job_id]
            if self._num_sent(model) < self._pools[model].max_replicas:
                self._send(queue)
            elif most_taken_back > 0 and self._take_one_back(model, queue):
                most_taken_back -= 1
            else:
                return

    def _num_sent(self, model: str) -> int:
        return sum(len(queue.calls) for queue in self._queues.values() if queue.model == model)

    def _take_one_back(self, model: str, first: SegmentQueue) -> bool:
        """Make room for a job whose turn comes before that of a segment which no replica has taken up yet."""
        holding = [
            queue
            for queue in self._queues.values()
            if queue.model == model and any(call.started_at is None for call in queue.calls.values())
        ]
        ranked = self._shares[model].ranked(
            [first.candidate, *(queue.candidate for queue in holding if queue != first)]
        )
        last = self._queues[ranked[-1].job_id]
        if last is first:
            return False
        # The one that was sent last: those before it are nearer to a replica.
        call = [call for call in last.calls.values() if call.started_at is None][-1]
        del last.calls[call.order.segment.index]
        self._shares[model].take_back(last.candidate.job_id, call.estimated_seconds)
        if self._shares[model].ranked([first.candidate, last.candidate])[0] is last.candidate:
            self._charge(call)  # Without what it is charged for this segment, it would be its turn again.
            return False
        last.waiting.appendleft(call.order)
        assert call.task is not None
        call.task.cancel()
        return True

    def _send(self, queue: SegmentQueue) -> None:
        order = queue.waiting.popleft()
        megapixels = order.segment.num_frames * queue.megapixels_per_frame
        call = _Call(queue, order, megapixels / self._speeds[queue.model])
        self._charge(call)
        call.task = asyncio.create_task(self._attend(call), name=f"segment {order.job_id}/{order.segment.index}")
        # Not at the end of the coroutine: one that is cancelled before its first step never comes to its end.
        call.task.add_done_callback(lambda _: self._make_room(call))

    def _charge(self, call: _Call) -> None:
        call.queue.calls[call.order.segment.index] = call
        self._shares[call.queue.model].send(call.queue.candidate.job_id, call.estimated_seconds)

    def _settle(self, call: _Call, seconds: float) -> None:
        """End a call's place among those in flight, once."""
        queue = call.queue
        if queue.calls.get(call.order.segment.index) is call:
            del queue.calls[call.order.segment.index]
            self._shares[queue.model].settle(queue.candidate.job_id, call.estimated_seconds, seconds)

    async def _attend(self, call: _Call) -> None:
        queue, order = call.queue, call.order
        try:
            record = await self._follow(call)
        except asyncio.CancelledError:
            self._close_call(call)
            if queue.is_open and self._is_draining:
                queue.waiting.appendleft(order)
        except Exception as error:  # noqa: BLE001  # One job's segment must not stop the others.
            self._close_call(call)
            queue.on_frames(order, 0)
            self._take_failure(queue, order, error)
        else:
            self._close_call(call, record)
            count("seedvr2_segments", state="restored")
            queue.outcomes.put_nowait(Restored(order, record))

    def _make_room(self, call: _Call) -> None:
        """Give a place in the pool to whoever is next."""
        self._settle(call, 0.0)
        queue = call.queue
        if not queue.is_open and not queue.calls:
            self._forget(queue)
        self._fill(queue.model)

    async def _follow(self, call: _Call) -> Mapping[str, Any]:
        """Listen to a replica until the segment is committed; give up when it stays silent."""
        async with contextlib.aclosing(self._workers.restore(call.order)) as events:
            while True:
                item = await self._next(events, call)
                if item.started:
                    call.started_at = time.monotonic()
                if item.num_frames:
                    call.queue.on_frames(call.order, item.num_frames)
                if item.record is not None:
                    return item.record

    async def _next(self, events: AsyncGenerator[SegmentEvent, None], call: _Call) -> SegmentEvent:
        # Waiting for a replica is no stall: there may be none yet, or others' segments are before this one.
        seconds = None if call.started_at is None else self._limits().stall_seconds
        try:
            async with asyncio.timeout(seconds):
                return await anext(events)
        except StopAsyncIteration:
            raise RetryableError(f"segment {call.order.segment.index} ended without a record") from None
        except TimeoutError:
            index = call.order.segment.index
            call.queue.stalls[index] += 1
            raise StalledError(
                f"segment {index} made no progress for {seconds:g} s on {call.queue.stalls[index]} replicas one after "
                "the other; submit the job again, with shorter segments or a smaller output"
            ) from None

    def _close_call(self, call: _Call, record: Mapping[str, Any] | None = None) -> None:
        seconds = 0.0
        if call.started_at is not None:
            seconds = time.monotonic() - call.started_at
            call.queue.on_seconds(seconds)
        self._settle(call, seconds)
        if record is not None and seconds > 0:
            megapixels = call.order.segment.num_frames * call.queue.megapixels_per_frame
            speed = self._speeds[call.queue.model]
            self._speeds[call.queue.model] = _SPEED_MEMORY * speed + (1 - _SPEED_MEMORY) * megapixels / seconds

    def _take_failure(self, queue: SegmentQueue, order: SegmentOrder, error: Exception) -> None:
        """Try again later or elsewhere, or give the job up."""
        index, limits = order.segment.index, self._limits()
        queue.tries[index] += 1
        if isinstance(error, StalledError):
            is_final = queue.stalls[index] >= limits.max_segment_tries
        else:
            # Processes that died are counted where they died, so that a restart does not forget them.
            most_tries = max(self._retries.num_tries, limits.max_segment_tries + 2)
            is_final = not is_transient(error) or isinstance(error, StalePlanError) or queue.tries[index] >= most_tries
        if is_final or not queue.is_open:
            count("seedvr2_segments", state="failed")
            queue.outcomes.put_nowait(error)
            return
        count("seedvr2_retries", state=type(error).__name__)
        _log.warning("segment %d of %s is tried again: %s", index, order.job_id, error)
        pause = 0.0 if isinstance(error, StalledError) else self._retries.pause_seconds(queue.tries[index])
        loop = asyncio.get_running_loop()

        def send_again() -> None:
            queue.paused.discard(timer)
            queue.waiting.appendleft(order)
            self._fill(queue.model)

        timer = loop.call_later(pause, send_again)
        queue.paused.add(timer)

    def _forget(self, queue: SegmentQueue) -> None:
        if self._queues.get(queue.candidate.job_id) is queue:
            del self._queues[queue.candidate.job_id]
            self._shares[queue.model].leave(queue.candidate.job_id)
