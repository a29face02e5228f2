"""How tests submit jobs over HTTP and wait for what becomes of them. Not a test module."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from seedvr2_ray.settings import RestoreSettings

SETTINGS = {"model": "lanczos", "resolution": "x2", "segment_seconds": 0.5, "segment_overlap": 4, "preset": "ultrafast"}
FINAL = ("completed", "failed", "cancelled")
PATIENCE_SECONDS = 240.0


def settings_of(seed: int, **changes: Any) -> RestoreSettings:
    """The settings that :func:`send` submits."""
    return RestoreSettings.from_mapping({**SETTINGS, "seed": seed, **changes})


def send(client: httpx.Client, clip: Path, seed: int, **changes: Any) -> httpx.Response:
    """Submit a file as a form, whatever the answer."""
    settings = json.dumps({**SETTINGS, "seed": seed, **changes})
    with clip.open("rb") as file:
        return client.post("/v1/jobs", files={"file": (clip.name, file)}, data={"settings": settings})


def submit(client: httpx.Client, clip: Path, seed: int, **changes: Any) -> str:
    """Submit a file, which must be accepted; return the job's id."""
    answer = send(client, clip, seed, **changes)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def look(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """What the service says of a job."""
    answer = client.get(f"/v1/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def until(
    client: httpx.Client,
    job_id: str,
    condition: Callable[[dict[str, Any]], bool] = lambda job: job["state"] in FINAL,
    seconds: float = PATIENCE_SECONDS,
) -> dict[str, Any]:
    """Wait until something is true of a job. Connections that break meanwhile are made again."""
    deadline, job = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        try:
            job = look(client, job_id)
        except httpx.TransportError:
            time.sleep(0.5)
            continue
        if condition(job):
            return job
        assert job["state"] not in FINAL, f"the job has ended: {job}"
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds:g} s in vain; the job is {job}")


def completed(client: httpx.Client, job_id: str, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
    """Wait until a job has ended, which must be well."""
    job = until(client, job_id, seconds=seconds)
    assert job["state"] == "completed", job
    return job


def events(client: httpx.Client, job_id: str) -> Iterator[dict[str, Any]]:
    """What the service tells of a job until that has ended."""
    with client.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                yield dict(json.loads(line.removeprefix("data: ")))


def download(client: httpx.Client, job_id: str) -> bytes:
    """The result of a job."""
    answer = client.get(f"/v1/jobs/{job_id}/result")
    assert answer.status_code == 200, answer.text
    return answer.content
