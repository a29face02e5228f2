"""The WebSocket ``/v1/live``: a stream in, the restored stream out, and news of it in between.

A caller's first message is a JSON text: ``{"type": "start", "settings": {...}, "policy": "drop"}``, or
``{"type": "resume", "stream": ..., "after": ...}`` after a break. Pages, which cannot set headers, add their ``key``.
Then binary messages are the stream, and ``{"type": "end"}`` is its end. Answers are JSON texts, and fragments of MP4 as
binary messages. What goes wrong is told in one text with ``"event": "error"``, and the socket closes with 4000 + the
HTTP status.
"""

import json
from typing import Any, Literal

import anyio
from fastapi import APIRouter, WebSocket
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.websockets import WebSocketDisconnect

from seedvr2_ray.errors import SeedVR2Error
from seedvr2_ray.serve.http.callers import signed_in, usable_id
from seedvr2_ray.serve.http.problem_bodies import ProtocolRefusal, problem_of, validation_detail
from seedvr2_ray.serve.live.streams import LiveStreams, OpenStream
from seedvr2_ray.serve.security.auth import Caller
from seedvr2_ray.settings import RestoreSettings

_CLOSE_CODES = 4000
_HELLO_SECONDS = 10.0
_SEND_SECONDS = 30.0
"""A receiver that takes nothing for so long has gone; the stream has ended before that, by its own limits."""
_FETCH_SECONDS = 5.0
_LONGEST_TEXT = 20_000


class Start(BaseModel):
    """Begin a stream."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["start"]
    settings: dict[str, Any] = Field(default_factory=dict)
    policy: Literal["drop", "slow"] = "drop"
    key: str | None = None


class Resume(BaseModel):
    """Go on with a stream whose connection broke."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["resume"]
    stream: str
    after: int = Field(ge=0)
    """Messages of the stream, texts and fragments, that the caller has."""
    key: str | None = None


_HELLO: TypeAdapter[Start | Resume] = TypeAdapter(Start | Resume)


def live_router(streams: LiveStreams) -> APIRouter:
    """Build the route of live streams."""
    router = APIRouter(tags=["live"])

    @router.websocket("/v1/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        try:
            hello = await _hello(socket)
            caller = await signed_in(socket, hello.key)
            caller.require("jobs:write")
            opened = await _open(streams, caller, hello)
        except SeedVR2Error as error:
            await _refuse(socket, error)
            return
        except WebSocketDisconnect:
            return
        await _relay(socket, opened)

    return router


async def _hello(socket: WebSocket) -> Start | Resume:
    with anyio.move_on_after(_HELLO_SECONDS):
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1006))
        text = message.get("text")
        if text is None or len(text) > _LONGEST_TEXT:
            raise ProtocolRefusal('the first message must be a JSON text such as {"type": "start"}', 400)
        try:
            return _HELLO.validate_python(json.loads(text))
        except ValidationError as error:
            raise ProtocolRefusal(validation_detail(list(error.errors())), 422) from None
        except ValueError:
            raise ProtocolRefusal("the first message is no JSON; see the documentation of live streams", 400) from None
    raise ProtocolRefusal(f"no first message came within {_HELLO_SECONDS:.0f} s", 408)


async def _open(streams: LiveStreams, caller: Caller, hello: Start | Resume) -> OpenStream:
    if isinstance(hello, Resume):
        return await streams.resume(caller.owner, usable_id(hello.stream), hello.after)
    return await streams.open(caller.owner, RestoreSettings.from_mapping(hello.settings), hello.policy)


async def _refuse(socket: WebSocket, error: SeedVR2Error) -> None:
    problem, _ = problem_of(error, "live")
    told = {"event": "error", "type": problem.type, "status": problem.status, "detail": problem.detail}
    await socket.send_text(json.dumps(told))
    await socket.close(_CLOSE_CODES + problem.status, problem.title)


async def _relay(socket: WebSocket, opened: OpenStream) -> None:
    try:
        await socket.send_text(json.dumps({"event": "ready", "stream": opened.name, "received": opened.received}))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_receive, socket, opened, tasks.cancel_scope)
            await _send(socket, opened)
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await opened.relay.detach.remote(opened.socket)


async def _receive(socket: WebSocket, opened: OpenStream, scope: anyio.CancelScope) -> None:
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            scope.cancel()
            return
        data = message.get("bytes")
        if data is None:
            await opened.relay.end_input.remote()
        elif not await opened.relay.push.remote(opened.socket, data):
            # What ended the stream is on its way; what is sent meanwhile is thrown away.
            continue


async def _send(socket: WebSocket, opened: OpenStream) -> None:
    status = 0
    while True:
        pieces, is_over = await opened.relay.fetch.remote(opened.socket, _FETCH_SECONDS)
        for piece in pieces:
            with anyio.move_on_after(_SEND_SECONDS) as deadline:
                if isinstance(piece, bytes):
                    await socket.send_bytes(piece)
                else:
                    status = piece["status"] if piece["event"] == "error" else status
                    await socket.send_text(json.dumps(piece))
            if deadline.cancelled_caught:
                await socket.close(_CLOSE_CODES + 408, "nothing was read")
                return
        if is_over:
            await socket.close(_CLOSE_CODES + status if status else 1000)
            return
