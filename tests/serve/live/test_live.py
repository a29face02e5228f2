"""Live streams over a real WebSocket of a really running service."""

import ast
import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import SO_RCVBUF, SOL_SOCKET
from socket import socket as raw_socket
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.documents import ROOT, blocks
from tests.live.senders import RATE, Sent, make_stream, noisy_bytes, stream_bytes
from tests.live.streams import receive
from tests.serve.running import RunningService

pytestmark = pytest.mark.ray
SETTINGS = {"model": "lanczos", "resolution": "x2", "preset": "ultrafast"}
NEIGHBOUR = {**SETTINGS, "model": "swiftvr"}
"""At a replica of its own."""


@dataclass
class Heard:
    """What a caller has been sent."""

    events: list[dict[str, Any]] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    num_pieces: int = 0
    close_code: int | None = None

    def named(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]

    def require_step(self, num_frames: int) -> None:
        """Every frame came, its clicks of sound with it."""
        found = receive(bytes(self.data))
        assert found.numbers == list(range(num_frames))
        for number in range(25, num_frames, 25):
            shown = found.times[number]
            assert any(abs(click - shown) <= 1 / RATE for click in found.clicks), (number, found.clicks)

    def listen(self, socket: ClientConnection, until: Any = lambda heard: False) -> None:
        """Take messages until the socket closes, or a condition holds."""
        try:
            while not until(self):
                message = socket.recv(timeout=240)
                if isinstance(message, bytes):
                    self.data += message
                else:
                    self.events.append(json.loads(message))
                self.num_pieces += isinstance(message, bytes) or self.events[-1]["event"] != "ready"
        except ConnectionClosed:
            self.close_code = socket.close_code


@contextmanager
def live_socket(service: RunningService, **hello: Any) -> Iterator[ClientConnection]:
    url = service.base_url.replace("http", "ws") + "/v1/live"
    host, _, port = service.base_url.removeprefix("http://").partition(":")
    connection = raw_socket()
    # Else a kernel takes some 32 MB for whoever reads nothing.
    connection.setsockopt(SOL_SOCKET, SO_RCVBUF, 1 << 18)
    connection.connect((host, int(port)))
    # Without limits of its own: what is sent waits in the connection.
    with connect(
        url, sock=connection, additional_headers=service.headers("anna"), max_size=None, open_timeout=240
    ) as socket:
        first = {"type": "start", "settings": SETTINGS, **hello}
        socket.send(json.dumps({name: value for name, value in first.items() if value is not None}))
        yield socket


def timed_stream(num_frames: int) -> list[tuple[float, bytes]]:
    """A stream's bytes, with the seconds at which its sender would send each."""
    pieces: list[tuple[float, bytes]] = []
    now = [0.0]

    class Timed(Sent):
        def write(self, data: bytes) -> int:
            pieces.append((now[0], bytes(data)))
            return len(data)

    make_stream(Timed(), num_frames, pace=lambda at: now.__setitem__(0, at))
    return pieces


def test_ten_seconds_with_sound_come_back_at_their_own_rate_in_step(service: RunningService) -> None:
    heard = Heard()
    pieces = timed_stream(10 * RATE)
    with live_socket(service, policy="slow") as socket:
        listener = threading.Thread(target=heard.listen, args=(socket,))
        listener.start()
        began = time.monotonic()
        for at, data in pieces:
            time.sleep(max(0.0, began + at - time.monotonic()))
            socket.send(data)
        socket.send(json.dumps({"type": "end"}))
        listener.join(240)
    assert heard.close_code == 1000, heard.events[-3:]
    heard.require_step(10 * RATE)
    (ready, begin, end) = (heard.named(name)[0] for name in ("ready", "begin", "end"))
    assert ready["received"] == 0 and begin["mime"].startswith('video/mp4; codecs="avc1.')
    assert end["frames_out"] == 10 * RATE and end["dropped"] == 0
    (plan,) = heard.named("plan")
    assert plan["real_time_factor"] > 1
    # Once it is under way; what came while it was measured waited.
    latencies = [event["mean_latency_ms"] for event in heard.named("chunk")[-10:]]
    assert sorted(latencies)[5] < 5000, "half of the whole: they come while it is sent, as fast as the machine allows"


def _refused(service: RunningService, data: bytes, **hello: Any) -> Heard:
    heard = Heard()
    with live_socket(service, **hello) as socket:
        try:
            socket.send(data)
            socket.send(json.dumps({"type": "end"}))
        except ConnectionClosed:
            pass
        heard.listen(socket)
    return heard


def test_the_program_of_the_documents_runs_as_it_stands(
    service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = (block for block in blocks(ROOT / "docs/live.md", "python") if "/v1/live" in block)
    (tmp_path / "camera.ts").write_bytes(stream_bytes(25))
    monkeypatch.chdir(tmp_path)
    address = service.base_url.replace("http", "ws")
    key = service.headers("anna")["Authorization"].removeprefix("Bearer ")
    exec(program.replace("ws://127.0.0.1:8000", address), {"key": key})
    said = [ast.literal_eval(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in said if event["event"] != "chunk"] == ["ready", "plan", "begin", "end"], said
    assert said[-1]["frames_out"] == 25, said[-1]


class _Enough(Exception):
    """A sender has sent what it wanted to."""


class Neighbour:
    """Somebody else's stream, at a replica of its own, sent at its own rate whatever others do meanwhile."""

    def __init__(self, service: RunningService) -> None:
        self._service = service
        self._is_done = threading.Event()
        self._is_let_in = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.heard = Heard()
        self.num_sent = 0

    def start(self) -> None:
        self._thread.start()
        assert self._is_let_in.wait(240), self.heard.events

    def end(self) -> None:
        self._is_done.set()
        self._thread.join(240)

    def _run(self) -> None:
        while not self._is_let_in.is_set() and not self._is_done.is_set():
            self.heard = Heard()
            with live_socket(self._service, settings=NEIGHBOUR, policy="slow") as socket:
                # Its replica starts with the first stream, and that takes longer than this service lets one wait.
                self.heard.listen(socket, lambda heard: heard.events)
                if self.heard.named("ready"):
                    self._is_let_in.set()
                    sender = threading.Thread(target=self._send, args=(socket,))
                    sender.start()
                    self.heard.listen(socket)
                    sender.join(240)

    def _send(self, socket: ClientConnection) -> None:
        began = time.monotonic()

        class OverSocket(Sent):
            def write(self, data: bytes) -> int:
                socket.send(bytes(data))
                return len(data)

        def pace(at: float) -> None:
            time.sleep(max(0.0, began + at - time.monotonic()))
            if self._is_done.is_set():
                raise _Enough
            self.num_sent += 1

        with contextlib.suppress(_Enough):
            make_stream(OverSocket(), 10**6, pace=pace)
        socket.send(json.dumps({"type": "end"}))


def require_free(service: RunningService) -> None:
    """Whatever a caller did, the next one gets the replica, in the end."""
    with service.client() as client:
        assert client.get("/healthz").status_code == 200
    deadline = time.monotonic() + 120
    while (heard := _refused(service, stream_bytes(10))).close_code == 4503 and time.monotonic() < deadline:
        pass
    assert heard.close_code == 1000, heard.events
    assert heard.named("end")[0]["frames_out"] == 10


@pytest.mark.parametrize(
    ("data", "hello", "status", "words"),
    [
        (b"nothing that anybody could see or hear, however long one looks at it" * 9, {}, 422, "send MPEG-TS"),
        (b"", {}, 422, "ended before its first picture"),
        (b"", {"settings": {**SETTINGS, "model": "seedvr2-7b"}}, 422, "is not deployed here"),
        (b"", {"settings": {"hieght": 3}}, 422, "unknown setting 'hieght'"),
        (b"", {"policy": "hurry"}, 422, "policy"),
        (b"", {"type": "resume", "stream": "0" * 32, "after": 0, "settings": None}, 404, "there is no such stream"),
    ],
)
def test_what_cannot_be_a_stream_gets_one_clear_message(
    service: RunningService, data: bytes, hello: Any, status: int, words: str
) -> None:
    heard = _refused(service, data, **hello)
    (error,) = heard.named("error")
    assert error["status"] == status and words in error["detail"], error
    assert heard.close_code == 4000 + status


def test_a_caller_who_comes_back_goes_on_with_the_same_stream(service: RunningService) -> None:
    data = stream_bytes(100)
    heard = Heard()
    with live_socket(service, policy="slow") as socket:
        heard.listen(socket, lambda heard: heard.named("ready"))
        socket.send(data[: len(data) // 2])
        heard.listen(socket, lambda heard: heard.named("chunk"))
    stream = heard.named("ready")[0]["stream"]
    with live_socket(service, type="resume", stream=stream, after=heard.num_pieces, settings=None) as socket:
        heard.listen(socket, lambda heard: len(heard.named("ready")) == 2)
        socket.send(data[heard.named("ready")[1]["received"] :])
        socket.send(json.dumps({"type": "end"}))
        heard.listen(socket)
    assert heard.close_code == 1000, heard.events[-2:]
    assert receive(bytes(heard.data)).numbers == list(range(100))


def test_who_finds_no_free_replica_is_told_so(service: RunningService) -> None:
    is_refused = threading.Event()
    with live_socket(service) as first:
        Heard().listen(first, lambda heard: heard.named("ready"))

        def go_on() -> None:
            """Send now and then, for a stream of which nothing comes is ended."""
            data = stream_bytes(50)
            for start in range(0, len(data), len(data) // 240 + 1):
                first.send(data[start : start + len(data) // 240 + 1])
                if is_refused.wait(0.5):
                    break
            first.send(json.dumps({"type": "end"}))

        sender = threading.Thread(target=go_on)
        sender.start()
        try:
            heard = _refused(service, b"")
        finally:
            is_refused.set()
            sender.join(240)
        (error,) = heard.named("error")
        assert error["status"] == 503 and "1 replica(s) of lanczos" in error["detail"]
        Heard().listen(first)
    require_free(service)


@pytest.fixture(scope="class")
def neighbour(service: RunningService) -> Iterator[Neighbour]:
    started = Neighbour(service)
    started.start()
    yield started
    started.end()


class TestHarmsNobodyElse:
    """What one caller does to a stream, while somebody else's goes on."""

    @pytest.fixture(autouse=True)
    def _beside(self, neighbour: Neighbour) -> None:
        assert neighbour.heard.close_code is None, neighbour.heard.events[-3:]

    def test_a_caller_who_stops_reading_is_told_why_it_ended_and_little_waits_for_him(
        self, service: RunningService
    ) -> None:
        heard = Heard()
        # Lossless: 40 MB would come of it if nobody held it back.
        settings = {**SETTINGS, "resolution": "384x256", "crf": 0}
        with live_socket(service, settings=settings, policy="slow") as socket:
            heard.listen(socket, lambda heard: heard.named("ready"))
            socket.send(noisy_bytes(300))
            socket.send(json.dumps({"type": "end"}))  # All is sent: what is missing is a reader.
            heard.listen(socket, lambda heard: heard.data)
            require_free(service)
            heard.listen(socket)
        (error,) = heard.named("error")
        assert "nothing was read for 10 s" in error["detail"] and heard.close_code == 4408
        assert len(heard.data) < 20_000_000

    def test_a_change_of_size_in_mid_stream_gets_one_clear_message(self, service: RunningService) -> None:
        heard = Heard()
        # Two programs in one stream of bytes, as a sender that switches cameras would send.
        data = stream_bytes(30) + stream_bytes(30, start=2, size=(128, 64))
        with live_socket(service) as socket:
            socket.send(data)
            socket.send(json.dumps({"type": "end"}))
            heard.listen(socket)
        (error,) = heard.named("error")
        assert "changed from 96x64 to 128x64 in mid-stream" in error["detail"]
        assert heard.close_code == 4422
        require_free(service)

    def test_a_caller_who_vanishes_leaves_the_replica_to_others(self, service: RunningService) -> None:
        with live_socket(service) as socket:
            Heard().listen(socket, lambda heard: heard.named("ready"))
            socket.send(stream_bytes(30))
            socket.socket.close()
        require_free(service)  # When the grace is over.

    def test_a_sender_that_is_faster_than_real_time_is_slowed_and_loses_nothing(self, service: RunningService) -> None:
        heard = _refused(service, stream_bytes(300), policy="slow")
        assert heard.close_code == 1000
        assert heard.named("end")[0]["frames_out"] == 300
        assert receive(bytes(heard.data)).numbers == list(range(300))

    @pytest.mark.parametrize("garbage", [b"nothing that anybody could see or hear " * 30, b"\x47" + bytes(187)])
    def test_a_caller_who_sends_garbage_gets_one_clear_message(self, service: RunningService, garbage: bytes) -> None:
        heard = _refused(service, garbage)
        (error,) = heard.named("error")
        assert error["status"] == 422 and heard.close_code == 4422, error

    def test_somebody_elses_stream_has_lost_nothing_meanwhile(self, neighbour: Neighbour) -> None:
        neighbour.end()
        heard = neighbour.heard
        assert heard.close_code == 1000, heard.events[-3:]
        (end,) = heard.named("end")
        # A muxer keeps a little back for what belongs beside it.
        assert neighbour.num_sent - RATE < end["frames_in"] <= neighbour.num_sent
        heard.require_step(end["frames_in"])
        latencies = sorted(event["latency_ms"] for event in heard.named("chunk"))
        # The first of the 24 frames of a chunk waits a second for the last; a busy machine adds to that.
        assert latencies[len(latencies) // 2] < 6000, latencies


def test_a_stream_whose_ingress_dies_leaves_neither_a_process_nor_a_replica_that_waits_for_it(
    service: RunningService,
) -> None:
    data, heard = stream_bytes(100), Heard()
    with live_socket(service, policy="slow") as socket:
        heard.listen(socket, lambda heard: heard.named("ready"))
        socket.send(data[: len(data) // 2])
        heard.listen(socket, lambda heard: heard.named("chunk"))
        assert service.pids_titled("ray::StreamRelay")
        before = service.pids_of("api")
        for pid in before:
            os.kill(pid, signal.SIGKILL)
    service.wait_for(lambda: bool(set(service.pids_of("api")) - set(before)), 240, "another ingress")
    service.wait_for(lambda: not service.pids_titled("ray::StreamRelay"), 240, "the end of the relay")
    service.wait_for(service.is_ready, 240, "an answer")
    require_free(service)
