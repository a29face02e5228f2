"""The API's document against the API: whatever it allows is answered with a status it names, and never with 5xx."""

import contextlib

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from seedvr2_ray.serve.config import Limits
from tests.serve.http.v1.ingress import PIECE, serving


@schemathesis.serializer(PIECE)
def _as_it_is(_, value):
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


STREAMS = "/events"
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.slow
def test_the_document_is_openapi_3_1_and_names_every_error(idle):
    document = idle.client().get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert {"Problem", "JobView", "JobRequest", "EstimateView"} <= document["components"]["schemas"].keys()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "key"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            failures = {status for status in operation["responses"] if status[0] in "45"}
            assert {"500", "503"} <= failures, (method, path)
            for status in failures:
                schema = operation["responses"][status]["content"]["application/problem+json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}


def test_every_operation_but_those_for_machines_needs_a_key(idle):
    client = idle.client()
    free = {"/healthz", "/readyz", "/metrics", "/v1/problems", "/v1/problems/{name}"}
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        for method in operations:
            if path in free or method == "options":
                continue
            headers = {"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Upload-Length": "3"}
            answer = client.request(method, path.replace("{", "a").replace("}", "a"), headers=headers)
            assert answer.status_code == 401, (method, path)


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode), ids=str)
def test_whatever_is_asked_is_answered_as_the_document_says(tmp_path, mode):
    with serving(tmp_path, limits=Limits(requests_per_minute=10**6)) as ingress, requests.Session() as session:
        schema = schemathesis.openapi.from_url(f"{ingress.url}/openapi.json").exclude(path_regex=STREAMS)
        tried = []
        for found in schema.get_all_operations():
            operation = found.ok()

            @settings(
                max_examples=10, deadline=None, database=None, derandomize=True, suppress_health_check=HealthCheck
            )
            @given(case=operation.as_strategy(mode))
            def try_it(case):
                case.call_and_validate(base_url=ingress.url, session=session, checks=CHECKS, timeout=120)

            with contextlib.suppress(Unsatisfiable):  # An operation without parameters cannot be asked wrongly.
                try_it()
            tried.append(operation.label)
        assert len(tried) >= 20
