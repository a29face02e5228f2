"""A job's life in a really running service, from upload to download, alone and among many; over both databases."""

import base64
import hashlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise

import httpx
import pytest
from websockets.sync.client import connect

from seedvr2_ray.serve.db.database import utc_now
from seedvr2_ray.serve.db.job_store import JobStore
from seedvr2_ray.serve.db.usage_store import UsageStore
from tests.media import clips
from tests.serve.braked import HELD
from tests.serve.http_jobs import (
    FINAL,
    PATIENCE_SECONDS,
    SETTINGS,
    completed,
    download,
    events,
    look,
    send,
    submit,
    until,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]
OVER_BOTH = pytest.mark.parametrize("service", ["sqlite", "postgresql"], indirect=True)
"""For what the database decides; what replicas and streams do is the same over either."""

NUM_JOBS = 50
STOP_SECONDS = 120
"""A cancellation takes effect in two or three; the rest is for a busy machine. Held segments last for ever."""


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "Ferien am Meer.mp4"
    clips.make_clip(path, num_frames=60, size=(64, 48), cuts=(20,), audio_tracks=1)
    return path


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "short.mp4"
    clips.make_clip(path, num_frames=6, size=(64, 48))
    return path


def upload_in_pieces(client, path):
    """Upload as tus clients do; return the upload's id."""
    content, tus = path.read_bytes(), {"Tus-Resumable": "1.0.0"}
    name = base64.b64encode(path.name.encode()).decode()
    announced = {"Upload-Length": str(len(content)), "Upload-Metadata": f"filename {name}"}
    location = client.post("/v1/uploads", headers={**tus, **announced}).headers["location"]
    size = len(content) // 3 + 1
    for start in range(0, len(content), size):
        offset = client.head(location, headers=tus).headers["upload-offset"]
        assert int(offset) == start
        headers = {**tus, "Upload-Offset": offset, "Content-Type": "application/offset+octet-stream"}
        assert client.patch(location, content=content[start : start + size], headers=headers).status_code == 204
    return location.rpartition("/")[2]


def listen_to_events(service, job_id):
    with service.client(timeout=PATIENCE_SECONDS) as client:
        return list(events(client, job_id))


def listen_to_socket(service, job_id):
    url = f"{service.base_url.replace('http', 'ws')}/v1/jobs/{job_id}/socket"
    with connect(url, additional_headers=service.headers("anna"), open_timeout=60) as socket:
        return [json.loads(text) for text in socket]


@OVER_BOTH
def test_a_video_is_uploaded_watched_and_downloaded(service, brake, seeds, video):
    seed = next(seeds)
    brake.set(0.01, seed=seed)
    with service.client() as client, ThreadPoolExecutor(2) as listeners:
        source = {"upload": upload_in_pieces(client, video)}
        answer = client.post("/v1/jobs", json={"source": source, "settings": {**SETTINGS, "seed": seed}})
        assert answer.status_code == 201, answer.text
        job_id = answer.json()["id"]
        told = [listeners.submit(listen, service, job_id) for listen in (listen_to_events, listen_to_socket)]
        job = completed(client, job_id)
        result = f"/v1/jobs/{job_id}/result"
        whole = download(client, job_id)
        size = len(whole) // 4 + 1
        ranges = [
            client.get(result, headers={"Range": f"bytes={start}-{start + size - 1}"})
            for start in range(0, len(whole), size)
        ]
        stills = [client.get(f"/v1/jobs/{job_id}/preview/{which}") for which in ("before", "after")]
    for listener in told:
        jobs = listener.result(timeout=60)
        assert jobs[-1]["state"] == "completed"
        assert jobs[-1]["result"] == job["result"]
        assert "restoring" in {each["state"] for each in jobs}
        assert all(before["version"] < after["version"] for before, after in pairwise(jobs))
        done = [each["progress"]["segments_done"] for each in jobs]
        assert done == sorted(done)
        assert done[-1] == jobs[-1]["progress"]["segments_total"] > 3
    assert [each.status_code for each in ranges] == [206] * 4
    assert b"".join(each.content for each in ranges) == whole
    assert hashlib.sha256(whole).hexdigest() == job["result"]["sha256"]
    assert (job["result"]["width"], job["result"]["num_frames"]) == (128, 60)
    assert [still.headers["content-type"] for still in stills] == ["image/jpeg"] * 2


@OVER_BOTH
def test_many_jobs_of_several_owners_are_each_done_once_and_short_ones_overtake_a_video(
    service, brake, seeds, video, short
):
    owners, began = ("bert", "carl", "dora", "emil"), utc_now()
    own_seeds = list(islice(seeds, NUM_JOBS))
    brake.set(HELD, seed=own_seeds[0])
    with service.client("film") as video_client:
        video_id = submit(video_client, video, own_seeds[0])
        until(video_client, video_id, lambda job: brake.begun(own_seeds[0]))
        clients = [service.client(owner) for owner in owners]
        with ThreadPoolExecutor(8) as senders:
            shorts = list(
                senders.map(
                    lambda number: (number % 4, submit(clients[number % 4], short, own_seeds[number])),
                    range(1, NUM_JOBS),
                )
            )
        # From here on both the video and a short have segments to restore, and who is first is the dispatch's choice.
        until(clients[shorts[0][0]], shorts[0][1], lambda job: job["state"] not in ("queued", "planning"))
        brake.release()
        ended = [completed(clients[owner], job_id) for owner, job_id in shorts]
        ended.append(completed(video_client, video_id))
        for client in clients:
            client.close()
    beginnings = brake.beginnings()
    last_of_video = len(beginnings) - 1 - beginnings[::-1].index(own_seeds[0])
    assert own_seeds[1] in beginnings[:last_of_video]
    store, usage = JobStore(service.database), UsageStore(service.database)
    rows = [store.get(job["id"]) for job in ended]
    assert {(row.num_tries, row.fence) for row in rows} == {(1, 1)}
    assert not any(job["result"]["was_cached"] for job in ended)
    # A segment is taken back when somebody else's turn comes first, and a replica may just have taken it up.
    begun_again = sum(times - 1 for seed in own_seeds for times in brake.begun(seed).values())
    assert begun_again <= NUM_JOBS // 10
    for owner in owners:
        days = usage.by_day(owner=owner, since=began)  # Two, when it was midnight meanwhile.
        assert sum(day.num_records for day in days) == sum(row.owner == owner for row in rows)


@OVER_BOTH
def test_owners_neither_see_nor_end_one_anothers_jobs(service, brake, seeds, video):
    seed = next(seeds)
    brake.set(HELD, seed=seed)
    with service.client("anna") as anna, service.client("bert") as bert:
        job_id = submit(anna, video, seed)
        until(anna, job_id, lambda job: brake.begun(seed))
        path = f"/v1/jobs/{job_id}"
        answers = [
            *(bert.get(f"{path}{rest}") for rest in ("", "/events", "/result", "/preview/before")),
            bert.post(f"{path}/cancel"),
            bert.delete(path),
        ]
        assert {answer.status_code for answer in answers} == {404}
        assert job_id not in bert.get("/v1/jobs").text
        assert job_id in anna.get("/v1/jobs").text
        assert httpx.get(f"{service.base_url}{path}", timeout=240).status_code == 401
        brake.release()
        job = completed(anna, job_id)
        assert not job["cancel_requested"]
        assert bert.get(f"{path}/result").status_code == 404


@OVER_BOTH
def test_a_job_that_is_cancelled_in_mid_segment_stops_though_its_frame_would_last_for_ever(
    service, brake, seeds, video
):
    seed = next(seeds)
    brake.set(HELD, seed=seed, from_frame=10)
    with service.client() as client:
        job_id = submit(client, video, seed)
        until(client, job_id, lambda job: any(frame >= 10 for frame in brake.begun(seed)))
        assert client.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
        job = until(client, job_id, seconds=STOP_SECONDS)
        service.wait_for(lambda: brake.left(seed) == brake.begun(seed), STOP_SECONDS, "the restorer does not stop")
        assert job["state"] == "cancelled"
        assert client.get(f"/v1/jobs/{job_id}/result").status_code == 409
        # Its replica is free again, and a deleted job is gone.
        again = submit(client, video, next(seeds))
        assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
        assert client.get(f"/v1/jobs/{job_id}").status_code == 410
        completed(client, again)


def test_a_watcher_who_leaves_frees_the_stream_and_stops_nothing(service, brake, seeds, video):
    def num_streams():
        lines = client.get("/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("seedvr2_event_streams "))

    seed = next(seeds)
    brake.set(HELD, seed=seed)
    with service.client() as client:
        job_id = submit(client, video, seed)
        with client.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
            lines = stream.iter_lines()
            next(lines)
            assert num_streams() == 1
        service.wait_for(lambda: num_streams() == 0, 60, "the stream is still open")
        assert look(client, job_id)["state"] not in FINAL
        brake.release()
        completed(client, job_id)


@OVER_BOTH
def test_limits_change_while_a_job_runs_and_a_full_queue_says_when_to_come_again(service, brake, seeds, video, short):
    seed = next(seeds)
    brake.set(HELD, seed=seed)
    deployments = ("api", "runner", "finisher", "restorer-lanczos")
    with service.client() as client, service.client("bert") as bert:
        video_id = submit(client, video, seed)
        until(client, video_id, lambda job: brake.begun(seed))
        before = [service.pids_of(name) for name in deployments]
        service.redeploy(
            {"name": "api", "user_config": {"limits": {"max_queued_jobs": 2}}},
            {"name": "runner", "user_config": {"limits": {"max_active_jobs": 1}}},
        )
        accepted, deadline = [], time.monotonic() + 120
        while (answer := send(bert, short, next(seeds))).status_code == 201 and time.monotonic() < deadline:
            accepted.append(answer.json()["id"])
        assert answer.status_code == 429, answer.text
        assert int(answer.headers["retry-after"]) > 0
        assert {"detail", "remedy"} <= answer.json().keys()
        assert [service.pids_of(name) for name in deployments] == before
        brake.release()
        completed(client, video_id)
        for job_id in accepted:
            completed(bert, job_id)
        assert brake.begun(seed).most_common(1)[0][1] == 1
        service.redeploy(
            {"name": "api", "user_config": {"limits": {"max_queued_jobs": 1000}}},
            {"name": "runner", "user_config": {"limits": {"max_active_jobs": 64}}},
        )
        service.wait_for(lambda: send(bert, short, next(seeds)).status_code == 201, 60, "the queue stays full")


def test_a_model_nobody_asks_for_has_no_replica_and_a_job_brings_several(service, brake, seeds, video):
    seed, seen = next(seeds), threading.Event()

    def has_several(_):
        if len(service.pids_of("restorer-nano")) == 2:
            seen.set()
        return seen.is_set()

    service.wait_for(lambda: not service.pids_of("restorer-nano"), 120, "replicas of nano stay")
    brake.set(HELD, seed=seed)
    with service.client() as client:
        job_id = submit(client, video, seed, model="nano", resolution="64x48")
        until(client, job_id, has_several)
        until(client, job_id, lambda job: len(brake.begun(seed)) == 2)
        brake.release()
        job = completed(client, job_id)
    assert job["model"] == "nano"
    assert set(brake.begun(seed).values()) == {1}
    service.wait_for(lambda: not service.pids_of("restorer-nano"), 120, "idle replicas of nano stay")
