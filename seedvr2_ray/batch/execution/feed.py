"""Results of a dataset, taken from it by a thread, so that the driver can look after its tasks meanwhile."""

import queue
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any, cast
from uuid import uuid4

import pyarrow
from ray.data import Dataset
from ray.data.exceptions import ExecutionTimeoutError

from seedvr2_ray.batch.execution.rows import SegmentResult, VideosRow, from_payload
from seedvr2_ray.errors import DeploymentError

_END_SECONDS = 60.0

_unwanted: set[str] = set()
"""Executions that are to end. Ray makes its callbacks by itself and sends their description to workers, so it may
name what they listen to and not hold it."""


class _Unwanted(ExecutionTimeoutError):
    """Ends an execution from inside. As a time limit it is no news to Ray, which would print a bug report otherwise."""


class _EndsWhenUnwanted:
    """Ray calls this at every step of an execution; there is no other way to end one that yields nothing."""

    def __init__(self, name: str) -> None:
        self._name = name

    def before_execution_starts(self, executor: object) -> None: ...

    def on_execution_step(self, executor: object) -> None:
        if self._name in _unwanted:
            raise _Unwanted("its results are no longer wanted")

    def after_execution_succeeds(self, executor: object) -> None: ...

    def after_execution_fails(self, executor: object, error: Exception) -> None: ...


class Feed:
    """Takes results from a dataset as they come, until it is over or nobody wants more."""

    def __init__(self, dataset: Dataset) -> None:
        """Take hold of a dataset that does not run yet."""
        self._dataset = dataset
        self._name = uuid4().hex
        dataset.context.custom_execution_callback_classes.append(
            partial(_EndsWhenUnwanted, self._name)  # type: ignore[arg-type]  # called like a class, as Ray does
        )
        self._items: queue.Queue[Any] = queue.Queue(maxsize=1000)
        self._error: BaseException | None = None
        self._is_drained = threading.Event()
        self._thread = threading.Thread(target=self._read, name="results", daemon=True)

    def __enter__(self) -> "Feed":
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """End the execution, so that what it holds of the cluster is free for the next one."""
        _unwanted.add(self._name)
        self._drop_until_drained()
        if not self._thread.is_alive():
            _unwanted.discard(self._name)
        elif kind is None:
            raise DeploymentError(
                f"Ray Data did not end within {_END_SECONDS:.0f} s of being told to; run the same command again: "
                "it goes on from what is committed"
            )

    @property
    def is_over(self) -> bool:
        """Whether everything was taken."""
        return self._is_drained.is_set() and self._items.empty()

    def take(self, timeout_seconds: float) -> Iterator[SegmentResult | VideosRow]:
        """Yield what is there, after waiting a little for the first."""
        if self._is_drained.is_set():
            timeout_seconds = 0.0
        try:
            yield self._items.get(timeout=timeout_seconds) if timeout_seconds else self._items.get_nowait()
            while True:
                yield self._items.get_nowait()
        except queue.Empty:
            if self._error is not None and self._items.empty():
                raise DeploymentError(f"Ray gave the job up: {self._error}") from self._error

    def _drop_until_drained(self) -> None:
        for _ in range(int(_END_SECONDS)):
            while not self._items.empty():  # The thread may wait for room.
                self._items.get_nowait()
            self._thread.join(timeout=1.0)
            if not self._thread.is_alive():
                return

    def _read(self) -> None:
        try:
            for batch in self._dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for payload in cast(pyarrow.Table, batch).column("payload").to_pylist():
                    self._items.put(from_payload(payload))
                if self._name in _unwanted:
                    return
        except Exception as error:  # noqa: BLE001  # Raised again in the thread that drives.
            self._error = error
        finally:
            self._is_drained.set()
