import asyncio
import threading

import pytest

from seedvr2_ray.errors import InputError, MediaError
from seedvr2_ray.media.probe import probe
from seedvr2_ray.serve.config import Limits, ModelPool, ServiceConfig
from seedvr2_ray.serve.db.database import open_database
from seedvr2_ray.serve.db.job_store import Load
from seedvr2_ray.serve.db.usage_store import Use
from seedvr2_ray.serve.jobs import JobState
from seedvr2_ray.serve.problems import ConflictRefusal, MissingRefusal, PermissionRefusal, RateRefusal
from seedvr2_ray.serve.secrets import Secrets
from seedvr2_ray.serve.security.auth import Caller
from seedvr2_ray.serve.service.admission import queue_seconds, require_quota, require_room
from seedvr2_ray.serve.service.estimate import estimate_job
from seedvr2_ray.serve.service.submission import Submission
from seedvr2_ray.serve.service.verbs import Service
from seedvr2_ray.settings import RestoreSettings
from tests.media import clips

ANNA = Caller(owner="anna", scopes=frozenset({"jobs:read", "jobs:write"}))
BERT = Caller(owner="bert", scopes=frozenset({"jobs:read", "jobs:write"}))
ROOT = Caller(owner="root", scopes=frozenset({"admin"}))
URL = Submission(url="https://example.org/film.mp4")


class Inspected:
    """Says that every file is the same video."""

    def __init__(self, media):
        self.media = media

    def inspect(self, path, limits, *, salvage=False):
        if path.read_bytes() == b"broken":
            raise MediaError(f"{path.name} is no film")
        return self.media


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "film.mp4"
    clips.make_clip(path, num_frames=24, size=(64, 48))
    return probe(str(path))


@pytest.fixture
def service(tmp_path, media):
    config = ServiceConfig(
        data=str(tmp_path / "data"),
        scratch=str(tmp_path / "scratch"),
        models={"lanczos": ModelPool(max_replicas=2, megapixels_per_second=0.5, price_per_gpu_hour=7.2)},
        default_model="lanczos",
    )
    database = open_database(f"sqlite:///{tmp_path}/service.db")
    yield Service(config, Secrets(), database, inspector=Inspected(media))
    database.close()


async def _chunks(data):
    yield data


def _upload(service, caller, data=b"film"):
    return asyncio.run(service.uploads.receive(caller, "film.mp4", _chunks(data))).id


def _load(**numbers):
    usual = {"num_queued": 0, "queued_gpu_seconds": 0.0, "remaining_gpu_seconds": 0.0, "num_by_state": {}}
    return Load(**{**usual, "oldest_queued_at": None, "num_unfinished_of_owner": 0, **numbers})


def test_a_request_that_ends_just_after_its_job_was_made_does_not_take_the_job_its_file(service):
    upload = asyncio.run(service.uploads.receive(ANNA, "film.mp4", _chunks(b"film")))
    asyncio.run(service.submit(ANNA, Submission(upload_id=upload.id)))
    asyncio.run(service.uploads.discard(upload))
    with service.uploads.opened(upload) as path:
        assert path.read_bytes() == b"film"


def test_a_submission_becomes_a_queued_job_with_its_model_settled_and_its_time_estimated(service):
    job, is_new = asyncio.run(service.submit(ANNA, Submission(upload_id=_upload(service, ANNA))))
    assert is_new
    assert (job.owner, job.state, job.settings["model"]) == ("anna", JobState.QUEUED, "lanczos")
    pixels = 24 * 1440 * 1080 / 1e6
    assert job.estimated_gpu_seconds == pytest.approx(pixels / 0.5)


def test_a_size_of_gangs_is_kept_with_the_job_and_one_that_is_not_there_makes_none(service):
    upload = _upload(service, ANNA)
    job, _ = asyncio.run(service.submit(ANNA, Submission(upload_id=upload, gang_size=1)))
    assert asyncio.run(service.get(ANNA, job.id)).gang_size == 1
    with pytest.raises(InputError, match="lanczos is deployed here in gangs of 1, not of 2"):
        asyncio.run(service.submit(ANNA, Submission(upload_id=upload, gang_size=2)))


def test_a_runner_is_woken_by_a_new_job_only_and_may_fail_to_wake(service):
    woken = []

    async def wake():
        woken.append(1)
        raise ConnectionError("no runner")

    service._wake = wake
    again = Submission(url=URL.url, idempotency_key="k")
    first, _ = asyncio.run(service.submit(ANNA, again))
    second, is_new = asyncio.run(service.submit(ANNA, again))
    assert (first.id, is_new, woken) == (second.id, False, [1])


def test_a_repeated_request_finds_its_job_however_full_it_is_now(service):
    asked = Submission(url=URL.url, idempotency_key="k")
    first, _ = asyncio.run(service.submit(ANNA, asked))
    service.replace_limits(Limits(max_queued_jobs=0))
    assert asyncio.run(service.submit(ANNA, asked))[0].id == first.id
    with pytest.raises(RateRefusal):
        asyncio.run(service.submit(ANNA, URL))


@pytest.mark.slow
def test_a_crowd_is_let_in_up_to_the_limit_and_not_beyond(service):
    service.replace_limits(Limits(max_queued_jobs=5))
    outcomes = []

    def try_it():
        try:
            asyncio.run(service.submit(ANNA, URL))
            outcomes.append("in")
        except RateRefusal:
            outcomes.append("out")

    crowd = [threading.Thread(target=try_it) for _ in range(12)]
    for each in crowd:
        each.start()
    for each in crowd:
        each.join()
    assert sorted(outcomes) == ["in"] * 5 + ["out"] * 7


def test_a_quota_counts_what_was_used_in_the_last_day(service):
    service.replace_limits(Limits(gpu_seconds_per_day=100))
    numbers = {"megapixels": 1.0, "output_seconds": 1.0, "cost": 0.1}
    service.usage.record(Use(reference="a", owner="anna", job_id="j", model="nano", gpu_seconds=100.0, **numbers))
    with pytest.raises(RateRefusal, match="100 s are allowed"):
        asyncio.run(service.submit(ANNA, URL))
    asyncio.run(service.submit(BERT, URL))
    (day,) = asyncio.run(service.usage_by_day(ANNA, days=2))
    assert day.gpu_seconds == 100.0


def test_what_unfinished_jobs_will_take_counts_towards_the_quota(service):
    each = 24 * 1440 * 1080 / 1e6 / 0.5
    service.replace_limits(Limits(gpu_seconds_per_day=2.5 * each))
    film = Submission(upload_id=_upload(service, ANNA))
    accepted = [asyncio.run(service.submit(ANNA, film))[0] for _ in range(2)]
    with pytest.raises(RateRefusal, match="your unfinished jobs will take about 149 s and this one about 75 s"):
        asyncio.run(service.submit(ANNA, film))
    asyncio.run(service.cancel(ANNA, accepted[0].id))
    asyncio.run(service.submit(ANNA, film))


def test_a_job_beyond_the_whole_quota_is_refused_at_once(service):
    service.replace_limits(Limits(gpu_seconds_per_day=1))
    with pytest.raises(RateRefusal, match="1 s are allowed"):
        asyncio.run(service.submit(ANNA, Submission(upload_id=_upload(service, ANNA))))


def test_uploads_have_a_quota_in_bytes_and_in_number(service):
    service.replace_limits(
        Limits(max_stored_upload_bytes_per_owner=1000, max_uploads_per_owner=3, max_upload_bytes=600)
    )
    first = asyncio.run(service.uploads.begin(ANNA, "a.mp4", 600))
    with pytest.raises(RateRefusal, match="600 bytes here, this one may take 500 and 1000 are the most"):
        asyncio.run(service.uploads.begin(ANNA, "b.mp4", 500))
    with pytest.raises(RateRefusal, match="this one may take 600"):
        _upload(service, ANNA)
    asyncio.run(service.uploads.begin(BERT, "b.mp4", 500))
    asyncio.run(service.uploads.delete(ANNA, first.id))
    for _ in range(3):
        asyncio.run(service.uploads.begin(ANNA, "c.mp4", 1))
    with pytest.raises(RateRefusal, match="you keep 3 uploads here and 3 are the most"):
        asyncio.run(service.uploads.begin(ANNA, "d.mp4", 1))


def test_no_more_uploads_are_announced_than_allowed_however_many_come_at_once(service):
    service.replace_limits(Limits(max_stored_upload_bytes_per_owner=1000, max_upload_bytes=600))
    outcomes = []

    def announce():
        try:
            asyncio.run(service.uploads.begin(ANNA, "a.mp4", 300))
            outcomes.append("in")
        except RateRefusal:
            outcomes.append("out")

    crowd = [threading.Thread(target=announce) for _ in range(8)]
    for each in crowd:
        each.start()
    for each in crowd:
        each.join()
    assert sorted(outcomes) == ["in"] * 3 + ["out"] * 5


def test_what_belongs_to_others_does_not_exist(service):
    job, _ = asyncio.run(service.submit(ANNA, URL))
    mine = _upload(service, ANNA)
    for verb in (service.get, service.look, service.cancel, service.delete, service.outcomes.open_result):
        with pytest.raises(MissingRefusal):
            asyncio.run(verb(BERT, job.id))
    with pytest.raises(MissingRefusal):
        asyncio.run(service.submit(BERT, Submission(upload_id=mine)))
    assert asyncio.run(service.get(ROOT, job.id)) == job
    assert [each.job.id for each in asyncio.run(service.list(ROOT))[0]] == [job.id]
    assert asyncio.run(service.list(BERT))[0] == []


def test_scopes_are_asked_for_before_anything_else(service):
    reader = Caller(owner="anna", scopes=frozenset({"jobs:read"}))
    writer = Caller(owner="anna", scopes=frozenset({"jobs:write"}))
    for attempt in (service.submit(reader, URL), service.cancel(reader, "job_x"), service.delete(reader, "job_x")):
        with pytest.raises(PermissionRefusal):
            asyncio.run(attempt)
    for attempt in (service.get(writer, "job_x"), service.list(writer), service.estimate(writer, URL)):
        with pytest.raises(PermissionRefusal):
            asyncio.run(attempt)


def test_a_result_is_asked_for_too_early_or_in_vain(service):
    job, _ = asyncio.run(service.submit(ANNA, URL))
    with pytest.raises(ConflictRefusal, match="no result yet"):
        asyncio.run(service.outcomes.open_result(ANNA, job.id))
    with pytest.raises(MissingRefusal, match="no preview yet"):
        asyncio.run(service.outcomes.open_preview(ANNA, job.id, "after"))
    asyncio.run(service.cancel(ANNA, job.id))
    with pytest.raises(ConflictRefusal, match="was cancelled"):
        asyncio.run(service.outcomes.open_result(ANNA, job.id))


@pytest.mark.slow
def test_waiting_ends_with_the_job_or_with_the_time(service):
    job, _ = asyncio.run(service.submit(ANNA, URL))
    assert asyncio.run(service.wait(ANNA, job.id, 0.05)).state is JobState.QUEUED

    async def wait_and_cancel():
        waiting = asyncio.create_task(service.wait(ANNA, job.id, 30))
        await asyncio.sleep(0.05)
        await service.cancel(ANNA, job.id)
        return await waiting

    assert asyncio.run(wait_and_cancel()).state is JobState.CANCELLED


def test_an_estimate_tells_time_cost_and_every_refusal_and_queues_nothing(service):
    estimate = asyncio.run(service.estimate(ANNA, Submission(upload_id=_upload(service, ANNA))))
    assert estimate.gpu_seconds == pytest.approx(24 * 1440 * 1080 / 1e6 / 0.5)
    assert estimate.cost == pytest.approx(estimate.gpu_seconds * 7.2 / 3600)
    assert estimate.refusals == ()
    broken = asyncio.run(service.estimate(ANNA, Submission(upload_id=_upload(service, ANNA, b"broken"))))
    assert broken.refusals == ("film.mp4 is no film",)
    service.replace_limits(Limits(max_queued_jobs=0, max_pixels=1000))
    refused = asyncio.run(service.estimate(ANNA, Submission(upload_id=_upload(service, ANNA))))
    assert len(refused.refusals) == 2
    assert asyncio.run(service.list(ANNA))[0] == []


@pytest.mark.parametrize(
    ("load", "said"), [({"num_unfinished_of_owner": 3}, "you have 3"), ({"num_queued": 7}, "7 jobs")]
)
def test_a_refusal_says_how_much_there_is_what_the_limit_is_and_when_to_come_again(load, said):
    limits = Limits(max_unfinished_jobs_per_owner=3, max_queued_jobs=7)
    with pytest.raises(RateRefusal, match=said) as refused:
        require_room(_load(**load), limits, 1.0, queue_seconds=700.0)
    assert 5 <= refused.value.retry_after_seconds <= 3600


def test_a_job_larger_than_the_queue_is_taken_when_nothing_waits():
    limits = Limits(max_queued_gpu_seconds=10.0)
    require_room(_load(), limits, 1000.0, queue_seconds=0.0)
    require_room(_load(num_queued=1, queued_gpu_seconds=5.0), limits, 5.0, queue_seconds=0.0)
    with pytest.raises(RateRefusal):
        require_room(_load(num_queued=1, queued_gpu_seconds=5.0), limits, 5.1, queue_seconds=0.0)


def test_no_quota_means_no_limit_and_replicas_share_the_queue():
    require_quota(_load(used_gpu_seconds_of_owner=1e9), Limits(), 1e9)
    config = ServiceConfig(models={"a": ModelPool(max_replicas=3), "b": ModelPool(max_replicas=1)}, default_model="a")
    assert queue_seconds(_load(remaining_gpu_seconds=80.0), config) == 20.0


def test_more_replicas_shorten_a_job_and_not_its_bill(media):
    settings = RestoreSettings(model="lanczos", resolution="x2", segment_seconds=0.5)
    one, four = (
        estimate_job(media, settings, ModelPool(max_replicas=n, price_per_gpu_hour=1), name="a.mp4", max_pixels=10**7)
        for n in (1, 4)
    )
    assert one.segments > 1
    assert four.seconds == pytest.approx(one.seconds / min(4, one.segments))
    assert (four.gpu_seconds, four.cost) == (one.gpu_seconds, one.cost)


@pytest.mark.slow
def test_an_estimate_says_how_many_gpus_work_together_and_refuses_what_they_cannot_hold(media):
    settings = RestoreSettings(model="seedvr2-3b", resolution="x2")
    silent, small, large = (
        estimate_job(
            media,
            settings,
            ModelPool(num_gpus=1, gang_size=2, gpu_memory_bytes=memory_bytes),
            name="a.mp4",
            max_pixels=10**7,
        )
        for memory_bytes in (0, 4 * 2**30, 80 * 2**30)
    )
    assert (silent.gang_size, silent.bytes_per_gpu, silent.refusals) == (2, None, ())
    assert 6 * 2**30 < large.bytes_per_gpu < 80 * 2**30
    assert large.refusals == ()
    (reason,) = small.refusals
    assert "GiB can be used" in reason
    assert small.bytes_per_gpu is None


def test_a_file_that_cannot_be_used_makes_no_job(service):
    with pytest.raises(MediaError, match="no film"):
        asyncio.run(service.submit(ANNA, Submission(upload_id=_upload(service, ANNA, b"broken"))))
    with pytest.raises(InputError, match="exactly one"):
        asyncio.run(service.submit(ANNA, Submission()))
    assert asyncio.run(service.list(ANNA))[0] == []
