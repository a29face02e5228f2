"""Reading a source again from the start, for whoever has to begin a segment once more."""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Rewindable(Generic[Item]):
    """Items that can be read again from the start until they are told to forget it."""

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items
        self._read: list[Item] | None = []
        self._again: deque[Item] = deque()

    def __iter__(self) -> Iterator[Item]:
        while True:
            item = self._again.popleft() if self._again else next(self._items, None)
            if item is None:
                return
            if self._read is not None:
                self._read.append(item)
            yield item

    @property
    def can_rewind(self) -> bool:
        """Whether nothing has been forgotten."""
        return self._read is not None

    def rewind(self) -> None:
        """Begin again; what was read before comes first."""
        self._again = deque([*(self._read or []), *self._again])
        self._read = []

    def forget(self) -> None:
        """Keep nothing that is read from now on, nor what was."""
        self._read = None
