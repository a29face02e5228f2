"""Decoding ahead of the restorer and encoding behind it, so that neither makes it wait.

Both keep a bounded number of batches in flight: memory does not depend on the length of a segment.
PyAV and torch release the interpreter lock while they work, so plain threads are enough.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")

_END = object()


class ReadAhead(Generic[Item]):
    """Iterate over ``source`` in a thread of its own, at most ``depth`` items ahead of the reader.

    Use as a context manager: leaving it stops the thread and closes the source.
    """

    def __init__(self, source: Iterable[Item], *, depth: int = 2) -> None:
        self._source = source
        self._items: queue.Queue[object] = queue.Queue(maxsize=depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
        self.waiting_seconds = 0.0
        """Time the reader spent waiting for an item: how long the restorer was idle."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        _join(self._thread)

    def __iter__(self) -> Iterator[Item]:
        while True:
            began = time.perf_counter()
            item = self._items.get()
            self.waiting_seconds += time.perf_counter() - began
            if item is _END:
                return
            if isinstance(item, _Failure):
                raise item.error
            yield item  # type: ignore[misc]  # the queue holds items, failures and the end mark

    def _run(self) -> None:
        last: object = _END
        try:
            source = iter(self._source)
            try:
                for item in source:
                    if not self._put(item):
                        break
            finally:
                close = getattr(source, "close", None)
                if close is not None:
                    close()
        except BaseException as error:  # noqa: BLE001  # carried to the reader, whatever it is
            last = _Failure(error)
        self._put(last)

    def _put(self, item: object) -> bool:
        while not self._stopped.is_set():
            try:
                self._items.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False


class WriteBehind(Generic[Item]):
    """Hand items to ``write`` in a thread of its own, at most ``depth`` of them waiting.

    Use as a context manager: leaving it normally waits until all are written and raises what the
    writer raised; leaving it by an exception drops what is waiting.
    """

    def __init__(self, write: Callable[[Item], None], *, depth: int = 2) -> None:
        self._write = write
        self._items: queue.Queue[object] = queue.Queue(maxsize=depth)
        self._failure: BaseException | None = None
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="write-behind", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._abandoned.set()
        _join(self._thread, before=lambda: self._items.put(_END))
        if error is None and self._failure is not None:
            raise self._failure

    def put(self, item: Item) -> None:
        """Queue one item; raises what the writer raised for an earlier one."""
        if self._failure is not None:
            raise self._failure
        self._items.put(item)

    def _run(self) -> None:
        while (item := self._items.get()) is not _END:
            # After a failure the queue is still emptied, so that ``put`` never blocks for ever.
            if self._failure is not None or self._abandoned.is_set():
                continue
            try:
                self._write(item)  # type: ignore[arg-type]  # the end mark was taken out above
            except BaseException as error:  # noqa: BLE001  # carried to the caller, whatever it is
                self._failure = error


def _join(thread: threading.Thread, *, before: Callable[[], None] = lambda: None) -> None:
    """Wait for a thread to end, also when Ctrl-C comes meanwhile: that is raised once it has ended.

    The caller closes what the thread works on, and a codec that is closed while it encodes takes the
    process with it.
    """
    interrupt: KeyboardInterrupt | None = None
    is_asked = False
    while thread.is_alive():
        try:
            if not is_asked:
                before()
                is_asked = True
            thread.join()
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error
