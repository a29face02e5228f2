"""The socket of live streams as a protocol: who is let in, what the first message may be, how it ends. No Ray."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from seedvr2_ray.errors import CapacityError
from seedvr2_ray.serve.config import ModelPool, ServiceConfig
from seedvr2_ray.serve.db.database import open_database
from seedvr2_ray.serve.db.key_store import KeyStore
from seedvr2_ray.serve.http.application import create_api
from seedvr2_ray.serve.http.v1.live import live_router
from seedvr2_ray.serve.live.relay import RelayLimits, StreamRelay
from seedvr2_ray.serve.live.streams import OpenStream
from seedvr2_ray.serve.problems import MissingRefusal
from seedvr2_ray.serve.secrets import Secrets
from seedvr2_ray.serve.security.api_keys import make_key
from seedvr2_ray.serve.service.verbs import Service
from seedvr2_ray.settings import RestoreSettings


class _Method:
    def __init__(self, call: Any) -> None:
        self.remote = call


class NearRelay:
    """A relay in this process, called as if it were an actor; it echoes what is sent, and ends with it."""

    def __init__(self, owner: str) -> None:
        self.relay = StreamRelay(owner, RelayLimits())

    def __getattr__(self, name: str) -> _Method:
        return _Method(self._of(name))

    def _of(self, name: str) -> Any:
        ours = {"push": self._push, "end_input": self._end}
        return ours.get(name) or getattr(self.relay, name)

    async def _push(self, socket: int, data: bytes) -> bool:
        await self.relay.give(data)
        return await self.relay.push(socket, data)

    async def _end(self) -> None:
        await self.relay.finish_with({"event": "end"})


class NearStreams:
    """Opens relays in this process."""

    def __init__(self) -> None:
        self.opened: list[tuple[str, RestoreSettings, str]] = []
        self.is_full = False

    async def open(self, owner: str, settings: RestoreSettings, policy: str) -> OpenStream:
        if self.is_full:
            raise CapacityError("none of the 1 replica(s) of lanczos became free within 3 s; try again later")
        self.opened.append((owner, settings, policy))
        relay = NearRelay(owner)
        socket, received = await relay.relay.attach(owner, 0)
        return OpenStream("stream", socket, received, relay)

    async def resume(self, owner: str, name: str, after: int) -> OpenStream:
        raise MissingRefusal("there is no such stream; it has ended, so start a new one")


class Door:
    """The application, and a key to it."""

    def __init__(self, folder: Path) -> None:
        config = ServiceConfig(
            data=str(folder / "data"), auth=("keys",), models={"lanczos": ModelPool()}, default_model="lanczos"
        )
        self.database = open_database(f"sqlite:///{folder}/service.db")
        self.streams = NearStreams()
        service = Service(config, Secrets(), self.database)
        self.client = TestClient(create_api(service, routers=[live_router(self.streams)]))  # type: ignore[arg-type]
        key, self.token = make_key("anna", ["jobs:write"], now=datetime.now(UTC))
        KeyStore(self.database).add(key)
        key, self.reading = make_key("anna", ["jobs:read"], now=datetime.now(UTC))
        KeyStore(self.database).add(key)

    def socket(self) -> WebSocketTestSession:
        return self.client.websocket_connect("/v1/live")


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    made = Door(tmp_path_factory.mktemp("door"))
    yield made
    made.client.close()
    made.database.close()


def refusal(door: Door, first: str | bytes) -> tuple[dict[str, Any], int]:
    with door.socket() as socket:
        socket.send_bytes(first) if isinstance(first, bytes) else socket.send_text(first)
        told = json.loads(socket.receive_text())
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
    return told, closed.value.code


def start(door: Door, **more: Any) -> str:
    return json.dumps({"type": "start", "key": door.token, **more})


def test_a_page_signs_in_with_its_first_message_and_streams(door: Door) -> None:
    with door.socket() as socket:
        socket.send_text(start(door, settings={"resolution": "720p"}, policy="slow"))
        assert json.loads(socket.receive_text()) == {"event": "ready", "stream": "stream", "received": 0}
        socket.send_bytes(b"a piece of video")
        assert socket.receive_bytes() == b"a piece of video"
        socket.send_text('{"type": "end"}')
        assert json.loads(socket.receive_text()) == {"event": "end"}
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
    assert closed.value.code == 1000
    assert door.streams.opened[-1] == ("anna", RestoreSettings(resolution="720p"), "slow")


def test_whoever_has_no_key_or_one_that_only_reads_is_turned_away(door: Door) -> None:
    assert refusal(door, '{"type": "start"}')[1] == 4401
    assert refusal(door, '{"type": "start", "key": "sv2_guessed"}')[1] == 4401
    assert refusal(door, json.dumps({"type": "start", "key": door.reading}))[1] == 4403


@pytest.mark.parametrize("first", [b"\x00\x01", "no json", "[]", '{"type": "begin"}', '{"type": "start", "polcy": 1}'])
def test_a_first_message_that_means_nothing_gets_one_answer(door: Door, first: str | bytes) -> None:
    told, code = refusal(door, first)
    assert told["event"] == "error" and told["detail"] and code in (4400, 4422)


def test_no_free_replica_and_no_such_stream_are_said(door: Door) -> None:
    door.streams.is_full = True
    told, code = refusal(door, start(door))
    door.streams.is_full = False
    assert code == 4503 and "became free" in told["detail"]
    resume = json.dumps({"type": "resume", "stream": "abc", "after": 0, "key": door.token})
    assert refusal(door, resume)[1] == 4404
