"""Senders are slowed down to the pace at which their files are stored.

Ray Serve (2.60) takes a request's body from the connection as fast as it comes: its proxy puts the pieces into a queue
without an end, and the replica empties that into another one. A file that arrives faster than storage takes it would
lie in the memory of both, whole. Here both queues get an end: a full one in the replica is not filled from the proxy, a
full one in the proxy leaves bytes in the connection, and TCP makes the sender wait. What the replica fetches at once is
small enough to travel with the answer; larger values would go through Ray's object store, of which every process that
looks into it keeps the pages.

Serve has no setting for that, so its private classes are changed; ``benchmarks/serve.py`` shows what it brings and
``test_flow_control`` that the classes are still what is taken for granted here.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import ray
from ray.serve._private.constants import SERVE_NAMESPACE, SERVE_PROXY_NAME
from ray.serve._private.http_util import ASGIReceiveProxy, MessageQueue

_log = logging.getLogger(__name__)

MOST_WAITING = 32
"""Pieces of a body that wait in one process."""
PIECE_BYTES = 96 << 10
"""Most of a body that is fetched at once. Ray sends values below 100 KB along with the answer."""
_LOOK_SECONDS = 0.002
_PROXY_LOOK_SECONDS = 10.0
_BOUNDED = "seedvr2_is_bounded"


def bound_replica() -> None:
    """Let this process, a replica, fetch no more of a body while what it has is not read."""
    receiver: Any = ASGIReceiveProxy
    if hasattr(receiver, _BOUNDED):
        return
    initialise = receiver.__init__

    def bounded(self: Any, scope: Any, metadata: Any, fetch: Callable[[Any], Awaitable[bytes]]) -> None:
        async def fetch_when_read(asked: Any) -> bytes:
            while self.queue.qsize() > MOST_WAITING:
                await asyncio.sleep(_LOOK_SECONDS)
            return await fetch(asked)

        initialise(self, scope, metadata, fetch_when_read)

    receiver.__init__ = bounded
    setattr(receiver, _BOUNDED, True)


def bound_proxy(_: Any = None) -> None:
    """Let this process, Serve's proxy, take no more of a body from a connection while what it has is not fetched."""
    queue: Any = MessageQueue
    if hasattr(queue, _BOUNDED):
        return
    put = queue.__call__

    async def put_when_fetched(self: Any, message: Any) -> None:
        for piece in _pieces(message):
            while len(self._message_queue) > MOST_WAITING and not self._closed:
                await asyncio.sleep(_LOOK_SECONDS)
            await put(self, piece)

    def get_few(self: Any) -> list[Any]:
        waiting, taken, num_bytes = self._message_queue, list[Any](), 0
        while waiting and (not taken or num_bytes + _num_bytes(waiting[0]) <= PIECE_BYTES):
            taken.append(waiting.popleft())
            num_bytes += _num_bytes(taken[-1])
        if not waiting:
            self._new_message_event.clear()
        return taken

    queue.__call__, queue.get_messages_nowait = put_when_fetched, get_few
    setattr(queue, _BOUNDED, True)


def _num_bytes(message: Any) -> int:
    return len(message.get("body", b""))


def _pieces(message: Any) -> Iterator[Any]:
    """Cut a long part of a body into several."""
    num_bytes = _num_bytes(message)
    if num_bytes <= PIECE_BYTES:
        yield message
        return
    for start in range(0, num_bytes, PIECE_BYTES):
        end = start + PIECE_BYTES
        more = message.get("more_body", False) or end < num_bytes
        yield {**message, "body": message["body"][start:end], "more_body": more}


async def bound_proxies() -> None:
    """Bound the proxies of the cluster for as long as this runs: machines that join bring another one."""
    bounded: set[str] = set()
    while True:
        try:
            names = await asyncio.to_thread(_proxy_names)
            for name in names - bounded:
                proxy: Any = await asyncio.to_thread(ray.get_actor, name, namespace=SERVE_NAMESPACE)
                await proxy.__ray_call__.remote(bound_proxy)
                bounded.add(name)
        except Exception as error:  # noqa: BLE001  # Whatever is amiss with a proxy, requests go on; it is asked again.
            _log.warning("a proxy cannot be told to slow senders down: %s", type(error).__name__)
        await asyncio.sleep(_PROXY_LOOK_SECONDS)


def _proxy_names() -> set[str]:
    found = ray.util.list_named_actors(all_namespaces=True)
    return {
        actor["name"]
        for actor in found
        if actor["namespace"] == SERVE_NAMESPACE and actor["name"].startswith(SERVE_PROXY_NAME)
    }
