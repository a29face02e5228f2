"""An S3 endpoint on loopback, and buckets in it, for tests that import these fixtures. Not a test module."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tests.ports import free_port, is_listening
from tests.waiting import wait_for

SECRET = "a-secret-nobody-may-see"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Where the store answers, for the tests of one module."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: server.poll() is not None or is_listening(port), "the store")
        assert server.poll() is None, "the store has ended"
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The URL of an empty bucket, which this process and those that it starts may read and write."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    filesystem = fsspec.filesystem("s3", skip_instance_cache=True)
    filesystem.clear_instance_cache()
    name = "bucket-" + "".join(letter for letter in tmp_path.name.lower() if letter.isalnum())[:40]
    filesystem.mkdir(name)
    return f"s3://{name}"
