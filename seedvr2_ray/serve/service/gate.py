"""Who may ask now: requests in a minute and requests at a time, of each key, owner and address."""

from collections.abc import Callable
from contextlib import ExitStack

import anyio.to_thread

from seedvr2_ray.serve.config import Limits
from seedvr2_ray.serve.security.auth import Caller
from seedvr2_ray.serve.security.rate_limits import RequestLimiter, counted_as
from seedvr2_ray.serve.security.seats import Seats


class Gate:
    """Counts the requests that one process answers. Belongs to one event loop."""

    def __init__(self, limits: Callable[[], Limits], rates: RequestLimiter) -> None:
        """Let nobody in yet.

        Args:
            limits: gives those in force.
            rates: counts requests, perhaps for several processes.
        """
        self._limits = limits
        self._rates = rates
        self._of_owners = Seats("requests")
        self._of_addresses = Seats("requests from your address")

    async def count(self, caller: Caller | None, host: str | None) -> None:
        """Count a request towards the limit of its key, or of its address while nobody has signed in.

        Raises:
            RateRefusal: there were too many in the last minute.
        """
        per_minute = self._limits().requests_per_minute
        if self._rates.is_at_hand:
            self._rates.require(counted_as(caller, host), per_minute)
        else:
            await anyio.to_thread.run_sync(self._rates.require, counted_as(caller, host), per_minute)

    def admit(self, client: tuple[str, int] | None, held: ExitStack) -> None:
        """Let a request in before anybody knows whose it is.

        Args:
            client: the peer, as ASGI names it.
            held: closed when the request is answered.

        Raises:
            RateRefusal: its address has too many open.
        """
        name = counted_as(None, client[0] if client else None)
        held.enter_context(self._of_addresses.taken(name, self._limits().max_requests_at_once_per_address))

    def hold(self, caller: Caller, held: ExitStack) -> None:
        """Keep a place of an owner until a request of his is answered.

        Raises:
            RateRefusal: he has too many open.
        """
        held.enter_context(self._of_owners.taken(caller.owner, self._limits().max_requests_at_once_per_owner))
