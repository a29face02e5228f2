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
    line: "Line"
    order: SegmentOrder
    estimated_seconds: float
    task: "asyncio.Task[None] | None" = None
    started_at: float | None = None
    """When a replica took it up; None while it waits for one."""


@dataclass(eq=False, slots=True)
class Line:
    """The segments of one job that wait, and those that are with replicas. Made by :meth:`Dispatcher.open_line`."""

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
        self._lines: dict[str, Line] = {}
        self._speeds = {model: pool.megapixels_per_second for model, pool in pools.items()}
        self._is_draining = False

    @property
    def num_in_flight(self) -> int:
        """Segments that are with replicas."""
        return sum(call.started_at is not None for line in self._lines.values() for call in line.calls.values())

    @property
    def num_waiting(self) -> int:
        """Segments that no replica has taken up."""
        waiting = sum(len(line.waiting) for line in self._lines.values())
        return waiting + sum(call.started_at is None for line in self._lines.values() for call in line.calls.values())

    def open_line(
        self,
        candidate: Candidate,
        model: str,
        orders: list[SegmentOrder],
        *,
        megapixels_per_frame: float,
        on_frames: Callable[[SegmentOrder, int], None],
        on_seconds: Callable[[float], None],
    ) -> Line:
        """Have segments restored, in their order as far as replicas allow; what came of them is in ``outcomes``.

        The line must be closed, whatever happens.
        """
        line = Line(candidate, model, megapixels_per_frame, on_frames, on_seconds, deque(orders))
        self._lines[candidate.job_id] = line
        self._shares[model].enter(candidate.job_id, candidate.owner)
        self._fill(model)
        return line

    async def close_line(self, line: Line) -> None:
        """Want nothing more of a job: waiting segments are forgotten, replicas stop within a batch of frames.

        Returns when what they have taken until now is counted.
        """
        line.is_open = False
        line.waiting.clear()
        for timer in line.paused:
            timer.cancel()
        tasks = [call.task for call in line.calls.values() if call.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_SECONDS)
        if not line.calls:
            self._forget(line)

    def stop_sending(self) -> None:
        """Send nothing more to replicas, and take back what none of them has taken up."""
        self._is_draining = True
        for line in self._lines.values():
            for call in line.calls.values():
                if call.started_at is None and call.task is not None:
                    call.task.cancel()

    def is_idle(self, job_id: str) -> bool:
        """Whether none of a job's segments is with a replica."""
        line = self._lines.get(job_id)
        return line is None or all(call.started_at is None for call in line.calls.values())

    def _fill(self, model: str) -> None:
        """Send what there is room for, the fairest first."""
        most_taken_back = self._pools[model].max_replicas
        while not self._is_draining:
            ready = [line for line in self._lines.values() if line.model == model and line.waiting]
            if not ready:
                return
            ranked = self._shares[model].ranked(line.candidate for line in ready)
            line = self._lines[ranked[0].job_id]
            if self._num_sent(model) < self._pools[model].max_replicas:
                self._send(line)
            elif most_taken_back > 0 and self._take_one_back(model, line):
                most_taken_back -= 1
            else:
                return

    def _num_sent(self, model: str) -> int:
        return sum(len(line.calls) for line in self._lines.values() if line.model == model)

    def _take_one_back(self, model: str, first: Line) -> bool:
        """Make room for a job whose turn comes before that of a segment which no replica has taken up yet."""
        holding = [
            line
            for line in self._lines.values()
            if line.model == model and any(call.started_at is None for call in line.calls.values())
        ]
        ranked = self._shares[model].ranked([first.candidate, *(line.candidate for line in holding if line != first)])
        last = self._lines[ranked[-1].job_id]
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

    def _send(self, line: Line) -> None:
        order = line.waiting.popleft()
        megapixels = order.segment.num_frames * line.megapixels_per_frame
        call = _Call(line, order, megapixels / self._speeds[line.model])
        self._charge(call)
        call.task = asyncio.create_task(self._attend(call), name=f"segment {order.job_id}/{order.segment.index}")

    def _charge(self, call: _Call) -> None:
        call.line.calls[call.order.segment.index] = call
        self._shares[call.line.model].send(call.line.candidate.job_id, call.estimated_seconds)

    def _settle(self, call: _Call, seconds: float) -> None:
        """End a call's place among those in flight, once."""
        line = call.line
        if line.calls.get(call.order.segment.index) is call:
            del line.calls[call.order.segment.index]
            self._shares[line.model].settle(line.candidate.job_id, call.estimated_seconds, seconds)

    async def _attend(self, call: _Call) -> None:
        line, order = call.line, call.order
        try:
            record = await self._follow(call)
        except asyncio.CancelledError:
            self._close_call(call)
            if line.is_open and self._is_draining:
                line.waiting.appendleft(order)
        except Exception as error:  # noqa: BLE001  # One job's segment must not stop the others.
            self._close_call(call)
            line.on_frames(order, 0)
            self._take_failure(line, order, error)
        else:
            self._close_call(call, record)
            count("seedvr2_segments", state="restored")
            line.outcomes.put_nowait(Restored(order, record))
        finally:
            if not line.is_open and not line.calls:
                self._forget(line)
            self._fill(line.model)

    async def _follow(self, call: _Call) -> Mapping[str, Any]:
        """Listen to a replica until the segment is committed; give up when it stays silent."""
        async with contextlib.aclosing(self._workers.restore(call.order)) as events:
            while True:
                item = await self._next(events, call)
                if item.started:
                    call.started_at = time.monotonic()
                if item.num_frames:
                    call.line.on_frames(call.order, item.num_frames)
                if item.record is not None:
                    return item.record

    async def _next(self, events: AsyncGenerator[SegmentEvent, None], call: _Call) -> SegmentEvent:
        # Waiting for a replica is no stall: there may be none yet, or others' segments are before this one.
        seconds = None if call.started_at is None else self._limits().stall_seconds
        try:
            return await asyncio.wait_for(anext(events), seconds)
        except StopAsyncIteration:
            raise RetryableError(f"segment {call.order.segment.index} ended without a record") from None
        except TimeoutError:
            index = call.order.segment.index
            call.line.stalls[index] += 1
            raise StalledError(
                f"segment {index} made no progress for {seconds:g} s on {call.line.stalls[index]} replicas one after "
                "the other; submit the job again, with shorter segments or a smaller output"
            ) from None

    def _close_call(self, call: _Call, record: Mapping[str, Any] | None = None) -> None:
        seconds = 0.0
        if call.started_at is not None:
            seconds = time.monotonic() - call.started_at
            call.line.on_seconds(seconds)
        self._settle(call, seconds)
        if record is not None and seconds > 0:
            megapixels = call.order.segment.num_frames * call.line.megapixels_per_frame
            speed = self._speeds[call.line.model]
            self._speeds[call.line.model] = _SPEED_MEMORY * speed + (1 - _SPEED_MEMORY) * megapixels / seconds

    def _take_failure(self, line: Line, order: SegmentOrder, error: Exception) -> None:
        """Try again later or elsewhere, or give the job up."""
        index, limits = order.segment.index, self._limits()
        line.tries[index] += 1
        if isinstance(error, StalledError):
            is_final = line.stalls[index] >= limits.max_segment_tries
        else:
            # Processes that died are counted where they died, so that a restart does not forget them.
            most_tries = max(self._retries.num_tries, limits.max_segment_tries + 2)
            is_final = not is_transient(error) or isinstance(error, StalePlanError) or line.tries[index] >= most_tries
        if is_final or not line.is_open:
            count("seedvr2_segments", state="failed")
            line.outcomes.put_nowait(error)
            return
        count("seedvr2_retries", state=type(error).__name__)
        _log.warning("segment %d of %s is tried again: %s", index, order.job_id, error)
        pause = 0.0 if isinstance(error, StalledError) else self._retries.pause_seconds(line.tries[index])
        loop = asyncio.get_running_loop()

        def send_again() -> None:
            line.paused.discard(timer)
            line.waiting.appendleft(order)
            self._fill(line.model)

        timer = loop.call_later(pause, send_again)
        line.paused.add(timer)

    def _forget(self, line: Line) -> None:
        if self._lines.get(line.candidate.job_id) is line:
            del self._lines[line.candidate.job_id]
            self._shares[line.model].leave(line.candidate.job_id)
