"""How many requests one key or one address may make in a minute.

Counted in each ingress replica by default, so that a deployment of several lets through that many times more; a shared
store (``redis://``) counts for all of them together.
"""

import ipaddress
import logging
import math
import time
from urllib.parse import urlsplit

from limits import RateLimitItemPerMinute
from limits.errors import ConfigurationError, StorageError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import MovingWindowRateLimiter

from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.serve.problems import RateRefusal
from seedvr2_ray.serve.security.auth import Caller

_log = logging.getLogger(__name__)

MOST_COUNTED = 20_000
"""Keys and addresses of the last minute that are counted one by one; all further ones share one count."""
_OTHERS = "others"


class RequestLimiter:
    """Counts requests in a window that moves with time, so that no burst fits around a full minute."""

    def __init__(self, storage_url: str = "memory://") -> None:
        """Open the place where requests are counted.

        Raises:
            DeploymentError: the URL is no store of counts, or its client is not installed.
        """
        try:
            storage = storage_from_string(storage_url, wrap_exceptions=True)
        except (ConfigurationError, ImportError) as error:
            # The URL may hold a password.
            scheme = urlsplit(storage_url).scheme
            raise DeploymentError(
                f"requests cannot be counted in a store with scheme {scheme!r}; use memory://, or redis:// with the "
                "package redis installed"
            ) from error
        self._memory = storage if isinstance(storage, MemoryStorage) else None
        self._window = MovingWindowRateLimiter(storage)

    @property
    def is_at_hand(self) -> bool:
        """Whether counting waits for nobody: not for a store on another machine."""
        return self._memory is not None

    def require(self, who: str, per_minute: int) -> None:
        """Count one request.

        Args:
            who: as :func:`counted_as` names them.
            per_minute: how many they may make.

        Raises:
            RateRefusal: it is one too many.
        """
        item = RateLimitItemPerMinute(per_minute)
        name = self._bounded(item, who)
        try:
            if self._window.hit(item, name):
                return
            free_again = self._window.get_window_stats(item, name).reset_time
        except StorageError as error:
            # To restore nothing because nothing can be counted would be the greater harm.
            _log.warning("requests cannot be counted at present: %s", type(error.storage_error).__name__)
            return
        wait = max(1, math.ceil(free_again - time.time()))
        raise RateRefusal(
            f"more than {per_minute} requests in a minute, the limit here; wait {wait} s and ask less often, "
            "or follow a job's events instead of polling",
            wait,
        )

    def _bounded(self, item: RateLimitItemPerMinute, who: str) -> str:
        """Keep a crowd of addresses from filling the memory."""
        if self._memory is None or len(self._memory.events) < MOST_COUNTED:
            return who
        return who if item.key_for(who) in self._memory.events else _OTHERS


def counted_as(caller: Caller | None, client_host: str | None) -> str:
    """Say under which name requests are counted: the key's, or else the owner's, or else the address's.

    Args:
        caller: None while nobody has signed in.
        client_host: address of the peer. Of an IPv6 address its network counts: one machine has billions of them.
    """
    if caller is not None:
        return f"key/{caller.key_id}" if caller.key_id else f"owner/{caller.owner}"
    try:
        address = ipaddress.ip_address(client_host or "")
    except ValueError:
        return "address/unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return f"address/{ipaddress.IPv6Network((int(address) >> 64 << 64, 64))}"
        return f"address/{address.ipv4_mapped}"
    return f"address/{address}"
