import asyncio
import inspect
import json
import subprocess
import sys

import httpx
import pytest

from seedvr2_ray.client.asynchronous import AsyncClient
from seedvr2_ray.client.blocking import Client
from seedvr2_ray.client.errors import ServiceRefusal, in_sentences
from seedvr2_ray.errors import (
    CapacityError,
    DeploymentError,
    InputError,
    MediaError,
    RetryableError,
    SettingsError,
    TargetError,
)
from seedvr2_ray.settings import RestoreSettings
from tests.client.fake_service import RESULT, URL, FakeService, Torn, breaks, job, passes, problem, refuses


@pytest.fixture
def service():
    return FakeService()


@pytest.fixture
def client(service):
    with service.client() as client:
        yield client


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "Ö clip.mp4"
    path.write_bytes(b"0123456789" * 10)
    return path


def test_a_file_is_submitted_watched_and_downloaded_in_one_call(service, client, clip, tmp_path):
    seen = []
    target = tmp_path / "out.mp4"
    done = client.restore(clip, target, {"model": "nano"}, on_change=seen.append)
    assert done.state == "completed"
    assert [each.state for each in seen] == ["queued", "restoring", "completed"]
    assert (target.read_bytes(), bytes(service.received), service.name) == (RESULT, clip.read_bytes(), clip.name)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([clip.name, "out.mp4"])


def test_the_asynchronous_client_does_the_same(service, clip, tmp_path):
    async def run():
        async with service.async_client() as client:
            job_made = await client.submit(await client.upload(clip, piece_bytes=30))
            states = [each.state async for each in client.events(job_made)]
            return states, await client.download(job_made, tmp_path / "out.mp4")

    states, path = asyncio.run(run())
    assert states == ["queued", "restoring", "completed"]
    assert (path.read_bytes(), bytes(service.received)) == (RESULT, clip.read_bytes())


def test_the_blocking_client_works_inside_a_running_event_loop_as_notebooks_have_one(client, clip):
    async def cell():
        return client.wait(client.submit(clip)).state

    assert asyncio.run(cell()) == "completed"


def test_both_clients_have_the_same_verbs_with_the_same_parameters():
    def verbs(kind):
        public = {name: member for name, member in vars(kind).items() if not name.startswith("_")}
        return {name: list(inspect.signature(member).parameters) for name, member in public.items()}

    assert verbs(Client) == verbs(AsyncClient)
    assert {name: vars(Client)[name].__doc__ for name in verbs(Client)} == {
        name: vars(AsyncClient)[name].__doc__ for name in verbs(Client)
    }


def test_a_request_is_sent_again_after_a_break_and_makes_one_job(service, client):
    service.faults = [breaks, refuses(503, "unavailable"), refuses(429, "too-many", **{"retry-after": "0"})]
    client.submit("https://example.com/clip.mp4")
    assert len({request.headers["idempotency-key"] for request in service.requests}) == 1
    assert len(service.requests) == 4
    assert len(service.jobs_by_key) == 1


def test_patience_ends_and_says_who_does_not_answer(service, client):
    service.faults = [breaks] * 4
    with pytest.raises(RetryableError, match=r"http://service\.test.* does not answer \(refused\)"):
        client.job("job-1")
    assert len(service.requests) == 4


def test_a_service_that_asks_for_more_patience_than_there_is_gets_none(service, client):
    service.faults = [refuses(429, "too-many", **{"retry-after": "3600"})]
    with pytest.raises(ServiceRefusal) as caught:
        client.job("job-1")
    assert (caught.value.status, caught.value.kind, len(service.requests)) == (429, "too-many", 1)


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (422, "settings", SettingsError),
        (422, "media", MediaError),
        (422, "target", TargetError),
        (422, "input", InputError),
        (503, "deployment", DeploymentError),
        (404, "not-found", ServiceRefusal),
        (401, "unauthenticated", ServiceRefusal),
    ],
)
def test_what_is_refused_is_the_error_that_it_would_be_here_and_is_not_asked_again(
    service, client, status, kind, error
):
    service.faults = [refuses(status, kind)]
    with pytest.raises(error, match=r"it is so\. Do this\.") as caught:
        client.job("job-1")
    assert type(caught.value) is error
    assert len(service.requests) == 1


def test_an_answer_of_something_else_is_quoted_or_refused(service, client):
    service.faults = [lambda _: httpx.Response(404, text="<h1>nginx</h1>")]
    with pytest.raises(ServiceRefusal, match="status 404: <h1>nginx</h1>"):
        client.job("job-1")
    service.faults = [lambda _: httpx.Response(200, json={"id": 3})]
    with pytest.raises(DeploymentError, match="no Job of API v1"):
        client.job("job-1")


def test_an_upload_goes_on_from_what_has_arrived(service, client, clip):
    def arrives_in_part(request):
        service.received += request.content[:17]
        raise httpx.WriteError("the connection broke")

    seen = []
    service.faults = [passes, arrives_in_part]
    upload = client.upload(clip, piece_bytes=40, on_progress=lambda done, total: seen.append((done, total)))
    assert (bytes(service.received), upload.num_bytes) == (clip.read_bytes(), 100)
    assert seen == [(17, 100), (57, 100), (97, 100), (100, 100)]


def test_an_upload_goes_on_in_another_process(service, client, clip):
    service.received += clip.read_bytes()[:60]
    service.num_announced = 100
    assert client.upload(clip, resume="up-1").id == "up-1"
    assert bytes(service.received) == clip.read_bytes()
    service.num_announced = 99
    with pytest.raises(MediaError, match="announced with 99 bytes and the file has 100"):
        client.upload(clip, resume="up-1")


def test_what_cannot_be_uploaded_is_said_before_anything_is_sent(service, client, tmp_path):
    with pytest.raises(MediaError, match="cannot read"):
        client.upload(tmp_path / "none.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(MediaError, match="0 bytes"):
        client.upload(tmp_path / "empty.mp4")
    assert service.requests == []


def test_events_go_on_after_a_break_and_say_nothing_twice(service, client):
    def breaks_after_the_first(request):
        return httpx.Response(200, stream=Torn(f"data: {json.dumps(job())}\n\n".encode()))

    service.faults = [breaks_after_the_first, breaks]
    assert [each.version for each in client.events("job-1")] == [1, 2, 3]
    assert len(service.requests) == 3


def test_a_stream_that_always_ends_early_is_given_up(service, client):
    service.faults = [lambda _: httpx.Response(200, content=b"") for _ in range(4)]
    with pytest.raises(RetryableError, match="ended before the job did"):
        client.wait("job-1")


def test_waiting_has_a_limit(service, client):
    service.history = [job("restoring", 2)]
    with pytest.raises(CapacityError, match=r"job-1 is restoring after 0\.05 s; wait longer"):
        client.wait("job-1", timeout_seconds=0.05)


def test_a_failed_job_raises_what_the_same_failure_is_here(service, client, tmp_path):
    error = {"kind": "damaged-media", "detail": "frame 7 is missing", "remedy": "Try again with salvage."}
    service.history = [job("failed", 3, error=error)]
    with pytest.raises(MediaError, match=r"clip\.mp4: frame 7 is missing\. Try again with salvage\."):
        client.download("job-1", tmp_path / "out.mp4")
    service.history = [job("cancelled", 3)]
    with pytest.raises(InputError, match="is cancelled and has no result"):
        client.download("job-1", tmp_path / "out.mp4")


def test_a_download_goes_on_where_it_broke_and_is_verified(service, client, tmp_path):
    service.faults = [passes, lambda _: httpx.Response(206, stream=Torn(RESULT[:1000]))]
    seen = []
    client.download("job-1", tmp_path / "out.mp4", on_progress=lambda done, _: seen.append(done))
    assert (tmp_path / "out.mp4").read_bytes() == RESULT
    assert [request.headers.get("range") for request in service.requests] == [None, "bytes=0-", "bytes=1000-"]
    assert seen[-1] == len(RESULT)


def test_a_result_that_is_not_what_was_announced_never_takes_the_targets_name(service, client, tmp_path):
    service.faults = [passes, lambda _: httpx.Response(200, content=b"x" * len(RESULT))]
    with pytest.raises(RetryableError, match="SHA-256"):
        client.download("job-1", tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_exists_is_refused_before_anything_is_sent(service, client, clip, tmp_path):
    with pytest.raises(TargetError, match="exists"):
        client.restore(clip, clip)
    assert service.requests == []


def test_only_settings_that_differ_from_the_defaults_are_sent(service, client):
    client.submit("https://example.com/a.mp4", RestoreSettings(seed=7, model="nano"))
    assert json.loads(service.requests[-1].content)["settings"] == {"model": "nano", "seed": 7}


def test_deleting_again_after_a_lost_answer_is_done(service, client):
    service.faults = [refuses(503, "unavailable"), refuses(410, "gone")]
    client.delete("job-1")
    service.faults = [refuses(410, "gone")]
    with pytest.raises(ServiceRefusal):
        client.delete("job-1")


def test_all_pages_of_jobs_are_one_iterator(service, client):
    pages = {"": ([job(version=1)], "x"), "x": ([job(version=2)], None)}

    def page(request):
        jobs, cursor = pages[request.url.params.get("cursor", "")]
        return httpx.Response(200, json={"jobs": jobs, "next_cursor": cursor})

    service.faults = [page, page]
    assert [each.version for each in client.jobs("queued")] == [1, 2]
    assert service.requests[0].url.params["state"] == "queued"


@pytest.mark.parametrize("text", ["", "a/b", "../jobs", "a?b"])
def test_what_is_no_id_never_becomes_an_address(service, client, text):
    with pytest.raises(InputError, match="is no id of a job"):
        client.job(text)
    assert service.requests == []


def test_an_address_that_is_none_is_refused():
    with pytest.raises(SettingsError, match=r"looks like http://127\.0\.0\.1:8000"):
        Client("localhost:8000")


def test_the_key_of_the_environment_is_sent_unless_another_is_named(monkeypatch):
    monkeypatch.setenv("SEEDVR2_API_KEY", "from-the-environment")
    for key, expected in [(None, "Bearer from-the-environment"), ("mine", "Bearer mine")]:
        with Client(URL, key) as client:
            assert client._http.headers["authorization"] == expected


def test_a_job_shows_itself_escaped(service, client):
    service.history = [job("restoring", 2, name="<b>clip</b>.mp4")]
    text = client.job("job-1")._repr_html_()
    assert "&lt;b&gt;clip&lt;/b&gt;.mp4" in text and "<b>clip" not in text
    assert "24 of 48 frames" in text


def test_a_refusal_survives_pickling():
    import pickle

    back = pickle.loads(pickle.dumps(ServiceRefusal("no", 404, "not-found")))
    assert (str(back), back.status, back.kind) == ("no", 404, "not-found")
    assert problem(404, "x").status_code == 404


@pytest.mark.slow
def test_the_client_loads_neither_torch_nor_ray_nor_av():
    code = (
        "import sys, seedvr2_ray as sv; sv.Client; sv.AsyncClient;"
        "print([name for name in ('torch', 'ray', 'av', 'numpy', 'fastapi') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("detail", "message"),
    [("it is so.", "it is so. Do."), ("it is so", "it is so. Do."), ("did you mean x?", "did you mean x? Do.")],
)
def test_a_message_is_two_sentences(detail, message):
    assert in_sentences(detail, "Do.") == message
