"""Streams from the network on loopback: MPEG-TS over UDP whose senders are killed, RTMP, RTSP and TCP."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from seedvr2_ray.errors import DeploymentError, MediaError, SettingsError
from seedvr2_ray.live.inputs import AddressOpener, parse_input
from seedvr2_ray.live.session import LiveOutcome, LiveRules, LiveSession
from tests.live.senders import RATE, Sent, stream_bytes
from tests.live.streams import make_session, receive
from tests.ports import free_port
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]


def sender_of(port: int, first: int, start: float) -> "subprocess.Popen[bytes]":
    """A sender in a process of its own that waits for a line, and then sends at its own rate until it is killed."""
    program = (
        "import sys, time\n"
        "from tests.live.senders import make_stream\n"
        "sys.stdin.readline()\n"
        "began = time.monotonic()\n"
        "def pace(at):\n"
        "    time.sleep(max(0, began + at - time.monotonic()))\n"
        f"make_stream('udp://127.0.0.1:{port}?pkt_size=1316', 1000, first={first}, start={start}, pace=pace)\n"
    )
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE)


@pytest.mark.slow
def test_senders_that_are_killed_and_restarted_over_udp_become_one_stream_in_step() -> None:
    port, sent, events = free_port(), Sent(), []
    opener = AddressOpener(
        parse_input(f"udp://127.0.0.1:{port}"), wait_seconds=240, reconnect_seconds=240, tell=events.append
    )
    session = make_session(opener, sent, kind="mp4", rules=LiveRules(policy="drop", measures=False), events=events)
    outcome: list[LiveOutcome] = []
    runner = threading.Thread(target=lambda: outcome.append(session.run()))
    senders = [sender_of(port, 1000, 1000.0), sender_of(port, 2000, 3.0)]
    runner.start()
    try:
        _let_send(senders[0], session, 60)
        num_breaks = _told(events).count("interrupted")
        senders[0].kill()
        wait_for(lambda: _told(events).count("interrupted") > num_breaks, "the silence to be noticed")
        _let_send(senders[1], session, 60)
    finally:
        for sender in senders:
            sender.kill()
            sender.communicate()
        opener.stop()
        session.stop()
        runner.join(120)
    (end,) = outcome
    found = receive(sent.data)
    assert end.frames_out == end.frames_in - end.dropped == len(found.numbers)
    assert {number // 1000 for number in found.numbers} == {1, 2}
    assert all(late > early for early, late in zip(found.numbers, found.numbers[1:], strict=False))
    for (early, early_at), (late, late_at) in pairwise(zip(found.numbers, found.times, strict=True)):
        # Datagrams that a busy machine loses leave a gap as long as what is missing.
        lost = (late - early - 1) / RATE if late // 1000 == early // 1000 else 0.0
        assert 0 < late_at - early_at < 1.0 + lost, (early, late)
    clicked = [number for number in found.numbers if number % 25 == 0]
    in_step = [
        number
        for number in clicked
        if any(abs(click - found.times[found.numbers.index(number)]) <= 1 / RATE for click in found.clicks)
    ]
    # The first click of a sender may lie before the first picture that could be decoded.
    assert len(in_step) >= len(clicked) - 2 >= 2
    assert [name for name in _told(events) if name in ("interrupted", "resumed")][:2] == ["interrupted", "resumed"]


def _let_send(sender: "subprocess.Popen[bytes]", session: LiveSession, num_frames: int) -> None:
    """Have a sender begin, and wait until so many more frames have come out."""
    target = session.num_out + num_frames
    assert sender.stdin is not None
    sender.stdin.write(b"go\n")
    sender.stdin.flush()
    wait_for(lambda: session.num_out >= target, f"{num_frames} frames of a sender")


def _told(events: list[Any]) -> list[str]:
    return [event["event"] for event in events]


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "kind"), [("rtmp", "flv"), ("rtsp", "rtsp"), ("tcp", "mpegts")])
def test_a_sender_that_connects_to_us_is_restored_to_its_last_frame(
    scheme: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seedvr2_ray.live.inputs._READ_SECONDS", 240.0)  # A busy machine is no sender that has gone.
    url = f"{scheme}://127.0.0.1:{free_port()}/live/camera".removesuffix("/live/camera" * (scheme == "tcp"))
    program = (
        "import time, av\n"
        "from tests.live.senders import make_stream\n"
        "while True:\n"
        "    try:\n"
        f"        make_stream({url!r}, 40, kind={kind!r})\n"
        "        break\n"
        "    except (av.FFmpegError, OSError):\n"
        "        time.sleep(0.1)\n"
    )
    sent = Sent()
    opener = AddressOpener(parse_input(url, listens=True), wait_seconds=240, reconnect_seconds=0)
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) as sender:
        outcome = make_session(opener, sent, kind="mp4", rules=LiveRules(policy="slow", measures=False)).run()
        assert sender.wait(240) == 0
    found = receive(sent.data)
    assert outcome.frames_in == outcome.frames_out == 40
    assert found.numbers == list(range(40))
    shown = found.times[25]
    assert any(abs(click - shown) <= 1 / RATE for click in found.clicks), (shown, found.clicks)


@pytest.mark.slow
def test_a_stream_is_fetched_over_http_to_its_last_frame() -> None:
    data = stream_bytes(30)

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            # Without a length: it ends with its connection, as a camera's does.
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        threading.Thread(target=server.serve_forever).start()
        sent = Sent()
        opener = AddressOpener(parse_input(f"http://127.0.0.1:{server.server_port}/camera.ts"))
        outcome = make_session(opener, sent, rules=LiveRules(policy="slow", measures=False)).run()
        server.shutdown()
    assert outcome.frames_out == 30 and receive(sent.data).numbers == list(range(30))


def test_an_address_that_nobody_can_connect_to_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"where a sender could be waited for; listen at rtmp://.*leave out"):
        parse_input("udp://127.0.0.1:5000", listens=True)


@pytest.mark.slow
def test_nobody_who_sends_is_said_in_one_sentence() -> None:
    opener = AddressOpener(parse_input(f"udp://127.0.0.1:{free_port()}"), wait_seconds=0.1)
    with pytest.raises(MediaError, match="nothing came from udp://.* in time; start the sender first"):
        opener()


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("gopher://example.org/x", MediaError, "is no stream this command reads"),
        ("dshow:video=Camera", DeploymentError, "PyAV here was built without dshow"),
    ],
)
def test_an_input_that_cannot_be_is_refused_in_one_sentence(text: str, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        parse_input(text)


def test_a_protocol_this_installation_lacks_is_named() -> None:
    with pytest.raises((DeploymentError, MediaError), match="srt://"):
        AddressOpener(parse_input("srt://127.0.0.1:9"), wait_seconds=0.1)()


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="cannot be opened: No such file"):
        AddressOpener(parse_input(str(tmp_path / "none.ts")))()
