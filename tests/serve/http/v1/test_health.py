"""Whether the service can work is told as it is, and what it cannot keep it does not take."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from seedvr2_ray.serve.jobs import Source
from seedvr2_ray.serve.service.submission import DEEPEST_NESTING
from tests.serve.http.v1.ingress import Ingress, serving, submit
from tests.serve.job_samples import new_job

pytestmark = pytest.mark.slow

SOURCE = Source(kind="url", location="https://example.org/film.mp4", name="film.mp4")
SUBMISSION = {"source": {"url": SOURCE.location}}


@pytest.fixture
def ingress(tmp_path: Path) -> Iterator[Ingress]:
    with serving(tmp_path, auth="keys") as running:
        yield running


def test_with_a_locked_database_reads_are_answered_and_the_service_is_not_ready(
    ingress: Ingress, tmp_path: Path
) -> None:
    job, _ = ingress.service.jobs.create(new_job("anna"))
    client = ingress.client("anna")
    assert client.get("/readyz").status_code == 200
    with closing(sqlite3.connect(tmp_path / "service.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        # As long as this block lasts: what waited for the lock would not be answered at all.
        assert client.get(f"/v1/jobs/{job.id}").status_code == 200
        assert client.get("/v1/jobs").status_code == 200
        refused = client.get("/readyz")
        assert refused.status_code == 503 and refused.json()["type"].endswith("/storage")
        assert str(tmp_path) not in refused.text
        other.execute("ROLLBACK")
    assert client.get("/readyz").status_code == 200


def test_with_the_database_gone_nothing_is_accepted(ingress: Ingress, tmp_path: Path) -> None:
    client = ingress.client("anna")
    assert client.post("/v1/jobs", json=SUBMISSION).status_code == 201
    (tmp_path / "service.db").rename(tmp_path / "elsewhere.db")
    assert client.get("/readyz").status_code == 503
    assert client.post("/v1/jobs", json=SUBMISSION).status_code == 503
    announced = {"Tus-Resumable": "1.0.0", "Upload-Length": "3"}
    assert client.post("/v1/uploads", headers=announced).status_code == 503


def test_with_the_disk_full_nothing_is_accepted(ingress: Ingress, clip: Path) -> None:
    client = ingress.client("anna")
    limits = ingress.service.limits
    ingress.service.replace_limits(limits.model_copy(update={"min_free_bytes": 1 << 62}))
    for refused in (
        client.get("/readyz"),
        client.post("/v1/jobs", json=SUBMISSION),
        client.post("/v1/uploads", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "3"}),
        submit(client, clip),
    ):
        assert refused.status_code == 503 and refused.json()["type"].endswith("/capacity")
    assert client.get("/v1/jobs").json()["jobs"] == []
    ingress.service.replace_limits(limits)
    assert client.post("/v1/jobs", json=SUBMISSION).status_code == 201


@pytest.mark.parametrize("depth", [DEEPEST_NESTING + 1, 300, 8_000])
@pytest.mark.parametrize("field", ["metadata", "settings"])
def test_what_is_nested_too_deeply_is_refused_in_every_form_of_a_request(
    ingress: Ingress, clip: Path, field: str, depth: int
) -> None:
    client = ingress.client("anna")
    nested = '{"a": ' * depth + "1" + "}" * depth
    with clip.open("rb") as file:
        form = client.post("/v1/jobs", files={"file": ("film.mp4", file)}, data={field: nested})
    body = f'{{"source": {json.dumps(SUBMISSION["source"])}, "{field}": {nested}}}'
    whole = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert (form.status_code, whole.status_code) == (422, 422), (form.text, whole.text)
    assert client.get("/v1/jobs").json()["jobs"] == []


def test_what_is_nested_as_deeply_as_allowed_comes_back_as_it_was(ingress: Ingress) -> None:
    client = ingress.client("anna")
    metadata: dict[str, object] = {"a": 1}
    for _ in range(DEEPEST_NESTING - 1):
        metadata = {"a": metadata}
    made = client.post("/v1/jobs", json={**SUBMISSION, "metadata": metadata})
    assert made.status_code == 201, made.text
    assert client.get(made.json()["links"]["self"]).json()["metadata"] == metadata
