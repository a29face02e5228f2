"""A queue between two threads that is bounded, ends cleanly from either side, and says what it dropped."""

import threading
from collections import deque
from typing import Generic, Literal, TypeVar

Item = TypeVar("Item")
Policy = Literal["drop", "slow"]
"""What happens to a sender that is faster than the restorer: frames are ``drop``ped, or the sender is made ``slow``."""


class Channel(Generic[Item]):
    """First in, first out, with room for so many items.

    With ``drop`` a full channel lets go of what has waited longest, because the newest picture is what a viewer of a
    live stream wants; with ``slow`` whoever puts something in waits for room.
    """

    def __init__(self, most_items: int, policy: Policy = "slow") -> None:
        if most_items < 1:
            raise ValueError(f"a channel needs room for an item, got {most_items}")
        self._most = most_items
        self._policy = policy
        self._items: deque[Item] = deque()
        self._closed = False
        self._changed = threading.Condition()
        self.num_dropped = 0
        """Items that nobody will take."""

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> Item | None:
        """Put something in.

        Returns:
            What was dropped for it; None otherwise, also when the channel was closed by its reader.
        """
        with self._changed:
            if self._policy == "slow":
                self._changed.wait_for(lambda: self._closed or len(self._items) < self._most)
            if self._closed:
                return None
            self._items.append(item)
            self._changed.notify_all()
            if len(self._items) > self._most:
                self.num_dropped += 1
                return self._items.popleft()
            return None

    def take(self, most: int = 1, timeout: float | None = None) -> list[Item]:
        """Take up to so many items, waiting for the first one; none at the end, or after so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed, timeout)
            taken = [self._items.popleft() for _ in range(min(most, len(self._items)))]
            self._changed.notify_all()
            return taken

    def close(self) -> None:
        """Let nothing more in; what is there can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Close it and forget what is in it: nobody takes anything any more."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    @property
    def is_over(self) -> bool:
        """Whether nothing is in it and nothing will be."""
        return self._closed and not self._items
