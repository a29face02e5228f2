import json
import threading
import time
from contextlib import contextmanager

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from seedvr2_ray.serve.config import Limits
from seedvr2_ray.serve.db.job_store import NewJob
from seedvr2_ray.serve.jobs import JobState, Progress, Source
from tests.serve.http.v1.ingress import Ingress, serving
from tests.waiting import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def ingress(tmp_path):
    with serving(tmp_path, limits=Limits(max_parallel_streams=3)) as running:
        yield running


class Driver:
    """A job that a test moves along as a runner would."""

    def __init__(self, ingress: Ingress) -> None:
        self.jobs = ingress.service.jobs
        source = Source(kind="upload", location="upload_x", name="film.mp4")
        self.id = self.jobs.create(NewJob(owner="local", source=source, settings={"model": "nano"}))[0].id
        self.path = f"/v1/jobs/{self.id}"
        self.fence = 0

    def begin(self) -> None:
        (job,) = self.jobs.claim("me", lease_seconds=60, limit=1)
        assert job.id == self.id
        self.fence = job.fence
        self.jobs.advance(self.id, self.fence, JobState.RESTORING)

    def note(self, segments_done: int) -> None:
        self.jobs.note(self.id, self.fence, progress=Progress(segments_done=segments_done, segments_total=9))

    def end(self) -> None:
        self.jobs.advance(self.id, self.fence, JobState.FAILED)


@pytest.fixture
def driver(ingress):
    return Driver(ingress)


def events(lines):
    """Parse a stream of server-sent events, comments left out."""
    fields: dict[str, str] = {}
    for line in lines:
        if line == "" and fields:
            yield fields
            fields = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value


def jobs_in(stream):
    for event in events(stream.iter_lines()):
        assert event["event"] == "job"
        job = json.loads(event["data"])
        assert event["id"] == str(job["version"])
        yield job


@contextmanager
def socket_to(ingress, path):
    with connect(ingress.url.replace("http", "ws") + path, open_timeout=60) as socket:
        yield (json.loads(text) for text in socket)


def test_events_and_socket_tell_the_same_story_to_its_end(ingress, driver):
    told: dict[str, list] = {"events": [], "socket": []}

    def listen_to_events():
        with ingress.client().stream("GET", f"{driver.path}/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            for job in jobs_in(stream):
                told["events"].append(job)  # At once: the test waits for it.

    def listen_to_socket():
        with socket_to(ingress, f"{driver.path}/socket") as received:
            for job in received:
                told["socket"].append(job)

    def has_told(num_done):
        return all(story and story[-1]["progress"]["segments_done"] == num_done for story in told.values())

    listeners = [threading.Thread(target=listen) for listen in (listen_to_events, listen_to_socket)]
    for listener in listeners:
        listener.start()
    wait_for(lambda: ingress.service.watch.num_watchers == 2, "2 watchers")
    driver.begin()
    for done in range(1, 4):
        driver.note(done)
        wait_for(lambda done=done: has_told(done), f"{done} segments to be told of")
    driver.end()
    for listener in listeners:
        listener.join(120)
    assert told["events"][-1] == told["socket"][-1]
    for story in told.values():
        assert (story[0]["state"], story[0]["progress"]["queue_position"]) == ("queued", 1)
        assert story[-1]["state"] == "failed"
        versions = [job["version"] for job in story]
        assert versions == sorted(set(versions))
        assert {1, 2, 3} <= {job["progress"]["segments_done"] for job in story}
    assert told["events"][-1] == ingress.client().get(driver.path).json()
    wait_for(lambda: ingress.service.watch.num_watchers == 0, "0 watchers")


def test_whoever_comes_back_has_lost_nothing(ingress, driver):
    client = ingress.client()
    with client.stream("GET", f"{driver.path}/events") as stream:
        assert next(jobs_in(stream))["state"] == "queued"
    driver.begin()
    driver.note(5)
    with client.stream("GET", f"{driver.path}/events", headers={"Last-Event-ID": "1"}) as stream:
        assert next(jobs_in(stream))["progress"]["segments_done"] == 5
    driver.end()
    with client.stream("GET", f"{driver.path}/events") as stream:
        assert [job["state"] for job in jobs_in(stream)] == ["failed"]
    with socket_to(ingress, f"{driver.path}/socket") as received:
        assert [job["state"] for job in received] == ["failed"]


def test_the_place_in_the_queue_is_told_though_the_job_itself_has_not_changed(ingress, driver):
    later = Driver(ingress)
    with ingress.client().stream("GET", f"{later.path}/events") as stream:
        told = jobs_in(stream)
        assert next(told)["progress"]["queue_position"] == 2
        driver.begin()
        moved = next(told)
        assert (moved["state"], moved["progress"]["queue_position"]) == ("queued", 1)


def test_streams_that_are_left_are_freed_and_no_more_than_allowed_are_open(ingress, driver):
    client = ingress.client()
    with client.stream("GET", f"{driver.path}/events") as first, client.stream("GET", f"{driver.path}/events"):
        told = jobs_in(first)  # Kept: httpx closes what nobody goes on reading.
        next(told)
        with socket_to(ingress, f"{driver.path}/socket") as received:
            next(received)
            wait_for(lambda: ingress.service.watch.num_watchers == 3, "3 watchers")
            refused = client.get(f"{driver.path}/events")
            assert refused.status_code == 429
            assert "3 event streams" in refused.json()["detail"]
            assert int(refused.headers["retry-after"]) > 0
            with connect(ingress.url.replace("http", "ws") + f"{driver.path}/socket", open_timeout=60) as socket:
                with pytest.raises(ConnectionClosed) as closed:
                    socket.recv(timeout=60)
            assert closed.value.rcvd.code == 4429
            assert "poll the job" in closed.value.rcvd.reason
    wait_for(lambda: ingress.service.watch.num_watchers == 0, "0 watchers")
    with client.stream("GET", f"{driver.path}/events") as stream:
        assert next(jobs_in(stream))["state"] == "queued"


def test_a_stream_ends_when_its_job_is_deleted(ingress, driver):
    with ingress.client().stream("GET", f"{driver.path}/events") as stream:
        told = jobs_in(stream)
        next(told)
        assert ingress.client().delete(driver.path).status_code == 204
        assert [job["state"] for job in told] in ([], ["cancelled"])


def test_a_receiver_that_hangs_up_on_a_silent_job_is_noticed(ingress, driver):
    """Nothing is being sent, so only listening tells."""
    wait_for(lambda: ingress.service.watch.num_watchers == 0, "0 watchers")
    stream = ingress.client()
    with stream.stream("GET", f"{driver.path}/events") as opened:
        told = jobs_in(opened)  # Kept: httpx closes what nobody goes on reading.
        next(told)
        wait_for(lambda: ingress.service.watch.num_watchers == 1, "1 watchers")
    stream.close()
    wait_for(lambda: ingress.service.watch.num_watchers == 0, "0 watchers")


@pytest.mark.parametrize("path", ["/v1/jobs/job_nothing/socket", "/v1/jobs/a%00b/socket"])
def test_a_socket_that_is_refused_says_why(ingress, path):
    with connect(ingress.url.replace("http", "ws") + path, open_timeout=60) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=60)
    assert closed.value.rcvd.code == 4404


def test_signed_links_open_streams_for_pages_that_cannot_send_keys(idle):
    jobs = idle.service.jobs
    source = Source(kind="upload", location="upload_x", name="film.mp4")
    job, _ = jobs.create(NewJob(owner="streams", source=source, settings={}))
    links = idle.client("streams").get(f"/v1/jobs/{job.id}").json()["links"]
    assert idle.client().get(f"/v1/jobs/{job.id}/events").status_code == 401
    with idle.client().stream("GET", links["events"]) as stream:
        assert next(jobs_in(stream))["id"] == job.id
    with socket_to(idle, links["socket"]) as received:
        assert next(received)["id"] == job.id
    with connect(idle.url.replace("http", "ws") + f"/v1/jobs/{job.id}/socket", open_timeout=60) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=60)
    assert closed.value.rcvd.code == 4401


def test_many_listeners_cost_one_query_per_look(ingress, driver, monkeypatch):
    ingress.service.replace_limits(Limits(max_parallel_streams=40))
    asked = []
    versions = ingress.service.jobs.versions
    monkeypatch.setattr(ingress.service.jobs, "versions", lambda ids: asked.append(time.monotonic()) or versions(ids))
    clients = [ingress.client() for _ in range(20)]
    opened = [client.stream("GET", f"{driver.path}/events") for client in clients]
    told = [jobs_in(stream.__enter__()) for stream in opened]
    for each in told:
        next(each)
    asked.clear()
    began = time.monotonic()
    wait_for(lambda: len(asked) >= 3, "three looks")
    assert len(asked) <= (time.monotonic() - began) / 0.25 + 2
    for stream in opened:
        stream.__exit__(None, None, None)
