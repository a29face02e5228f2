import json
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from seedvr2_ray.serve.config import Limits
from seedvr2_ray.settings import RestoreSettings
from tests.serve.http.v1.ingress import QUICK, finished, serving, submit, upload
from tests.waiting import wait_for

pytestmark = pytest.mark.slow


def test_a_file_becomes_a_job_a_result_and_nothing(working, client, clip):
    made = submit(client, clip, name="Österreich 1.mp4")
    assert made.status_code == 201, made.text
    job = made.json()
    assert made.headers["location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert (job["name"], job["model"], job["source"]["num_bytes"]) == (
        "Österreich 1.mp4",
        "lanczos",
        clip.stat().st_size,
    )
    assert job["settings"] == RestoreSettings(**QUICK).to_mapping()
    assert job["estimate"]["gpu_seconds"] > 0
    ended = finished(client, job["id"])
    assert (ended["state"], ended["error"]) == ("completed", None)
    assert ended["result"]["name"] == "Österreich 1-restored.mp4"
    assert (ended["result"]["width"], ended["result"]["height"]) == (128, 96)
    data = client.get(ended["links"]["result"]).content
    assert len(data) == ended["result"]["num_bytes"]
    assert client.get(ended["links"]["after"]).headers["content-type"] == "image/jpeg"
    report, provenance = (client.get(ended["links"][name]) for name in ("report", "provenance"))
    assert report.text.startswith("<!doctype html>") and "attachment" in report.headers["content-disposition"]
    assert "sandbox" in report.headers["content-security-policy"]
    assert "source" in provenance.json() and "sterreich" not in provenance.text, "results are shared, names are not"
    assert job["id"] in [each["id"] for each in client.get("/v1/jobs?state=completed").json()["jobs"]]
    assert client.get("/v1/usage").json()["gpu_seconds"] > 0
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    for path in ("", "/result", "/report", "/provenance", "/events", "/preview/after"):
        assert client.get(f"/v1/jobs/{job['id']}{path}").status_code == 410
    assert job["id"] not in [each["id"] for each in client.get("/v1/jobs").json()["jobs"]]


def test_a_job_can_name_an_upload_and_carry_what_its_owner_wants(idle, clip):
    client = idle.client("anna")
    body = {
        "source": {"upload": upload(client, clip.read_bytes())},
        "settings": QUICK,
        "priority": 3,
        "metadata": {"shelf": "Ü 7"},
        "webhook_url": "https://example.org/hook",
    }
    made = client.post("/v1/jobs", json=body)
    assert made.status_code == 201, made.text
    job = client.get(f"/v1/jobs/{made.json()['id']}").json()
    assert (job["priority"], job["metadata"], job["state"]) == (3, {"shelf": "Ü 7"}, "queued")
    assert job["progress"]["queue_position"] >= 1
    assert job["links"]["result"] is None


def test_auto_means_the_deployments_default_and_other_models_are_refused(idle, clip):
    client = idle.client("models")
    assert submit(client, clip, settings={**QUICK, "model": "auto"}).json()["model"] == "lanczos"
    for model, complaint in (("seedvr2-3b", "this deployment has lanczos, nano"), ("sedvr", "known are")):
        refused = submit(client, clip, settings={**QUICK, "model": model})
        assert refused.status_code == 422
        assert complaint in refused.json()["detail"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": {"hieght": 720}}, "hieght"),
        ({"settings": {"resolution": "huge"}}, "resolution"),
        ({"settings": {"crf": "23"}}, "crf"),
        ({"priority": 11}, "priority"),
        ({"priority": "3"}, "priority"),
        ({"gang_size": 0}, "gang_size"),
        ({"metadata": {"x": "y" * 5000}}, "metadata"),
        ({"metadata": {"x": "a\u0000b"}}, "NUL"),
        ({"webhook_url": "ftp://example.org"}, "webhook_url"),
        ({"webhook_url": "https://user:secret@example.org"}, "webhook_url"),
        ({"source": {"url": "file:///etc/passwd"}}, "object"),
        ({"source": {"url": "s3://bucket/film.mp4"}}, "deployment"),
        ({"source": {"url": "http://[broken"}}, "URL"),
        ({"source": {"url": "http://exa mple/film.mp4"}}, "URL"),
        ({"source": {}}, "source"),
        ({"source": {"upload": "a", "url": "https://example.org/b"}}, "source"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_is_wrong_with_a_submission_is_said_at_once_and_by_name(idle, change, named):
    body = {"source": {"url": "https://example.org/film.mp4"}, **change}
    answer = idle.client("careless").post("/v1/jobs", json=body)
    assert answer.status_code == 422, answer.text
    assert named in answer.json()["detail"]
    assert "secret" not in answer.text


def test_secrets_in_a_url_are_never_shown(idle):
    client = idle.client("url")
    body = {"source": {"url": "https://user:hunter2@example.org/films/a%20b.mp4?token=hunter2"}}
    made = client.post("/v1/jobs", json=body)
    assert made.status_code == 201, made.text
    assert "hunter2" not in made.text
    assert made.json()["source"] == {
        "kind": "url",
        "name": "a b.mp4",
        "num_bytes": None,
        "url": "https://example.org/films/a%20b.mp4",
        "upload": None,
    }


def test_a_file_is_looked_at_before_it_becomes_a_job(idle, tmp_path):
    client = idle.client("files")
    text = tmp_path / "text.mp4"
    text.write_text("no film at all\n" * 100)
    refused = submit(client, text, name="text.mp4")
    assert refused.status_code == 422
    assert "text.mp4 holds text" in refused.json()["detail"]
    assert str(tmp_path) not in refused.text
    assert client.get("/v1/jobs").json() == {"jobs": [], "next_cursor": None}
    assert list(Path(idle.service.config.data).glob("uploads/*/text.mp4")) == []


@pytest.mark.parametrize(
    ("files", "data", "named"),
    [
        ({}, {"settings": "{}"}, "no file"),
        ({"film": ("a.mp4", b"x")}, {}, "field named file"),
        ([("file", ("a.mp4", b"x")), ("file", ("b.mp4", b"x"))], {}, "exactly one file"),
        ({"file": ("a.mp4", b"")}, {}, "empty"),
        ({"file": ("a.mp4", b"x")}, {"settings": "{"}, "settings"),
        ({"file": ("a.mp4", b"x")}, {"settings": "[1]"}, "settings"),
        ({"file": ("a.mp4", b"x")}, {"speed": "3"}, "speed"),
    ],
)
def test_a_form_says_which_of_its_fields_is_wrong(idle, files, data, named):
    answer = idle.client("forms").post("/v1/jobs", files=files or {"x": (None, "y")}, data=data)
    assert answer.status_code == 422, answer.text
    assert named in answer.json()["detail"] or (not files and "'x'" in answer.json()["detail"])


def test_the_same_request_under_the_same_key_makes_one_job(idle, clip):
    client = idle.client("twice")
    first = submit(client, clip, **{"Idempotency-Key": "one"})
    again = submit(client, clip, **{"Idempotency-Key": "one"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    other = submit(client, clip, settings={**QUICK, "resolution": "x3"}, **{"Idempotency-Key": "one"})
    assert other.status_code == 409
    assert len(client.get("/v1/jobs").json()["jobs"]) == 1
    assert submit(idle.client("somebody else"), clip, **{"Idempotency-Key": "one"}).status_code == 201


def test_owners_see_only_what_is_theirs(idle, clip):
    anna, bert = idle.client("owner-anna"), idle.client("owner-bert")
    mine, sent = submit(anna, clip).json(), upload(anna, clip.read_bytes())
    for method, path in (
        ("GET", f"/v1/jobs/{mine['id']}"),
        ("GET", f"/v1/jobs/{mine['id']}/events"),
        ("GET", f"/v1/jobs/{mine['id']}/result"),
        ("POST", f"/v1/jobs/{mine['id']}/cancel"),
        ("DELETE", f"/v1/jobs/{mine['id']}"),
    ):
        assert bert.request(method, path).status_code == 404
    tus = {"Tus-Resumable": "1.0.0"}
    assert bert.head(f"/v1/uploads/{sent}", headers=tus).status_code == 404
    assert bert.delete(f"/v1/uploads/{sent}", headers=tus).status_code == 404
    assert bert.post("/v1/jobs", json={"source": {"upload": sent}}).status_code == 404
    assert bert.get("/v1/jobs").json()["jobs"] == []
    admin = idle.client("root", "admin")
    assert admin.get(f"/v1/jobs/{mine['id']}").status_code == 200
    assert mine["id"] in [job["id"] for job in admin.get("/v1/jobs").json()["jobs"]]


def test_a_key_may_do_what_its_scopes_say(idle, clip):
    reader = idle.client("reader", "jobs:read")
    assert reader.get("/v1/jobs").status_code == 200
    assert submit(reader, clip).status_code == 403
    assert idle.client().get("/v1/jobs").status_code == 401
    assert idle.client().get("/v1/jobs").headers["www-authenticate"] == "Bearer"


def test_a_queued_job_is_cancelled_at_once_and_only_while_it_can_be(idle, clip):
    client = idle.client("cancels")
    job = submit(client, clip).json()
    answer = client.post(f"/v1/jobs/{job['id']}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    result = client.get(f"/v1/jobs/{job['id']}/result")
    assert result.status_code == 409
    assert "was cancelled" in result.json()["detail"]
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 410


def test_lists_come_in_pages(idle, clip):
    client = idle.client("pages")
    sent = upload(client, clip.read_bytes())
    made = [
        client.post("/v1/jobs", json={"source": {"upload": sent}, "settings": QUICK}).json()["id"] for _ in range(5)
    ]
    seen, cursor = [], None
    while True:
        page = client.get("/v1/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [job["id"] for job in page["jobs"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == made[::-1]
    assert client.get("/v1/jobs?state=completed").json()["jobs"] == []
    for wrong in ("state=lost", "limit=0", "limit=1000", "cursor=zzz"):
        assert client.get(f"/v1/jobs?{wrong}").status_code == 422


def test_an_estimate_is_what_the_job_then_expects_and_costs_nothing(idle, clip):
    client = idle.client("estimates")
    body = {"source": {"upload": upload(client, clip.read_bytes())}, "settings": QUICK}
    estimate = client.post("/v1/estimate", json=body).json()
    assert (estimate["width"], estimate["height"], estimate["refusals"]) == (128, 96, [])
    assert estimate["segments"] > 1
    assert estimate["frames"] == 24 + 4 * (estimate["segments"] - 1)
    assert estimate["cost"] == pytest.approx(estimate["gpu_seconds"] / 1000, abs=1e-6)
    assert client.get("/v1/jobs").json()["jobs"] == []
    assert client.post("/v1/jobs", json=body).json()["estimate"]["gpu_seconds"] == estimate["gpu_seconds"]
    broken = {"source": {"upload": upload(client, b"no film")}, "settings": QUICK}
    refused = client.post("/v1/estimate", json=broken).json()
    assert "film.mp4 holds" in refused["refusals"][0]
    huge = client.post("/v1/estimate", json={**body, "settings": {**QUICK, "resolution": "x200"}}).json()
    assert "limit" in huge["refusals"][0]


def test_an_estimate_of_a_url_says_why_the_url_is_not_fetched(idle):
    answer = idle.client("estimates").post("/v1/estimate", json={"source": {"url": "http://127.0.0.1:1/film.mp4"}})
    assert answer.status_code == 200, answer.text
    assert answer.json()["refusals"]


def test_limits_hold_change_at_run_time_and_say_when_to_come_again(tmp_path, clip):
    limits = Limits(max_unfinished_jobs_per_owner=2)
    with serving(tmp_path, auth="keys", limits=limits) as ingress:
        client = ingress.client("anna")
        assert [submit(client, clip, settings=QUICK).status_code for _ in range(3)] == [201, 201, 429]
        full = submit(client, clip)
        assert int(full.headers["retry-after"]) >= 1
        assert "2 are allowed" in full.json()["detail"]
        ingress.service.replace_limits(limits.model_copy(update={"max_unfinished_jobs_per_owner": 3}))
        assert submit(client, clip).status_code == 201
        ingress.service.replace_limits(Limits(max_queued_jobs=3))
        refused = submit(ingress.client("bert"), clip)
        assert refused.status_code == 429
        assert "3 jobs wait here" in refused.json()["detail"]
        ingress.service.replace_limits(Limits(max_queued_gpu_seconds=0.001))
        body = {"source": {"upload": upload(client, clip.read_bytes())}, "settings": QUICK}
        assert client.post("/v1/jobs", json=body).status_code == 429
        assert "device time wait" in client.post("/v1/estimate", json=body).json()["refusals"][0]


def test_a_file_beyond_the_limit_is_refused_before_it_has_been_sent(tmp_path):
    with serving(tmp_path, limits=Limits(max_upload_bytes=100_000)) as ingress:
        host, port = ingress.url.removeprefix("http://").split(":")
        head = (
            f"POST /v1/jobs HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            "{length}\r\n"
        )
        part = '--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
        with socket.create_connection((host, int(port)), timeout=60) as announced:
            announced.sendall(head.format(length="Content-Length: 900000000\r\n").encode())
            assert b" 413 " in announced.recv(4096)
        with socket.create_connection((host, int(port)), timeout=60) as unannounced:
            unannounced.sendall(head.format(length="Transfer-Encoding: chunked\r\n").encode())
            body = part.encode() + b"x" * 2_000_000
            with suppress(ConnectionError):  # Who is refused meanwhile may be hung up on; what was answered is there.
                unannounced.sendall(f"{len(body):x}\r\n".encode() + body + b"\r\n")  # And it goes on for ever.
            answer = b""
            while b"}" not in answer:  # Head and body may come one after the other.
                answer += unannounced.recv(65536) or pytest.fail(f"the answer broke off: {answer!r}")
        assert b" 413 " in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"] == "/v1/problems/too-large"
        assert list((tmp_path / "data" / "uploads").glob("*/*")) == []


def test_a_form_that_breaks_off_leaves_nothing_behind(tmp_path, clip):
    with serving(tmp_path) as ingress:
        host, port = ingress.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(
                f"POST /v1/jobs HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 100000\r\n"
                "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
                'Content-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'.encode()
                + b"x" * 5000
            )
            uploads = tmp_path / "data" / "uploads"
            wait_for(lambda: [file for file in uploads.glob("*/a.mp4") if file.stat().st_size], "the upload to begin")
        wait_for(lambda: not list(uploads.glob("*")), "it to be deleted")
        assert ingress.client().get("/v1/jobs").json()["jobs"] == []
