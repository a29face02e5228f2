"""Between a proxy and a replica that move bodies as fast as they come, as Ray Serve does, little of a body waits."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from seedvr2_ray.serve.http.flow_control import (
    ANSWER_WINDOW,
    PACED,
    REQUEST_WINDOW,
    PacedBodies,
    Stalled,
    Window,
    paced,
)
from tests.waiting import within

PIECE = 64 << 10
SCOPE: Scope = {"type": "http", "headers": [(b"host", b"here"), (PACED, b"forged")]}
App = Callable[[Receive, Send], Awaitable[None]]


class Relay:
    """What Serve does between its proxy and a replica: two queues without an end."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.headers: list[tuple[bytes, bytes]] = []
        self.num_waiting = {"request": 0, "answer": 0}
        self.most_waiting = {"request": 0, "answer": 0}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers = scope["headers"]
        to_replica: asyncio.Queue[Message] = asyncio.Queue()
        to_proxy: asyncio.Queue[Message | None] = asyncio.Queue()

        async def take_all() -> None:
            while True:
                message = await receive()
                self._count("request", message, 1)
                to_replica.put_nowait(message)

        async def replica_receive() -> Message:
            message = await to_replica.get()
            self._count("request", message, -1)
            return message

        async def replica_send(message: Message) -> None:
            self._count("answer", message, 1)
            to_proxy.put_nowait(message)

        async def run() -> None:
            try:
                await self._app(*paced(scope, replica_receive, replica_send))
            finally:
                to_proxy.put_nowait(None)

        taking, running = asyncio.create_task(take_all()), asyncio.create_task(run())
        try:
            while (message := await to_proxy.get()) is not None:
                self._count("answer", message, -1)
                await send(message)
            await running
        finally:
            taking.cancel()

    def _count(self, where: str, message: Message, sign: int) -> None:
        self.num_waiting[where] += sign * len(message.get("body", message.get("bytes", b"")))
        self.most_waiting[where] = max(self.most_waiting[where], self.num_waiting[where])


class Caller:
    """Sends a body of so many pieces, and takes the answer up to a point until he is told to go on."""

    def __init__(self, num_pieces: int = 0, *, stops_after: int | None = None) -> None:
        self._stops_after = stops_after
        self._bodies = [{"type": "http.request", "body": bytes([number % 256]) * PIECE} for number in range(num_pieces)]
        self._bodies.append({"type": "http.request", "body": b""})
        self.sent: list[Message] = []
        self.taken: list[Message] = []
        self.may_take = asyncio.Event()
        self.may_take.set()
        self.hangs_up = asyncio.Event()

    async def receive(self) -> Message:
        await asyncio.sleep(0)
        if len(self.sent) < len(self._bodies):
            message = {**self._bodies[len(self.sent)], "more_body": len(self.sent) + 1 < len(self._bodies)}
            self.sent.append(message)
            return message
        await self.hangs_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.may_take.wait()
        self.taken.append(message)
        if self._stops_after is not None and self.num_bytes_taken >= self._stops_after:
            self._stops_after = None
            self.may_take.clear()

    @property
    def num_bytes_taken(self) -> int:
        return sum(len(message.get("body", b"")) for message in self.taken)


async def settled(look: Callable[[], int]) -> int:
    """Go round the loop until a number does not grow any more, and return it: nobody here waits for anything else."""
    before = -1
    while (now := look()) != before:
        before = now
        for _ in range(200):
            await asyncio.sleep(0)
    return now


def run(scenario: Awaitable[Any]) -> None:
    asyncio.run(within(120, scenario))


def answering(num_pieces: int) -> App:
    async def app(receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(num_pieces):
            await send({"type": "http.response.body", "body": bytes([number % 256]) * PIECE, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


def test_a_reader_who_stops_holds_the_answer_back_and_gets_all_of_it_when_he_goes_on() -> None:
    async def scenario() -> None:
        relay, caller = Relay(answering(200)), Caller(stops_after=ANSWER_WINDOW)
        serving = asyncio.create_task(PacedBodies(relay)(SCOPE, caller.receive, caller.send))
        await settled(lambda: relay.most_waiting["answer"])
        assert not serving.done()
        caller.may_take.set()
        await serving
        assert caller.num_bytes_taken == 200 * PIECE
        assert relay.most_waiting["answer"] <= ANSWER_WINDOW + PIECE
        bodies = [message["body"][:1] for message in caller.taken if message.get("body")]
        assert bodies == [bytes([number % 256]) for number in range(200)]

    run(scenario())


def test_a_sender_waits_for_a_replica_that_does_not_read_and_nothing_is_lost() -> None:
    may_read = asyncio.Event()
    read: list[Message] = []

    async def app(receive: Receive, send: Send) -> None:
        await may_read.wait()
        while not read or read[-1]["more_body"]:
            read.append(await receive())
        await answering(1)(receive, send)

    async def scenario() -> None:
        relay, caller = Relay(app), Caller(100)
        serving = asyncio.create_task(PacedBodies(relay)(SCOPE, caller.receive, caller.send))
        num_sent = await settled(lambda: len(caller.sent))
        assert num_sent * PIECE <= REQUEST_WINDOW + PIECE
        may_read.set()
        await serving
        assert read == caller.sent
        assert relay.most_waiting["request"] <= REQUEST_WINDOW + PIECE
        assert {message["type"] for message in caller.taken} == {"http.response.start", "http.response.body"}

    run(scenario())


def test_an_application_that_listens_for_the_end_of_the_connection_hears_of_it_and_of_nothing_else() -> None:
    heard: list[Message] = []

    async def app(receive: Receive, send: Send) -> None:
        async def listen() -> None:
            while True:
                heard.append(await receive())

        listening = asyncio.create_task(listen())
        with pytest.raises(Stalled):
            await answering(1000)(receive, send)
        listening.cancel()

    async def scenario() -> None:
        caller = Caller(stops_after=ANSWER_WINDOW)
        serving = asyncio.create_task(PacedBodies(Relay(app))(SCOPE, caller.receive, caller.send))
        await settled(lambda: caller.num_bytes_taken)
        caller.hangs_up.set()
        await settled(lambda: len(heard))
        caller.may_take.set()
        await serving
        assert [message["type"] for message in heard] == ["http.request", "http.disconnect"]

    run(scenario())


@pytest.mark.slow
def test_a_socket_is_held_to_the_pace_of_its_ends_in_both_directions_and_loses_nothing() -> None:
    scope: Scope = {**SCOPE, "type": "websocket"}
    may_read = asyncio.Event()
    read: list[Message] = []

    async def app(receive: Receive, send: Send) -> None:
        for number in range(100):
            await send({"type": "websocket.send", "bytes": bytes([number]) * PIECE})
        await may_read.wait()
        while not read or read[-1]["type"] != "websocket.disconnect":
            read.append(await receive())
        await send({"type": "websocket.close", "code": 1000})

    async def scenario() -> None:
        relay, taken, num_sent, may_take = Relay(app), [], 0, asyncio.Event()

        async def receive() -> Message:
            nonlocal num_sent
            await asyncio.sleep(0)
            num_sent += 1
            if num_sent > 100:
                return {"type": "websocket.disconnect", "code": 1005}
            return {"type": "websocket.receive", "bytes": bytes([num_sent]) * PIECE}

        async def send(message: Message) -> None:
            await may_take.wait()
            taken.append(message)

        serving = asyncio.create_task(PacedBodies(relay)(scope, receive, send))
        await settled(lambda: relay.most_waiting["answer"] + num_sent)
        assert relay.most_waiting["answer"] <= ANSWER_WINDOW + PIECE
        assert num_sent * PIECE <= REQUEST_WINDOW + PIECE
        may_take.set()
        await settled(lambda: len(taken))
        may_read.set()
        await serving
        assert [message["bytes"][0] for message in taken[:-1]] == list(range(100))
        assert taken[-1]["type"] == "websocket.close"
        assert [message["bytes"][0] for message in read[:-1]] == list(range(1, 101))
        assert relay.most_waiting["request"] <= REQUEST_WINDOW + PIECE

    run(scenario())


def test_a_reader_who_takes_nothing_for_long_is_given_up() -> None:
    async def scenario() -> None:
        silent: asyncio.Queue[Message] = asyncio.Queue()
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        window = Window(silent.get, send, stall_seconds=0.05)
        with pytest.raises(Stalled, match="0.05 s"):
            await answering(1000)(window.receive, window.send)
        assert sum(len(message.get("body", b"")) for message in sent) == ANSWER_WINDOW

    run(scenario())


def test_without_a_proxy_that_takes_part_nothing_is_added() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    assert paced({"type": "http", "headers": []}, receive, send) == (receive, send)


def test_what_a_caller_says_of_the_pace_is_not_believed() -> None:
    relay = Relay(answering(1))

    async def scenario() -> None:
        caller = Caller()
        await PacedBodies(relay)(SCOPE, caller.receive, caller.send)

    run(scenario())
    assert [value for name, value in relay.headers if name == PACED] == [b"1"]
