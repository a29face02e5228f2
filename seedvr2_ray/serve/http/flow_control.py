"""Bodies, and messages of sockets, go through Ray Serve at the pace of whoever takes them, in both directions.

Between Serve's proxy, which holds the connection, and the replica that answers, Ray (2.60) moves what there is as fast
as it comes: a file that arrives faster than storage takes it would lie in memory whole, and so would a result, or a
live stream, whose reader has stopped reading. So both ends say how far they are, in messages of their own among those
of ASGI, which Serve hands on without looking at them: the proxy says how much of the answer the caller has taken
(``TAKEN``), the replica how much of the request it has read (``READ``). Neither sends more than a window beyond that.

The proxy's half is a middleware (:mod:`seedvr2_ray.serve.http.proxy` installs it), the replica's half belongs to
:class:`seedvr2_ray.serve.http.middleware.Envelope`. A header between the two says that the proxy takes part; where it
does not, as under uvicorn alone, the connection itself holds everybody back.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PACED = b"x-seedvr2-paced"
"""Header that the proxy adds, and takes from callers who send it."""
TAKEN = "seedvr2.taken"
READ = "seedvr2.read"
ANSWER_WINDOW = 2 << 20
"""Bytes of an answer on their way between replica and caller."""
REQUEST_WINDOW = 256 << 10
"""Bytes of a request on their way between caller and replica."""
STALL_SECONDS = 120.0
"""A caller who takes nothing for so long has gone; players ask for the rest again."""


class Stalled(ConnectionError):
    """The other side takes nothing any more."""


class PacedBodies:
    """The proxy's half, as a middleware of ASGI."""

    def __init__(self, app: ASGIApp, *, stall_seconds: float = STALL_SECONDS) -> None:
        """Wrap Serve's own application."""
        self._app = app
        self._stall_seconds = stall_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pace one request or socket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = [(name, value) for name, value in scope["headers"] if name != PACED]
        pace = _Pace(receive, send, self._stall_seconds)
        try:
            await self._app({**scope, "headers": [*headers, (PACED, b"1")]}, pace.receive, pace.send)
        finally:
            pace.close()


class _Pace:
    """What one request has handed on, in both directions."""

    def __init__(self, receive: Receive, send: Send, stall_seconds: float) -> None:
        self._receive = receive
        self._send = send
        self._stall_seconds = stall_seconds
        self._arriving: asyncio.Future[Message] | None = None
        self._num_handed = 0
        self._num_read = 0
        self._num_taken = 0
        self._num_told = 0
        self._has_event = asyncio.Event()

    async def receive(self) -> Message:
        """Give the replica the next of the request, or word of what the caller took."""
        while True:
            if self._num_taken - self._num_told >= ANSWER_WINDOW // 4:
                self._num_told = self._num_taken
                return {"type": TAKEN, "num_bytes": self._num_taken}
            self._has_event.clear()
            if self._arriving is None and self._num_handed - self._num_read < REQUEST_WINDOW:
                self._arriving = asyncio.ensure_future(self._receive())
            event = asyncio.ensure_future(self._has_event.wait())
            waited: list[asyncio.Future[Any]] = [event] if self._arriving is None else [event, self._arriving]
            try:
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            finally:
                event.cancel()
            if self._arriving is not None and self._arriving.done():
                message, self._arriving = self._arriving.result(), None
                self._num_handed += _num_bytes(message)
                return message

    async def send(self, message: Message) -> None:
        """Send the caller what the replica answers; what it says to us stays here."""
        if message["type"] == READ:
            self._num_read = message["num_bytes"]
            self._has_event.set()
            return
        async with asyncio.timeout(self._stall_seconds):
            await self._send(message)
        if num_bytes := _num_bytes(message):
            self._num_taken += num_bytes
            self._has_event.set()

    def close(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()


class Window:
    """The replica's half: what the application receives and sends, kept inside the windows."""

    def __init__(self, receive: Receive, send: Send, *, stall_seconds: float = STALL_SECONDS) -> None:
        """Take the place of a request's ``receive`` and ``send``."""
        self._receive = receive
        self._send = send
        self._stall_seconds = stall_seconds
        self._is_turn = asyncio.Lock()
        self._waiting: deque[Message] = deque()
        self._num_sent = 0
        self._num_taken = 0
        self._num_read = 0
        self._num_told = 0
        self._is_gone = False

    async def receive(self) -> Message:
        """Give the application the next message that is meant for it."""
        await self._until(lambda: bool(self._waiting))
        message = self._waiting.popleft()
        self._num_read += _num_bytes(message)
        may_come_more = message.get("more_body", message["type"] == "websocket.receive")
        if may_come_more and self._num_read - self._num_told >= REQUEST_WINDOW // 4:
            self._num_told = self._num_read
            await self._send({"type": READ, "num_bytes": self._num_read})
        return message

    async def send(self, message: Message) -> None:
        """Send what the application answers, once the caller has taken enough of what was sent before.

        Raises:
            Stalled: he has taken nothing for long, or has gone.
        """
        num_bytes = _num_bytes(message)
        # What has no bytes, such as the end of a socket, must not wait for somebody who takes nothing.
        if num_bytes and self._num_sent - self._num_taken >= ANSWER_WINDOW:
            await self._wait_for_room()
        self._num_sent += num_bytes
        await self._send(message)

    async def _wait_for_room(self) -> None:
        while not self._is_gone and self._num_sent - self._num_taken >= ANSWER_WINDOW:
            before = self._num_taken
            try:
                async with asyncio.timeout(self._stall_seconds):
                    await self._until(partial(self._has_moved_from, before))
            except TimeoutError:
                raise Stalled(f"nothing of the answer was taken for {self._stall_seconds:g} s") from None
        if self._is_gone:
            raise Stalled("the caller has gone")

    def _has_moved_from(self, num_taken: int) -> bool:
        return self._is_gone or self._num_taken > num_taken

    async def _until(self, is_there: Callable[[], bool]) -> None:
        """Read messages, one reader at a time, until there is what somebody waits for."""
        while not is_there():
            async with self._is_turn:
                if not is_there():
                    self._take(await self._receive())

    def _take(self, message: Message) -> None:
        if message["type"] == TAKEN:
            self._num_taken = message["num_bytes"]
            return
        self._is_gone = self._is_gone or message["type"] in ("http.disconnect", "websocket.disconnect")
        self._waiting.append(message)


def paced(scope: Scope, receive: Receive, send: Send) -> tuple[Receive, Send]:
    """Return the ``receive`` and ``send`` of a request: paced, where it came through a proxy that takes part."""
    if not any(name == PACED for name, _ in scope["headers"]):
        return receive, send
    window = Window(receive, send)
    return window.receive, window.send


def _num_bytes(message: Message) -> int:
    """Count what a part of a body, or a message of a socket, carries."""
    return sum(len(message.get(part) or b"") for part in ("body", "bytes", "text"))
