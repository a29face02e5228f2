"""Requests to one service that are sent again while that may help."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from seedvr2_ray.client.errors import error_of_answer
from seedvr2_ray.client.transport import Answer, AnswerStream, Transport
from seedvr2_ray.errors import DeploymentError, RetryableError

_MAY_PASS = frozenset({408, 429, 502, 503, 504})
"""Statuses after which the same request may succeed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retries:
    """How often and how patiently a request is repeated. Every request of the client may be."""

    attempts: int = 6
    """Tries in all; of a transfer, tries in a row that bring nothing."""
    first_wait_seconds: float = 0.5
    """Doubles with every try."""
    longest_wait_seconds: float = 30.0
    """Of one wait. A service that asks for more (``Retry-After``) is not waited for."""

    def wait_seconds(self, failures: int) -> float:
        """Return how long to wait after so many failures in a row."""
        return float(min(self.longest_wait_seconds, self.first_wait_seconds * 2 ** (failures - 1)))


@dataclass(slots=True)
class Tries:
    """What is left of :class:`Retries` for one request or one transfer."""

    connection: "Connection"
    failures: int = 0

    def renew(self) -> None:
        """Start over: something was achieved."""
        self.failures = 0

    async def wait(self, error: Exception, *, seconds: float | None = None) -> None:
        """Wait after a failure, or raise it when that was the last try.

        Args:
            seconds: what the service asked for.
        """
        self.failures += 1
        retries = self.connection.retries
        if self.failures >= retries.attempts or (seconds or 0) > retries.longest_wait_seconds:
            raise error
        await self.connection.transport.sleep(retries.wait_seconds(self.failures) if seconds is None else seconds)


@dataclass(frozen=True, slots=True)
class Connection:
    """One service, and how it is reached."""

    transport: Transport
    http: httpx.Client | httpx.AsyncClient
    """Knows the address, the key and the timeouts."""
    retries: Retries = field(default_factory=Retries)

    async def send(self, method: str, path: str, *, tries: Tries | None = None, **options: Any) -> Answer:
        """Send a request until it is answered.

        Args:
            tries: counts failures; shared where several requests serve one purpose.
            options: of ``httpx.Client.build_request``.

        Raises:
            SeedVR2Error: the service refused.
            RetryableError: it does not answer.
        """
        tries = tries or Tries(self)
        while True:
            try:
                answer = await self.send_once(method, path, **options)
            except RetryableError as error:
                await tries.wait(error)
                continue
            if answer.status < 400:
                return answer
            await self.wait_or_raise(answer, tries)

    async def send_once(self, method: str, path: str, **options: Any) -> Answer:
        """Send a request once and return whatever is answered.

        Raises:
            RetryableError: nothing is.
        """
        try:
            return await self.transport.send(self.http.build_request(method, path, **options))
        except httpx.TransportError as error:
            raise self.unreachable(error) from error

    @asynccontextmanager
    async def stream(self, method: str, path: str, **options: Any) -> AsyncGenerator[AnswerStream, None]:
        """Send a request once and hand out the answer while it arrives; breaks are ``httpx.TransportError``."""
        async with self.transport.stream(self.http.build_request(method, path, **options)) as answer:
            yield answer

    async def wait_or_raise(self, answer: Answer, tries: Tries) -> None:
        """Wait before a refused request is sent again, or raise what it says.

        Raises:
            SeedVR2Error: sending it again would not help.
        """
        error = error_of_answer(answer.status, answer.headers, answer.body)
        # A service that is set up wrongly says 503 too, and trying again does not help.
        if answer.status not in _MAY_PASS or isinstance(error, DeploymentError):
            raise error
        await tries.wait(error, seconds=_retry_after(answer.headers))

    def unreachable(self, error: httpx.TransportError) -> RetryableError:
        """Say that the service does not answer."""
        reason = str(error) or type(error).__name__
        place = self.http.base_url.copy_with(username=None, password=None)
        return RetryableError(f"{place} does not answer ({reason}); check the address, or try again later")


async def whole_answer(stream: AnswerStream) -> Answer:
    """Read what is left of an answer, which is known to be short."""
    body = b"".join([chunk async for chunk in stream.chunks()])
    return Answer(stream.status, stream.headers, body)


def _retry_after(headers: httpx.Headers) -> float | None:
    text = headers.get("retry-after", "")
    return float(text) if text.isdecimal() else None
