"""Bodies that never come take nothing from anybody else, whoever sends them."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from seedvr2_ray.serve.config import Limits
from tests.serve.dripping import drip
from tests.serve.http.v1.ingress import Ingress, serving
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

BODY_SECONDS = 0.5
MOST_AT_ONCE = 5
ROUTES = [
    ("POST", "/v1/jobs", "application/json"),
    ("POST", "/v1/estimate", "application/json"),
    ("POST", "/v1/uploads/presigned", "application/json"),
    ("POST", "/v1/jobs", "multipart/form-data; boundary=here"),
]


@pytest.fixture(scope="module")
def ingress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingress]:
    limits = Limits(body_seconds=BODY_SECONDS, max_requests_at_once_per_owner=MOST_AT_ONCE)
    with serving(tmp_path_factory.mktemp("slow"), limits=limits, auth="keys") as running:
        yield running


def begin(ingress: Ingress, owner: str, method: str, path: str, kind: str, body: bytes = b"") -> socket.socket:
    """Send a request whose body never ends."""
    host, _, port = ingress.url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    key = ingress.client(owner).headers["authorization"]
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {key}\r\nContent-Type: {kind}\r\n"
    connection.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode() + body)
    return connection


@pytest.mark.parametrize(("method", "path", "kind"), ROUTES)
def test_a_body_that_does_not_come_is_given_up(ingress: Ingress, method: str, path: str, kind: str) -> None:
    with begin(ingress, f"silent-{ROUTES.index((method, path, kind))}", method, path, kind) as connection:
        answer = b""
        while b"the limit here" not in answer and (piece := connection.recv(65536)):
            answer += piece
    assert b" 408 " in answer and b"0.5 s, the limit here" in answer


def test_json_that_drips_is_given_up_as_a_whole(ingress: Ingress) -> None:
    with begin(ingress, "drips", "POST", "/v1/jobs", "application/json") as connection:
        assert b" 408 " in drip(connection, b" ")


def test_whoever_has_too_much_open_is_refused_at_once_and_others_are_not(ingress: Ingress, tmp_path: Path) -> None:
    ingress.service.replace_limits(ingress.service.limits.model_copy(update={"body_seconds": 600.0}))
    try:
        with ExitStack() as stack:
            for _ in range(MOST_AT_ONCE):
                stack.enter_context(begin(ingress, "greedy", "POST", "/v1/jobs", "application/json"))
            greedy = ingress.client("greedy")
            wait_for(lambda: greedy.get("/v1/jobs").status_code == 429, "the limit")
            refused = greedy.get("/v1/jobs")
            assert refused.headers["retry-after"] == "1" and "5 requests of yours" in refused.json()["detail"]
            assert ingress.client("patient").get("/v1/jobs").status_code == 200
        wait_for(lambda: greedy.get("/v1/jobs").status_code == 200, "the limit to be over")
    finally:
        ingress.service.replace_limits(ingress.service.limits.model_copy(update={"body_seconds": BODY_SECONDS}))


def test_one_address_does_not_hold_everything_either(ingress: Ingress) -> None:
    ingress.service.replace_limits(
        ingress.service.limits.model_copy(update={"body_seconds": 600.0, "max_requests_at_once_per_address": 3})
    )
    try:
        with ExitStack() as stack:
            for number in range(3):
                stack.enter_context(begin(ingress, f"one-of-{number}", "POST", "/v1/jobs", "application/json"))
            wait_for(lambda: ingress.client("patient").get("/v1/jobs").status_code == 429, "the limit")
            assert "your address" in ingress.client().get("/healthz").json()["detail"]
    finally:
        ingress.service.replace_limits(
            ingress.service.limits.model_copy(
                update={"body_seconds": BODY_SECONDS, "max_requests_at_once_per_address": 400}
            )
        )
