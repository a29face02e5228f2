"""What a caller meets before any replica: the heads of requests are bounded, and bodies paced, in Serve's own proxies.

Ray Serve calls :func:`middlewares` in every proxy that it starts, on every machine and after every restart, where
``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`` names it; ``seedvr2-ray serve`` and the manifests of ``cluster/`` do.
"""

import asyncio
from typing import Any

import uvicorn.config
from starlette.middleware import Middleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from seedvr2_ray.serve.http.flow_control import PacedBodies

MOST_HEAD_BYTES = 64 << 10
"""Of the request line and the headers together; one read from the connection more is possible."""
HEAD_SECONDS = 20.0
"""For a head to arrive whole, from its first byte or from the connection."""
_TOO_LARGE = (
    b'{"type": "/v1/problems/head-too-large", "title": "The headers are too large", "status": 431, '
    b'"detail": "the request line and headers have more than 65536 bytes, the limit here", '
    b'"remedy": "Send shorter headers.", "request_id": "-"}'
)


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol, which ends connections whose heads are too long or too slow; by itself it has no limit."""

    _num_head_bytes = 0
    _is_in_head = True
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._end_wait()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, unless it is too much of a head."""
        if self._is_in_head:
            if self._num_head_bytes > MOST_HEAD_BYTES:
                self._refuse()
                return
            self._num_head_bytes += len(data)
            if self._deadline is None:
                self._await_head()  # Of a later request on the same connection.
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """A head is there whole."""
        self._is_in_head = False
        self._end_wait()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """What comes next is another head."""
        self._is_in_head = True
        self._num_head_bytes = 0
        super().on_message_complete()

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _end_wait(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        if self._is_in_head and not self.transport.is_closing():
            self.transport.close()

    def _refuse(self) -> None:
        if self.transport.is_closing():
            return
        head = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/problem+json\r\n"
        length = str(len(_TOO_LARGE)).encode()
        self.transport.write(head + b"content-length: " + length + b"\r\nconnection: close\r\n\r\n" + _TOO_LARGE)
        self.transport.close()


def middlewares() -> list[Any]:
    """Bound this process's servers, and return what Serve is to wrap its application in."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{BoundedHeads.__name__}"
    return [Middleware(PacedBodies)]
