"""HTTP requests that reach the addresses that were checked and no others.

A name is looked up once per connection, every answer is checked, and the connection goes to a checked address; the
name itself stays in ``Host`` and in the TLS handshake. Nothing is taken from the environment: a proxy would look the
name up again.
"""

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpcore
import httpx

from seedvr2_ray.serve.security.network_addresses import is_allowed, parse_address

Resolver = Callable[[str, int], Sequence[str]]
"""Returns the addresses of a host, best first. Raises OSError."""

USER_AGENT = "seedvr2-ray"
_STEP_SECONDS = 30.0
"""Longest wait for a connection, or for anything to be sent or received."""


class NoAddressError(httpcore.ConnectError):
    """A host has no address that may be connected to, or none at all."""


def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system for a host's addresses."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True, kw_only=True)
class Egress:
    """The ways out of this machine."""

    resolver: Resolver = resolve
    tls: ssl.SSLContext = field(default_factory=lambda: httpx.create_ssl_context(trust_env=False))
    allow_private: tuple[str, ...] = ()
    """Networks that may be reached although they are not public."""

    @contextmanager
    def request(
        self, method: str, url: httpx.URL, *, headers: dict[str, str], deadline: float, content: bytes | None = None
    ) -> Iterator[httpcore.Response]:
        """Send one request over a connection of its own; redirects are answers like any other.

        Args:
            deadline: by ``time.monotonic()``; everything, the body of the answer too, must be over by then.

        Yields:
            The answer, its body not read yet.

        Raises:
            NoAddressError: the host has no address that may be connected to.
            httpcore.TimeoutException: it took too long.
            httpcore.NetworkError: the connection failed.
            httpcore.ProtocolError: the answer is no HTTP.
        """
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        sent: dict[bytes | str, bytes | str] = {
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        sent.update(headers)
        backend = _CheckedBackend(self, deadline)
        steps = dict.fromkeys(("connect", "read", "write", "pool"), _STEP_SECONDS)
        with httpcore.ConnectionPool(ssl_context=self.tls, network_backend=backend, max_connections=1) as pool:
            with pool.stream(method, target, headers=sent, content=content, extensions={"timeout": steps}) as response:
                yield response

    def addresses_of(self, host: str, port: int, seconds: float) -> list[str]:
        """Look a host up and return those of its addresses that may be connected to.

        Raises:
            NoAddressError: there are none.
            httpcore.ConnectTimeout: the look-up took too long.
        """
        # The system's look-up cannot be given a time limit; a thread that waits for it can be left behind.
        answers: queue.SimpleQueue[Sequence[str]] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self.resolver(host, port))
            except (OSError, UnicodeError):
                answers.put(())

        threading.Thread(target=ask, name="resolve", daemon=True).start()
        try:
            found = answers.get(timeout=max(0.0, seconds))
        except queue.Empty:
            raise httpcore.ConnectTimeout(f"looking up {host} took too long") from None
        allowed = [str(address) for address in map(parse_address, found) if is_allowed(address, self.allow_private)]
        if not allowed:
            raise NoAddressError(f"{host} has no public address")
        return allowed


class _CheckedBackend(httpcore.NetworkBackend):
    """Connects to checked addresses only, and to nothing after the deadline."""

    def __init__(self, egress: Egress, deadline: float) -> None:
        self._egress = egress
        self._deadline = deadline
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        failure: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        wait = _left(self._deadline, timeout, httpcore.ConnectTimeout)
        for address in self._egress.addresses_of(host, port, wait):
            wait = _left(self._deadline, timeout, httpcore.ConnectTimeout)
            try:
                stream = self._sockets.connect_tcp(address, port, wait, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
                continue
            return _TimedStream(stream, self._deadline)
        assert failure is not None
        raise failure


class _TimedStream(httpcore.NetworkStream):
    """A connection whose every step ends by the deadline, however slowly the other side drips."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline, timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline, timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        wait = _left(self._deadline, timeout, httpcore.ConnectTimeout)
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, wait), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float, timeout: float | None, error: type[httpcore.TimeoutException]) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise error("the time allowed for the whole request is over")
    return left if timeout is None else min(left, timeout)
