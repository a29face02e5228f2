"""Links that open one thing for whoever holds them, until they end: for players, pictures and event sockets.

A browser's ``<video>``, ``<img>``, ``EventSource`` and ``WebSocket`` cannot send a key. The service signs the
paths it gives them instead; a signature opens one path for one purpose and says nothing about its owner.
"""

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlencode

from seedvr2_ray.serve.problems import AuthenticationRefusal

LONGEST_SECONDS = 7 * 24 * 3600
"""A link that would hold for longer is refused even if it is signed rightly."""
USUAL_SECONDS = 12 * 3600
_STEP_SECONDS = 3600
_READING = frozenset({"GET", "HEAD"})


class SignedLinks:
    """Signs and checks the paths of one deployment."""

    def __init__(self, key: bytes, *, now: Callable[[], float] = time.time) -> None:
        if len(key) < 16:
            raise ValueError(f"a signing key needs at least 16 bytes to be worth anything, got {len(key)}")
        # The key may also serve others; derived, a signature of theirs is never one of ours.
        self._key = hmac.new(key, b"seedvr2-ray signed links", hashlib.sha256).digest()
        self._now = now

    def sign(self, path: str, *, seconds: float = USUAL_SECONDS, method: str = "GET") -> str:
        """Return ``path`` with the query that opens it.

        The end is rounded up to whole hours, so that a link asked for again is the same link, and what a
        browser keeps under it stays of use.

        Args:
            path: absolute, without a query.
            seconds: for how long, at least.
        """
        expires = -int(-(self._now() + min(seconds, LONGEST_SECONDS - _STEP_SECONDS)) // _STEP_SECONDS) * _STEP_SECONDS
        return f"{path}?{urlencode({'expires': expires, 'signature': self._signature(method, path, expires)})}"

    def require_valid(self, method: str, path: str, query: Mapping[str, str]) -> None:
        """Refuse a request that its query does not open.

        Raises:
            AuthenticationRefusal: the signature is not ours, is for something else, or has ended.
        """
        method = "GET" if method in _READING else method
        text = query.get("expires", "")
        expires = int(text) if text.isascii() and text.isdecimal() and len(text) <= 12 else 0
        signature = query.get("signature", "")
        # Compared before the time is looked at, so that an end that was written in by hand tells nothing.
        if not hmac.compare_digest(signature.encode(), self._signature(method, path, expires).encode()):
            raise AuthenticationRefusal("this link's signature is not valid; take the link from the job again")
        left = expires - self._now()
        if not 0 < left <= LONGEST_SECONDS:
            raise AuthenticationRefusal("this link has ended; take a new one from the job")

    def _signature(self, method: str, path: str, expires: int) -> str:
        message = f"{method}\n{path}\n{expires}".encode()
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()
