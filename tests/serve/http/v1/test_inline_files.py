import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests

from seedvr2_ray.serve.config import Limits
from seedvr2_ray.serve.db.key_store import KeyStore
from seedvr2_ray.serve.security.api_keys import make_key
from tests.serve.deployment import deploy
from tests.serve.http_service import HttpService, served
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

PART = b'{"video_base64": "' + b"A" * 200_000


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpService]:
    folder = tmp_path_factory.mktemp("inline")
    limits = Limits(max_upload_bytes=10**6, max_queued_jobs=0, body_seconds=0.5)
    with served(deploy(folder, limits=limits, scratch=str(folder / "scratch")), with_runner=False) as running:
        yield running


def key_of(service: HttpService, *scopes: str) -> str:
    key, token = make_key("anna", scopes, now=datetime.now(UTC))
    KeyStore(service.deployment.database).add(key)
    return token


def begin(service: HttpService, key: str, length: int) -> socket.socket:
    """Send the head of a request and some of its body."""
    host, _, port = service.url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    head = f"POST /upscale HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nContent-Length: {length}\r\n\r\n"
    with suppress(ConnectionError):  # Who is refused by the head may be hung up on; what was answered is there.
        connection.sendall(head.encode() + PART)
    return connection


def no_bodies(service: HttpService) -> bool:
    scratch = service.deployment.config.scratch
    return not any(Path(str(scratch), "bodies").glob("*"))


def test_who_may_not_make_jobs_sends_no_file(service):
    key = key_of(service, "jobs:read")
    with begin(service, key, 10**9) as connection:
        assert b" 403 " in connection.recv(100)


def test_a_file_is_not_received_where_its_job_would_be_refused(service):
    key = key_of(service, "jobs:read", "jobs:write")
    with begin(service, key, 10**9) as connection:
        assert b" 429 " in connection.recv(100)


@pytest.fixture
def roomy(service: HttpService, monkeypatch: pytest.MonkeyPatch) -> HttpService:
    """A service with room for jobs, and little patience."""
    monkeypatch.setattr("seedvr2_ray.serve.service.verbs.Service.require_room", _has_room)
    return service


async def _has_room(service: object, caller: object) -> None:
    """Let everybody in."""


def test_a_sender_that_falls_silent_is_told_so(roomy):
    with begin(roomy, key_of(roomy, "jobs:write"), len(PART) + 100) as connection:
        assert b" 408 " in connection.recv(100)
    wait_for(lambda: no_bodies(roomy), "what came to be removed")


def test_what_breaks_off_leaves_nothing_behind(roomy):
    with begin(roomy, key_of(roomy, "jobs:write"), len(PART) + 100):
        pass
    wait_for(lambda: no_bodies(roomy), "what came to be removed")


def test_a_refused_job_leaves_no_upload_behind(roomy):
    body = json.dumps({"video_base64": "bm8gdmlkZW8="})
    headers = {"Authorization": f"Bearer {key_of(roomy, 'jobs:write')}"}
    answer = requests.post(f"{roomy.url}/upscale", data=body, headers=headers, timeout=60)
    assert answer.status_code == 422
    assert list(Path(roomy.deployment.config.data, "uploads").glob("*")) == []
