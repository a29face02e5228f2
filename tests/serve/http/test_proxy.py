"""What is too long or too slow is ended where it comes in, in a really running server."""

import importlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from seedvr2_ray.cli.serve import PROXY_CALLBACK
from seedvr2_ray.serve.http import proxy
from seedvr2_ray.serve.http.flow_control import PacedBodies
from seedvr2_ray.serve.http.proxy import MOST_HEAD_BYTES, BoundedHeads
from tests.serve.dripping import drip


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server that waits for heads for as long as a busy machine may take."""
    monkeypatch.setattr(proxy, "HEAD_SECONDS", 240.0)
    config = uvicorn.Config(hello, host="127.0.0.1", port=0, http=BoundedHeads, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield int(server.servers[0].sockets[0].getsockname()[1])
    server.should_exit = True
    thread.join(60)


def everything(connection: socket.socket) -> bytes:
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        return received
    return received


@pytest.mark.slow
def test_a_head_without_an_end_is_refused_before_it_costs_anything(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nX-Long: ")
        num_sent = 0
        try:
            while num_sent < 50 << 20:
                num_sent += connection.send(b"a" * 65536)
        except (BrokenPipeError, ConnectionResetError):
            return
        pytest.fail(f"{num_sent} bytes of a header were taken")


@pytest.mark.slow
def test_a_head_that_is_a_little_too_long_is_told_so(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nX-Long: " + b"a" * MOST_HEAD_BYTES)
        assert b"HTTP/1.1 431" in drip(connection, b"b")


@pytest.mark.slow
def test_a_head_that_drips_ends_its_connection(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "HEAD_SECONDS", 0.5)
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        assert everything(connection) == b""
    assert time.monotonic() - began > 0.4


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0.0, 0.3])
def test_ordinary_requests_on_one_connection_are_answered_however_long_they_pause(
    port: int, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        for _ in range(3):
            connection.sendall(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\n\r\nabc")
            answer = b""
            while not answer.endswith(b"hello"):
                answer += connection.recv(65536) or pytest.fail(f"the connection ended after {answer!r}")
            # Of the next head, which arrives at once and whole; the first one waits for a connection to be taken.
            monkeypatch.setattr(proxy, "HEAD_SECONDS", 0.05)
            time.sleep(pause)


def test_the_command_that_starts_the_service_names_what_bounds_its_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn.config, "HTTP_PROTOCOLS", dict(uvicorn.config.HTTP_PROTOCOLS))
    variable, callback = PROXY_CALLBACK
    constants = importlib.import_module("ray.serve._private.constants")
    assert hasattr(constants, variable), "Serve does not know the variable any more"
    module, _, name = callback.partition(":")
    [middleware] = getattr(importlib.import_module(module), name)()
    assert middleware.cls is PacedBodies
    # Serve's proxies say nothing of a protocol, so that uvicorn takes what "auto" means.
    config = uvicorn.Config(hello)
    config.load()
    assert config.http_protocol_class is BoundedHeads
