"""The seam between what the client does, which is written once, and how its caller waits.

Verbs are coroutines over a :class:`Transport`. Under :class:`AsyncTransport` they wait as coroutines do. Under
:class:`BlockingTransport` nothing ever suspends: every ``await`` has its value at once, and :func:`run_now` takes the
coroutine from start to end in one step, in any thread and inside a running event loop too (a notebook has one).
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import anyio
import anyio.to_thread
import httpx

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: httpx.Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class AnswerStream:
    """An answer whose body is still to come."""

    status: int
    headers: httpx.Headers
    chunks: Callable[[], AsyncIterator[bytes]]
    """The body, decoded."""
    lines: Callable[[], AsyncIterator[str]]


class Transport(Protocol):
    """How requests go out and how one waits. ``httpx.TransportError`` passes through."""

    async def send(self, request: httpx.Request) -> Answer:
        """Send a request and read the whole answer."""

    def stream(self, request: httpx.Request) -> AbstractAsyncContextManager[AnswerStream]:
        """Send a request and hand out the answer while it arrives."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call what may wait for a disk."""


class BlockingTransport:
    """Waits by waiting; no method ever suspends."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    async def send(self, request: httpx.Request) -> Answer:
        """Send a request and read the whole answer."""
        answer = self._http.send(request)
        return Answer(answer.status_code, answer.headers, answer.content)

    @asynccontextmanager
    async def stream(self, request: httpx.Request) -> AsyncGenerator[AnswerStream, None]:
        """Send a request and hand out the answer while it arrives."""
        answer = self._http.send(request, stream=True)
        try:

            async def chunks() -> AsyncIterator[bytes]:
                for chunk in answer.iter_bytes():
                    yield chunk

            async def lines() -> AsyncIterator[str]:
                for line in answer.iter_lines():
                    yield line

            yield AnswerStream(answer.status_code, answer.headers, chunks, lines)
        finally:
            answer.close()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    async def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call what may wait for a disk."""
        return function(*arguments)


class AsyncTransport:
    """Waits as coroutines do, under asyncio or trio."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def send(self, request: httpx.Request) -> Answer:
        """Send a request and read the whole answer."""
        answer = await self._http.send(request)
        return Answer(answer.status_code, answer.headers, answer.content)

    @asynccontextmanager
    async def stream(self, request: httpx.Request) -> AsyncGenerator[AnswerStream, None]:
        """Send a request and hand out the answer while it arrives."""
        answer = await self._http.send(request, stream=True)
        try:
            yield AnswerStream(answer.status_code, answer.headers, answer.aiter_bytes, answer.aiter_lines)
        finally:
            await answer.aclose()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await anyio.sleep(seconds)

    async def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call what may wait for a disk, in a thread."""
        return await anyio.to_thread.run_sync(lambda: function(*arguments))


def run_now(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine over a :class:`BlockingTransport` and return what it returns."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    finally:
        coroutine.close()
    raise AssertionError("a coroutine over a blocking transport waited for something else")


def iterate_now(values: AsyncGenerator[Result, None]) -> Generator[Result, None, None]:
    """Iterate over an asynchronous generator that runs over a :class:`BlockingTransport`."""
    try:
        while True:
            try:
                yield run_now(_next_of(values))
            except StopAsyncIteration:
                return
    finally:
        run_now(_close(values))


async def _next_of(values: AsyncGenerator[Result, None]) -> Result:
    return await anext(values)


async def _close(values: AsyncGenerator[Any, None]) -> None:
    await values.aclose()
