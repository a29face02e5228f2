"""Files that callers put into the object store themselves: what the service looks at before it makes a job of one."""

import httpx
import pytest

from seedvr2_ray.serve.config import Limits
from seedvr2_ray.storage.location import exists
from tests.s3_server import bucket, endpoint
from tests.serve.http.v1.ingress import QUICK, serving

__all__ = ["bucket", "endpoint"]

pytestmark = pytest.mark.slow

NAME = "Ö [1] {2} #3 & 100%.mp4"


@pytest.fixture
def ingress(bucket, clip, tmp_path):
    """A service over an object store that takes files up to the size of the clip; its jobs wait for ever."""
    limits = Limits(max_upload_bytes=clip.stat().st_size)
    with serving(tmp_path, data=f"{bucket}/service", limits=limits) as ingress:
        yield ingress


def submit(client, upload_id):
    return client.post("/v1/jobs", json={"source": {"upload": upload_id}, "settings": QUICK})


def test_a_file_of_another_size_than_was_announced_or_is_allowed_becomes_no_job(ingress, bucket, clip):
    client, content = ingress.client(), clip.read_bytes()

    def presigned(num_bytes):
        return client.post("/v1/uploads/presigned", json={"name": NAME, "num_bytes": num_bytes})

    over = presigned(len(content) + 1)
    assert over.status_code == 413
    assert str(len(content)) in over.json()["detail"]

    signed = presigned(len(content)).json()
    early = submit(client, signed["id"])
    assert early.status_code == 409
    assert f"0 of {len(content)} bytes" in early.json()["detail"]

    # A store that does not go by the signed size takes anything; so it is looked at again here.
    httpx.put(signed["url"], content=content[:-1], timeout=240).raise_for_status()
    short = submit(client, signed["id"])
    assert short.status_code == 409
    assert f"announced with {len(content)} bytes and has {len(content) - 1}" in short.json()["detail"]
    httpx.put(signed["url"], content=content, timeout=240).raise_for_status()
    assert submit(client, signed["id"]).status_code == 201

    large = presigned(len(content)).json()
    stored = f"{bucket}/service/uploads/{large['id']}/{NAME}"
    httpx.put(large["url"], content=content + b"x", timeout=240).raise_for_status()
    assert exists(stored)
    refused = submit(client, large["id"])
    assert refused.status_code == 413
    assert f"{len(content) + 1} bytes and {len(content)} are the most" in refused.json()["detail"]
    assert not exists(stored)
    assert submit(client, large["id"]).status_code == 410


def test_an_upload_that_is_deleted_takes_its_object_along(ingress, bucket):
    client = ingress.client()
    signed = client.post("/v1/uploads/presigned", json={"name": "film.mp4", "num_bytes": 5}).json()
    stored = f"{bucket}/service/uploads/{signed['id']}/film.mp4"
    httpx.put(signed["url"], content=b"12345", timeout=240).raise_for_status()
    assert exists(stored)
    assert client.delete(f"/v1/uploads/{signed['id']}", headers={"Tus-Resumable": "1.0.0"}).status_code == 204
    assert not exists(stored)
