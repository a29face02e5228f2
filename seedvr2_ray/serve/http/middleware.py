"""What every answer gets, whatever made it: an id, safe headers, and a problem instead of a broken connection."""

import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from uuid import uuid4

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seedvr2_ray.serve.http.flow_control import paced
from seedvr2_ray.serve.http.problem_bodies import respond

REQUEST_ID = "X-Request-Id"
HELD = "seedvr2_held"
"""Where a request's scope has the stack of what it holds until it is answered."""
_DRAIN_SECONDS = 1.0
_DRAIN_BYTES = 64 << 20
_USABLE_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Nothing that the API answers is a page; the page's own route sets a policy of its own.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
}


class _Body:
    """What is left of a request's body when it has been answered.

    A connection that is closed on a sender in the middle of a file is reset, and the answer is lost with it. So the
    end of the answer waits a little while for the sender to read it and stop.
    """

    def __init__(self, receive: Receive, *, has_more: bool) -> None:
        self._receive = receive
        self.has_more = has_more

    async def receive(self) -> Message:
        message = await self._receive()
        self.has_more = self.has_more and message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def drain(self) -> None:
        num_bytes = 0
        with anyio.move_on_after(_DRAIN_SECONDS):
            while self.has_more and num_bytes < _DRAIN_BYTES:
                num_bytes += len((await self.receive()).get("body", b""))


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


class Envelope:
    """Names each request, sets the headers that every answer needs, and turns a crash into a problem."""

    def __init__(
        self, app: ASGIApp, *, admit: Callable[[Scope, ExitStack], None], cors_origins: Iterable[str] = ()
    ) -> None:
        """Wrap an application.

        Args:
            admit: raises a refusal where there are too many requests already; what the request holds until it is
                answered goes on the stack.
            cors_origins: sites that may load what we answer, and not only send requests.
        """
        self._app = app
        self._admit = admit
        self._is_shared = bool(list(cors_origins))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        with ExitStack() as held:
            scope[HELD] = held
            if scope["type"] == "http":
                await self._serve(scope, receive, send, held)
            elif scope["type"] == "websocket":
                await self._app(scope, *paced(scope, receive, send))
            else:
                await self._app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, held: ExitStack) -> None:
        sent = Headers(scope=scope).get(REQUEST_ID, "")
        receive, send = paced(scope, receive, send)
        request_id = sent if _USABLE_ID.fullmatch(sent) else uuid4().hex
        scope["seedvr2_request_id"] = request_id
        body = _Body(receive, has_more=_has_body(Headers(scope=scope)))
        has_begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                self._complete(MutableHeaders(scope=message), request_id)
            elif body.has_more and not message.get("more_body", False):
                await send({**message, "more_body": True})
                held.close()
                await body.drain()
                message = {"type": "http.response.body"}
            await send(message)

        try:
            self._admit(scope, held)
            await self._app(scope, body.receive, send_with_headers)
        except Exception as error:
            if has_begun:
                raise  # Half an answer is out; only a broken connection tells the caller.
            await respond(error, request_id)(scope, receive, send_with_headers)

    def _complete(self, headers: MutableHeaders, request_id: str) -> None:
        headers[REQUEST_ID] = request_id
        for name, value in SECURITY_HEADERS.items():
            if self._is_shared and name == "Cross-Origin-Resource-Policy":
                value = "cross-origin"
            headers.setdefault(name, value)
