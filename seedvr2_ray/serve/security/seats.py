"""How many requests of one caller are answered at a time, so that nobody holds all of what a process can do.

Counted in each ingress replica, on its event loop.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from seedvr2_ray.serve.problems import RateRefusal


class Seats:
    """What callers have open at this moment, by name."""

    def __init__(self, what: str) -> None:
        """Count from nothing.

        Args:
            what: is counted, for the refusal: ``requests``.
        """
        self._what = what
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taken(self, who: str, most: int) -> Iterator[None]:
        """Hold one more for as long as the block runs.

        Raises:
            RateRefusal: they have as many open as one may have.
        """
        if self._taken[who] >= most:
            raise RateRefusal(
                f"{self._taken[who]} {self._what} of yours are open at once and no more are answered; "
                "wait for one of them to end"
            )
        self._taken[who] += 1
        try:
            yield
        finally:
            self._taken[who] -= 1
            if not self._taken[who]:
                del self._taken[who]

    def num_taken(self, who: str) -> int:
        """Say how many somebody has open."""
        return self._taken[who]
