"""Results of a dataset, taken from it by a thread and put where the driver waits for events."""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from uuid import uuid4

import pyarrow
from ray.data import Dataset
from ray.data.exceptions import ExecutionTimeoutError

from seedvr2_ray.batch.execution.head import HeadLostError
from seedvr2_ray.batch.execution.rows import SegmentResult, VideosRow, from_payload
from seedvr2_ray.errors import DeploymentError

_END_SECONDS = 60.0
_MOST_UNREAD = 1000
"""Results that wait for the driver; beyond them Ray is not asked for more."""


class Restraint:
    """Holds an execution back while too much of what it made is not finished.

    Ray Data holds back by bytes, and a row of some kilobytes may stand for an intermediate of hundreds of megabytes.
    """

    def __init__(self, most_waiting: int) -> None:
        """Let so many orders wait."""
        self._most_waiting = most_waiting
        self._num_waiting = 0
        self._is_over = False
        self._changed = threading.Condition()

    def note(self, num_waiting: int) -> None:
        """Say how many orders are not done."""
        with self._changed:
            self._num_waiting = num_waiting
            self._changed.notify_all()

    def end(self) -> None:
        """Hold nothing back any more: the execution is to end."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    @property
    def is_over(self) -> bool:
        """Whether the execution is to end."""
        return self._is_over

    def wait(self) -> None:
        """Return as soon as more may be made."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or self._num_waiting <= self._most_waiting)


_restraints: dict[str, Restraint] = {}
"""Of executions that run. Ray makes its callbacks by itself and sends their description to workers, so it may
name what they listen to and not hold it."""


class _Unwanted(ExecutionTimeoutError):
    """Ends an execution from inside. As a time limit it is no news to Ray, which would print a bug report otherwise."""


class _Steers:
    """Ray calls this at every step of an execution; there is no other way to end or to hold one that yields nothing."""

    def __init__(self, name: str) -> None:
        self._name = name

    def before_execution_starts(self, executor: object) -> None: ...

    def on_execution_step(self, executor: Any) -> None:
        _forget_blocks(executor)
        restraint = _restraints.get(self._name)
        if restraint is not None:
            restraint.wait()
        if restraint is None or restraint.is_over:
            raise _Unwanted("its results are no longer wanted")

    def after_execution_succeeds(self, executor: object) -> None: ...

    def after_execution_fails(self, executor: object, error: Exception) -> None: ...


def _forget_blocks(executor: Any) -> None:
    """Empty the operators' lists of how each block was made, which are for a summary that nobody reads.

    A block is a row here: over a kilobyte for each in each operator, up to the end of the archive.
    """
    for operator in executor._topology:
        for blocks in operator.get_stats().values():
            blocks.clear()


@dataclass(frozen=True, slots=True)
class FeedOver:
    """The event that nothing more will be received from a dataset."""

    error: BaseException | None


class Feed:
    """Puts what a dataset yields where the driver waits, until it is over or nobody wants more."""

    def __init__(self, dataset: Dataset, put: Callable[[Any], object], restraint: Restraint) -> None:
        """Take hold of a dataset that does not run yet.

        Args:
            put: told of every result, and of the end by :class:`FeedOver`; must not block.
            restraint: holds the execution back.
        """
        self._dataset = dataset
        self._put = put
        self._restraint = restraint
        self._name = uuid4().hex
        dataset.context.custom_execution_callback_classes.append(
            partial(_Steers, self._name)  # type: ignore[arg-type]  # called like a class, as Ray does
        )
        self._room = threading.Semaphore(_MOST_UNREAD)
        self._is_wanted = True
        self._thread = threading.Thread(target=self._read, name="results", daemon=True)

    def __enter__(self) -> "Feed":
        _restraints[self._name] = self._restraint
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """End the execution, so that what it holds of the cluster is free for the next one."""
        self._is_wanted = False
        self._restraint.end()
        self._room.release(_MOST_UNREAD)  # The thread may wait for room.
        if kind is HeadLostError:
            return
        self._thread.join(timeout=_END_SECONDS)
        if not self._thread.is_alive():
            del _restraints[self._name]
        elif kind is None:
            raise DeploymentError(
                f"Ray Data did not end within {_END_SECONDS:.0f} s of being told to; run the same command again: "
                "it goes on from what is committed"
            )

    def read(self, item: SegmentResult | VideosRow) -> SegmentResult | VideosRow:
        """Say that the driver has one of the results, which makes room for another."""
        self._room.release()
        return item

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            for batch in self._dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for payload in cast(pyarrow.Table, batch).column("payload").to_pylist():
                    self._room.acquire()
                    if not self._is_wanted:
                        return
                    self._put(from_payload(payload))
        except Exception as raised:  # noqa: BLE001  # Raised again in the thread that drives.
            error = raised
        finally:
            self._put(FeedOver(error))


Events = queue.SimpleQueue[Any]
"""What the driver waits for: results, :class:`FeedOver`, and orders that were carried out."""
