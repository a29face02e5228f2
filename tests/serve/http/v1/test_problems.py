import inspect

import pytest

import seedvr2_ray.errors
import seedvr2_ray.serve.problems
from seedvr2_ray.errors import SeedVR2Error
from seedvr2_ray.serve.http.problem_bodies import PROTOCOL_PROBLEMS, Problem, ProtocolRefusal, all_kinds, problem_of
from seedvr2_ray.serve.problems import PROBLEMS, RateRefusal, Refusal, kind_of
from tests.serve.http.v1.ingress import serving

ERRORS = sorted(
    {
        error
        for module in (seedvr2_ray.errors, seedvr2_ray.serve.problems)
        for _, error in inspect.getmembers(module, inspect.isclass)
        if issubclass(error, SeedVR2Error)
    },
    key=lambda error: error.__name__,
)


def _subclasses(error):
    for each in error.__subclasses__():
        yield each
        yield from _subclasses(each)


def test_the_table_has_a_row_for_every_error_of_ours_and_names_none_twice():
    assert set(PROBLEMS) == set(ERRORS)
    names = [kind.name for kind in PROBLEMS.values()]
    assert len(set(names)) == len(names)
    # A kind that HTTP has too is the same kind under the same name, so one address describes both.
    for kind in PROTOCOL_PROBLEMS.values():
        assert all_kinds()[kind.name].status == kind.status


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_says_what_was_wrong_and_the_way_out(error):
    problem, headers = problem_of(error("the crf is 99 and 63 is the limit; choose less"), "id-12345")
    kind = PROBLEMS[error]
    assert problem.type == f"/v1/problems/{kind.name}"
    assert (problem.status, problem.title, problem.remedy) == (kind.status, kind.title, kind.remedy)
    assert problem.remedy.endswith(".")
    assert problem.request_id == "id-12345"
    assert len(problem.detail) > 20
    if kind.status < 500:
        assert "63 is the limit" in problem.detail
    if kind.status in (429, 503):
        assert int(headers["Retry-After"]) >= 1


def test_every_subclass_in_the_package_falls_under_a_row_that_fits():
    for error in set(_subclasses(Refusal)) - set(PROBLEMS):
        assert kind_of(error).status in {400, *(PROBLEMS[base].status for base in error.__mro__ if base in PROBLEMS)}
    assert kind_of(KeyError).status == 500


@pytest.mark.parametrize("status", PROTOCOL_PROBLEMS)
def test_every_protocol_problem_says_what_was_wrong_and_the_way_out(status):
    problem, _ = problem_of(ProtocolRefusal("the header X says y", status), "id-12345")
    assert (problem.status, problem.detail) == (status, "the header X says y")
    assert problem.remedy.endswith(".")


@pytest.mark.parametrize("error", ["StorageError", "DeploymentError", "SeedVR2Error"])
def test_places_and_machines_of_the_deployment_are_not_told(error):
    message = "the database postgresql://seedvr2:***@db.internal/jobs does not answer at /srv/data"
    problem, _ = problem_of(getattr(seedvr2_ray.errors, error)(message), "id")
    for secret in ("db.internal", "/srv/data"):
        assert secret not in problem.model_dump_json()


@pytest.mark.slow
def test_a_crash_tells_its_request_id_and_nothing_else(tmp_path, caplog):
    with serving(tmp_path) as ingress:

        async def crash():
            raise RuntimeError("the password is hunter2")

        ingress.service.gauges = crash
        answer = ingress.client().get("/metrics", headers={"X-Request-Id": "abcdefgh-1"})
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert Problem(**answer.json()).request_id == "abcdefgh-1" == answer.headers["x-request-id"]
        assert "hunter2" not in answer.text
        assert any("abcdefgh-1" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/nothing", 404, "GET /nothing"),
        ("PUT", "/v1/jobs", 405, "GET, POST"),
        ("DELETE", "/healthz", 405, "GET"),
        ("GET", "/v1/jobs/a%00b", 404, "id"),
        ("GET", "/v1/jobs/..%2f..%2fetc", 404, ""),
        ("GET", "/v1/usage?days=many", 422, "days"),
        ("POST", "/v1/jobs", 415, "multipart/form-data"),
        ("GET", "/v1/jobs/job_1/preview/middle", 422, "which"),
    ],
)
def test_what_is_wrong_as_http_is_a_problem_too(idle, method, path, status, said):
    answer = idle.client("http").request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert said in Problem(**answer.json()).detail
    if status == 405:
        assert answer.headers["allow"] == said
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


def test_kinds_of_problems_are_described_under_their_type(idle):
    client = idle.client()
    for kind in client.get("/v1/problems").json():
        assert client.get(kind["type"]).json() == kind
    assert client.get("/v1/problems/nothing").status_code == 404


def test_every_answer_has_safe_headers_and_no_other_site_may_read_it(idle):
    for path in ("/healthz", "/nothing", "/openapi.json"):
        answer = idle.client().get(path, headers={"Origin": "https://example.org"})
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.slow
def test_sites_that_the_deployment_names_may_call_and_read(tmp_path):
    with serving(tmp_path, auth="keys", cors_origins=("https://app.example.org",)) as ingress:
        client = ingress.client()
        asked = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "Upload-Offset"}
        allowed = client.options("/v1/uploads/x", headers={"Origin": "https://app.example.org", **asked})
        assert allowed.headers["access-control-allow-origin"] == "https://app.example.org"
        assert "PATCH" in allowed.headers["access-control-allow-methods"]
        refused = client.options("/v1/uploads/x", headers={"Origin": "https://evil.example.org", **asked})
        assert "access-control-allow-origin" not in refused.headers
        failed = client.get("/v1/jobs", headers={"Origin": "https://app.example.org"})
        assert failed.status_code == 401
        assert failed.headers["access-control-allow-origin"] == "https://app.example.org"
        assert "Upload-Offset" in failed.headers["access-control-expose-headers"]


@pytest.mark.slow
def test_a_request_id_that_could_forge_a_log_is_replaced(idle):
    for sent in ("short", "x" * 100, "abc def ghi", "a=1,b=2;c=3"):
        assert idle.client().get("/healthz", headers={"X-Request-Id": sent}).headers["x-request-id"] != sent
    assert idle.client().get("/healthz", headers={"X-Request-Id": "0123-abc_X"}).headers["x-request-id"] == "0123-abc_X"


def test_rates_say_when_to_come_again():
    problem, headers = problem_of(RateRefusal("too many", 17), "id")
    assert (problem.status, headers["Retry-After"]) == (429, "17")
