"""Who may enter which route: walked over all routes of the application, so that none is forgotten."""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import pytest
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.testclient import TestClient

from seedvr2_ray.serve.config import ModelPool, ServiceConfig
from seedvr2_ray.serve.db.database import open_database
from seedvr2_ray.serve.db.job_store import NewJob
from seedvr2_ray.serve.db.key_store import KeyStore
from seedvr2_ray.serve.db.upload_store import UploadStore
from seedvr2_ray.serve.http import upscale
from seedvr2_ray.serve.http.application import create_api
from seedvr2_ray.serve.http.callers import needed_scope
from seedvr2_ray.serve.http.page import page_router
from seedvr2_ray.serve.http.runpod import routes as runpod
from seedvr2_ray.serve.jobs import Source
from seedvr2_ray.serve.secrets import Secrets
from seedvr2_ray.serve.security.api_keys import SCOPES, make_key
from seedvr2_ray.serve.service.verbs import Service

FREE = frozenset(
    {"/healthz", "/readyz", "/metrics", "/v1/problems", "/v1/problems/{name}", "/", "/live", "/web/{path:path}"}
)
"""What anybody may see: whether the service lives, what its errors mean, and the pages, which ask for keys."""
READERS_POST = frozenset({"/v1/estimate"})
NEED_BOTH = frozenset({"/v2/{endpoint_id}/runsync", "/v2/{endpoint_id}/purge-queue"})
"""What makes a job and gives out its result, or finds jobs and ends them."""
HEADERS = {"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Upload-Length": "3"}


class Doors:
    """A service and keys with any scopes."""

    def __init__(self, folder: str) -> None:
        config = ServiceConfig(
            data=f"{folder}/data", auth=("keys",), models={"lanczos": ModelPool()}, default_model="lanczos"
        )
        self.database = open_database(f"sqlite:///{folder}/service.db")
        service = Service(config, Secrets(), self.database)
        self.app = create_api(service, routers=(runpod.router, upscale.router, page_router()))
        self.client = TestClient(self.app)
        self.keys = KeyStore(self.database)

    def status(self, method: str, path: str, *scopes: str) -> int:
        """Knock at a route with a key of exactly these scopes."""
        key, token = make_key("anna", scopes, now=datetime.now(UTC))
        self.keys.add(key)
        url = path.replace("{which}", "before").replace("{", "a").replace("}", "a")
        return self.client.request(method, url, headers={**HEADERS, "Authorization": f"Bearer {token}"}).status_code

    def routes(self) -> list[tuple[str, str]]:
        """Every method and path that asks who is calling."""
        return [
            (method, route.path)
            for route in _api_routes(self.app.routes)
            if route.path not in FREE
            for method in sorted(route.methods - {"OPTIONS"})
        ]


def _api_routes(routes: Iterable[BaseRoute]) -> Iterator[APIRoute]:
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from _api_routes(included.routes)
        elif isinstance(route, APIRoute):
            yield route


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    found = Doors(str(tmp_path_factory.mktemp("doors")))
    yield found
    found.client.close()
    found.database.close()


@pytest.mark.slow
def test_every_route_refuses_a_key_without_its_scope_whatever_is_sent(doors: Doors) -> None:
    routes = doors.routes()
    assert ("PATCH", "/v1/uploads/{upload_id}") in routes and len(routes) > 20
    for method, path in routes:
        needed = needed_scope(method, path)
        for scopes in ((scope,) for scope in SCOPES):
            is_let_in = needed is None or "admin" in scopes or (needed in scopes and path not in NEED_BOTH)
            status = doors.status(method, path, *scopes)
            assert (status != 403) == is_let_in, (method, path, scopes, status)
            assert status != 401, (method, path)


def test_whatever_changes_something_needs_the_scope_to_write(doors: Doors) -> None:
    for method, path in doors.routes():
        if method in ("POST", "PUT", "PATCH", "DELETE"):
            expected = "jobs:read" if path in READERS_POST else "jobs:write"
            assert needed_scope(method, path) == expected, (method, path)


def test_a_route_that_is_not_known_yet_needs_a_scope() -> None:
    assert needed_scope("GET", "/v9/anything") == "jobs:read"
    assert needed_scope("POST", "/v9/anything") == "jobs:write"


@pytest.mark.slow
def test_every_route_but_the_free_ones_refuses_whoever_has_no_key(doors: Doors) -> None:
    for method, path in doors.routes():
        url = path.replace("{which}", "before").replace("{", "a").replace("}", "a")
        assert doors.client.request(method, url, headers=HEADERS).status_code == 401, (method, path)


def things_of(doors: Doors, owner: str) -> dict[str, str]:
    """Make a job and an upload of an owner; return what stands for each parameter of a path."""
    service: Service = doors.app.state.service
    source = Source(kind="url", location="https://example.org/film.mp4", name="film.mp4")
    job, _ = service.jobs.create(NewJob(owner=owner, source=source, settings={"model": "lanczos"}))
    upload = UploadStore(doors.database).create(owner=owner, name="film.mp4", num_bytes=3)
    return {"job_id": job.id, "upload_id": upload.id, "which": "before", "endpoint_id": "any"}


@pytest.mark.slow
def test_every_route_of_the_document_says_of_somebody_elses_things_what_it_says_of_things_that_are_not_there(
    doors: Doors,
) -> None:
    theirs = things_of(doors, "bert")
    nobodys = {**theirs, "job_id": "job_of_nobody", "upload_id": "upload_of_nobody"}
    key, token = make_key("anna", ("jobs:read", "jobs:write"), now=datetime.now(UTC))
    doors.keys.add(key)
    headers = {**HEADERS, "Authorization": f"Bearer {token}", "Content-Type": "application/offset+octet-stream"}
    walked = set()
    for path, operations in doors.client.get("/openapi.json").json()["paths"].items():
        names = set(re.findall(r"{(\w+)}", path))
        if not names & {"job_id", "upload_id"}:
            continue
        assert names <= set(theirs), f"{path} has a parameter that this test does not know"
        for method in sorted({"get", "head", "post", "patch", "put", "delete"} & set(operations)):
            answers = [
                doors.client.request(method, path.format(**things), headers=headers, content=b"abc")
                for things in (theirs, nobodys)
            ]
            told = [
                answer.text.replace(things["job_id"], "ID").replace(things["upload_id"], "ID")
                for answer, things in zip(answers, (theirs, nobodys), strict=True)
            ]
            plain = [re.sub(r'"request_id":"[^"]*"', "", text) for text in told]
            assert answers[0].status_code == answers[1].status_code == 404, (method, path, told)
            assert plain[0] == plain[1], (method, path)
            walked.add((method, path))
    assert len(walked) > 12 and ("patch", "/v1/uploads/{upload_id}") in walked
    service: Service = doors.app.state.service
    assert service.jobs.get(theirs["job_id"]).cancel_requested is False
    assert service.jobs.get(theirs["job_id"]).delete_requested is False


def test_an_administrator_sees_what_is_others(doors: Doors) -> None:
    theirs = things_of(doors, "bert")
    key, token = make_key("root", ("admin",), now=datetime.now(UTC))
    doors.keys.add(key)
    answer = doors.client.get(f"/v1/jobs/{theirs['job_id']}", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200
