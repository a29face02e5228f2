"""How long a leader has waited for somebody, when it may have been held up itself."""

import time
from collections.abc import Callable

_LARGEST_SHARE = 0.1
"""Of a limit that one look may use up."""


class Waiting:
    """Time that passed while a leader was looking.

    A machine that stops for a while, or has too much to do, stops the leader too. When it goes on, the leader may look
    again before the others could show that they live: what passed meanwhile says nothing about them.
    """

    def __init__(self, limit_seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin to wait, for somebody who should be heard within a limit."""
        self._limit = limit_seconds
        self._clock = clock
        self.begin_anew()

    def begin_anew(self) -> None:
        """Somebody was heard."""
        self.seconds = 0.0
        self._looked_at = self._clock()

    def is_over(self) -> bool:
        """Look again: count what passed since the last look, and say whether it is too much together."""
        now = self._clock()
        self.seconds += min(now - self._looked_at, _LARGEST_SHARE * self._limit)
        self._looked_at = now
        return self.seconds > self._limit
