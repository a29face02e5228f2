"""A gang behind the seam that every restorer fits: its leader, which feeds it, follows it and starts it again.

The leader is no rank. It decodes ahead and encodes behind as for any restorer, gives every rank the frames, takes the
result from rank 0, and outlives whatever happens to the ranks. All ranks do the same steps in the same order; the
leader hands out no batch before the slowest has come near it, and answers every rank alike whether to go on, so that a
segment which is stopped leaves the ranks together and ready for the next one.
"""

import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from seedvr2_ray.errors import (
    CapacityError,
    DeviceMemoryError,
    GangError,
    InputError,
    RetryableError,
    SeedVR2Error,
    StoppedElsewhereError,
)
from seedvr2_ray.frames import Frames
from seedvr2_ray.restoration.gang.messages import Answer, Begin, Check, Ended, Made, Want, Wire
from seedvr2_ray.restoration.gang.ranks import GangHost, GangSpec, Ranks
from seedvr2_ray.restoration.restorer import RestorerIdentity, SegmentTask
from seedvr2_ray.restoration.rewind import Rewindable
from seedvr2_ray.restoration.work.failures import leaves_device_unusable

if TYPE_CHECKING:
    from seedvr2_ray.restoration.planning.memory import MemoryLesson

_log = logging.getLogger(__name__)
_MOST_BATCHES = 4
"""That the fastest rank may be ahead of the slowest, unless ranks take turns and say that they read further ahead."""
_ALL = sys.maxsize
"""Batches that a rank has which wants no more."""


class _LearnedError(Exception):
    """Memory ran out, and ranks that are started again will plan otherwise."""

    def __init__(self, failure: CapacityError) -> None:
        super().__init__(str(failure))
        self.failure = failure


@dataclass(slots=True)
class _Held:
    ranks: Ranks

    def end(self) -> None:
        self.ranks.end()


class GangRestorer:
    """Several processes behind the :class:`~seedvr2_ray.restoration.restorer.Restorer` seam."""

    def __init__(self, spec: GangSpec, new_host: Callable[[], GangHost]) -> None:
        """Start the ranks and wait until they are ready.

        Args:
            new_host: makes where a gang's processes run; called once more whenever the gang is started again.

        Raises:
            GangError: they did not come up.
            SeedVR2Error: or what they said of the deployment or the model.
        """
        self._spec = spec
        self._new_host = new_host
        self._turn = threading.Lock()
        self._held = _Held(Ranks.start(spec, new_host()))
        self._identity = self._held.ranks.identity
        self._closed = threading.Event()
        self._lessons: tuple[MemoryLesson, ...] = ()
        # Whoever forgets to close, or ends, leaves no processes behind all the same.
        weakref.finalize(self, _Held.end, self._held)

    @property
    def identity(self) -> RestorerIdentity:
        """Who this is; the same for every size."""
        return self._identity

    @property
    def gang_size(self) -> int:
        """Ranks, with a device each."""
        return self._spec.size

    @property
    def pids(self) -> tuple[int, ...]:
        """Processes of the ranks that were started last."""
        return self._held.ranks.pids

    @property
    def loss(self) -> str | None:
        """Why the gang does not stand; None while it does."""
        return self._held.ranks.loss

    def restore(self, frames: Iterable[Frames], task: SegmentTask) -> Iterator[Frames]:
        """Restore one segment as a stream; see :class:`~seedvr2_ray.restoration.restorer.Restorer`.

        When memory runs out on a rank before the first frame is done, the ranks are started again and begin the segment
        in the smaller steps that the lost ones learned of; every try leaves fewer, so that it ends.

        Raises:
            GangError: a rank was lost in mid-segment. All of them are gone then; the next call starts them again.
            CapacityError: memory ran out after the first frame. The next call takes smaller steps.
        """
        with self._turn:
            source = Rewindable(iter(frames))
            while True:
                try:
                    yield from self._attempt(source, task)
                    return
                except _LearnedError as learned:
                    if not source.can_rewind:
                        raise learned.failure from None
                    _log.warning("a gang of %d is started again and takes smaller steps: %s", self.gang_size, learned)
                source.rewind()

    def _attempt(self, source: Rewindable[Frames], task: SegmentTask) -> Iterator[Frames]:
        self._stand_up()
        call = _Call(self._held.ranks, source, task, self._spec.timeouts.stop_seconds)
        try:
            for made in call.run():
                source.forget()
                yield made
        except CapacityError as error:
            if self._learn(call.lessons):
                raise _LearnedError(error) from error
            raise
        finally:
            if not call.is_in_step:
                self._held.end()

    def _learn(self, lessons: "Iterable[MemoryLesson]") -> bool:
        """Keep what ranks have learned beyond what they were told; say whether there is any."""
        learned = tuple(lesson for lesson in dict.fromkeys(lessons) if lesson not in self._lessons)
        self._lessons += learned
        return bool(learned)

    def ask_after(self, seconds: float) -> str | None:
        """Return why the gang does not stand, after asking every rank that can be asked; None while it does."""
        silent = [] if self.loss is not None else self._held.ranks.silent(seconds)
        return f"ranks {silent} do not answer" if silent else self.loss

    def revive(self) -> None:
        """Start the gang again if it is lost; otherwise do nothing. Waits for a segment that is at work.

        Raises:
            GangError: it does not come up.
        """
        with self._turn:
            self._stand_up()

    def close(self) -> None:
        """End the ranks; nothing of them is left when this returns. A segment at work fails with it."""
        self._closed.set()
        self._held.end()

    def _stand_up(self) -> None:
        if self._closed.is_set():
            raise GangError("this gang was closed; make another one")
        if self._held.ranks.loss is not None or self._held.ranks.is_over:
            self._held.end()
            self._held.ranks = Ranks.start(self._spec, self._new_host(), self._lessons)
            if self._closed.is_set():  # Meanwhile: whoever did it has ended only what there was.
                self._held.end()
                raise GangError("this gang was closed while it was started")


class _Call:
    """One segment with the ranks: who has which frames, who may go on, who is through."""

    def __init__(self, ranks: Ranks, frames: Iterable[Frames], task: SegmentTask, stop_seconds: float) -> None:
        self._ranks = ranks
        self._source = iter(frames)
        self._task = task
        self._stop_seconds = stop_seconds
        self._numbers = {id(wire): rank for rank, wire in enumerate(ranks.wires())}
        self._at_work = list(ranks.wires())
        self._wanted: dict[int, int] = {}
        """Batches that ranks wait for."""
        self._taken = [0] * ranks.size
        self._batches: dict[int, Frames | None] = {}
        """Those that not all ranks have; None is the end."""
        self._num_read = 0
        self._frames_before = [0]
        """Frames in front of each batch that was read, and of the next one."""
        self._num_checks = 0
        self._stops_at: int | None = None
        """Number of the check from which on all ranks are stopped."""
        self._reason: BaseException | None = None
        """Why the caller's side wants it stopped."""
        self._failures: dict[int, BaseException] = {}
        self.lessons: list[MemoryLesson] = []
        """Of ranks that failed."""
        self._limit: float | None = None
        """When ranks that are still at work will not be waited for any more."""
        self.is_in_step = False
        """Whether all ranks came to the end of the segment and are ready for the next one."""

    def run(self) -> Iterator[Frames]:
        """Yield what rank 0 makes."""
        try:
            for wire in self._at_work:
                wire.send(Begin(replace(self._task, check_cancelled=_go_on)))
            while (made := self._next()) is not None:
                yield made
        except (EOFError, OSError):  # Of a connection; what the source raised is kept in mind and raised below.
            raise self._ranks.broke() from None
        finally:
            # Whoever wants no more leaves the generator where it yields.
            self._come_to_an_end()
        self._raise_failure()

    def _next(self) -> Frames | None:
        """Serve the ranks until rank 0 has made something; None when nobody is at work any more."""
        while self._at_work:
            ready = self._ranks.listen(self._at_work, until=self._limit)
            if not ready:
                return None
            for wire in ready:
                made = self._serve(wire)
                self._hand_out()
                if made is not None:
                    return made
        self.is_in_step = not self._failures or self._failed_alike()
        return None

    def _serve(self, wire: Wire) -> Frames | None:
        rank = self._numbers[id(wire)]
        said, frames = wire.receive()
        if isinstance(said, Made):
            # Stopping here would stop one rank alone; they all ask soon.
            wire.send(Answer.GO)
            return frames
        if isinstance(said, Want):
            self._wanted[rank] = said.number
        elif isinstance(said, Check):
            wire.send(Answer.GO if self._may_go_on(said.number) else Answer.STOP)
        elif isinstance(said, Ended):
            self._at_work.remove(wire)
            self._taken[rank] = _ALL
            if said.failure is not None:
                self._failures[rank] = said.failure
                self.lessons.extend(said.lessons)
                self._begin_to_stop()
        return None

    def _hand_out(self) -> None:
        """Give batches to those that wait for one, unless they are too far ahead of the others."""
        wires = self._ranks.wires()
        for rank, number in sorted(self._wanted.items(), key=lambda item: item[1]):
            if self._is_far_ahead(number) and self._stops_at is None:
                continue
            batch = self._batch(number)
            del self._wanted[rank]
            self._taken[rank] = number + 1
            if isinstance(batch, Frames):
                wires[rank].send(Answer.GO, batch)
            else:
                wires[rank].send(batch)
        for number in [number for number in self._batches if number < min(self._taken)]:
            del self._batches[number]

    def _is_far_ahead(self, number: int) -> bool:
        slowest = min(self._taken)
        if number < max(self._num_read, slowest + _MOST_BATCHES):
            return False
        return self._frames_before[self._num_read] - self._frames_before[slowest] >= self._ranks.frames_ahead

    def _batch(self, number: int) -> Frames | Answer:
        if number >= self._num_read and self._stops_at is None:
            try:
                batch = self._batches[number] = next(self._source, None)
                self._num_read = number + 1
                self._frames_before.append(self._frames_before[number] + (0 if batch is None else len(batch)))
            except BaseException as error:  # noqa: BLE001  # Raised again once the ranks have stopped.
                self._stop(error)
        if number >= self._num_read:
            return Answer.STOP
        batch = self._batches[number]
        return Answer.NO_MORE if batch is None else batch

    def _may_go_on(self, number: int) -> bool:
        if self._stops_at is None and number >= self._num_checks:
            try:
                self._task.check_cancelled()
            except BaseException as error:  # noqa: BLE001  # Raised again once the ranks have stopped.
                self._stop(error)
        may = self._stops_at is None or number < self._stops_at
        self._num_checks = max(self._num_checks, number + 1)
        return may

    def _stop(self, reason: BaseException) -> None:
        self._reason = self._reason or reason
        self._begin_to_stop()

    def _begin_to_stop(self) -> None:
        """Stop all ranks at the next thing that none of them has asked yet: in the same place."""
        if self._stops_at is None:
            self._stops_at = self._num_checks
            self._limit = time.monotonic() + self._stop_seconds

    def _come_to_an_end(self) -> None:
        if not self._at_work:
            return
        self._begin_to_stop()
        try:
            self._hand_out()
            while self._next() is not None:
                pass  # Nobody wants it any more.
        except (GangError, EOFError, OSError):
            return  # Not in step, and so the gang is ended.

    def _failed_alike(self) -> bool:
        """Say whether all ranks failed in the same place, for a reason that leaves them able to go on."""
        return len(self._failures) == self._ranks.size and all(
            isinstance(failure, InputError | DeviceMemoryError | StoppedElsewhereError)
            for failure in self._failures.values()
        )

    def _raise_failure(self) -> None:
        if self._reason is not None:
            raise self._reason
        if self._failures:
            raise _worst(self._failures)
        self._ranks.require()


def _worst(failures: dict[int, BaseException]) -> BaseException:
    """Return what ranks failed with: the cause, where one failed and the others lost contact because of that."""
    consequences = (RetryableError, StoppedElsewhereError)
    rank, failure = min(failures.items(), key=lambda item: type(item[1]) in consequences)
    if type(failure) in consequences or leaves_device_unusable(failure):
        # Of the ranks, not of this process: another gang may do it.
        return GangError(f"rank {rank} of the gang failed: {failure}")
    if not isinstance(failure, SeedVR2Error):
        failure.add_note(f"in rank {rank} of the gang")
    return failure


def _go_on() -> None:
    """Stand in for what only the leader can ask."""
