"""Places that all owners share, of which one owner gets only some: looks at files, fetches, preparations."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from seedvr2_ray.serve.problems import RateRefusal


class SharedPlaces:
    """Hands out places in the order in which they are asked for, except that nobody has more than his share of them.

    Belongs to one event loop. Whoever waits behind requests of his own keeps nobody else waiting.
    """

    def __init__(self, num_places: int, *, per_owner: int, most_waiting: int | None = None) -> None:
        """Count from nothing.

        Args:
            num_places: of all together.
            per_owner: most that one may have of those.
            most_waiting: of one owner, besides those that have places; by default as many as come.
        """
        self._num_free = num_places
        self._per_owner = per_owner
        self._most_waiting = most_waiting
        self._num_held: Counter[str] = Counter()
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def place(self, owner: str) -> AsyncIterator[None]:
        """Hold a place for as long as the block runs.

        Raises:
            RateRefusal: too many of the owner's wait already.
        """
        num_waiting = sum(who == owner for who, _ in self._waiting)
        if self._most_waiting is not None and num_waiting >= self._most_waiting:
            raise RateRefusal(
                f"{num_waiting} of your files wait to be looked at and no more are taken; wait for one of them", 5
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((owner, turn))
        self._hand_out()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled() or not turn.done():
                self._waiting = [(who, each) for who, each in self._waiting if each is not turn]
            else:
                self._give_back(owner)
            raise
        try:
            yield
        finally:
            self._give_back(owner)

    def _give_back(self, owner: str) -> None:
        self._num_free += 1
        self._num_held[owner] -= 1
        if not self._num_held[owner]:
            del self._num_held[owner]
        self._hand_out()

    def _hand_out(self) -> None:
        left: list[tuple[str, asyncio.Future[None]]] = []
        for owner, turn in self._waiting:
            if self._num_free and self._num_held[owner] < self._per_owner and not turn.done():
                self._num_free -= 1
                self._num_held[owner] += 1
                turn.set_result(None)
            elif not turn.done():
                left.append((owner, turn))
        self._waiting = left
