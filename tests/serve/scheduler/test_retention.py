"""What is deleted when, with real files and a real database and a clock of one's own."""

from datetime import timedelta
from pathlib import Path

import pytest

from seedvr2_ray.errors import TargetError
from seedvr2_ray.serve.config import Retention
from seedvr2_ray.serve.db.artifact_store import ArtifactStore
from seedvr2_ray.serve.db.job_store import JobStore, NewJob
from seedvr2_ray.serve.db.upload_store import UploadStore
from seedvr2_ray.serve.db.webhook_store import WebhookStore
from seedvr2_ray.serve.jobs import JobState, ResultInfo, Source
from seedvr2_ray.serve.problems import GoneRefusal
from seedvr2_ray.serve.scheduler import retention
from seedvr2_ray.serve.scheduler.retention import Sweeper
from seedvr2_ray.serve.workers.storage_layout import StorageLayout

RULES = Retention(uploads_hours=24, intermediates_hours=48, results_hours=72)
CONTENT = "sha256-" + "ab" * 32
ADDRESS = "cd" * 32


class House:
    """A deployment with jobs that somebody else has finished."""

    def __init__(self, database, clock, folder):
        self.layout = StorageLayout(data=str(folder / "data"), scratch=str(folder / "scratch"))
        self.clock = clock
        self.jobs = JobStore(database)
        self.uploads = UploadStore(database)
        self.artifacts = ArtifactStore(database)
        self.sweeper = Sweeper(self.layout, RULES, self.artifacts, self.uploads, WebhookStore(database), clock=clock)

    def upload(self):
        upload = self.uploads.create(owner="anna", name="film.mp4")
        folder = Path(self.layout.upload_folder(upload.id))
        folder.mkdir(parents=True)
        (folder / "film.mp4").write_bytes(b"film")
        return self.uploads.complete(upload.id, num_bytes=4)

    def job(self, upload, *, owner="anna"):
        source = Source(kind="upload", location=upload.id, name="film.mp4")
        return self.jobs.create(NewJob(owner=owner, source=source, settings={"model": "lanczos"}))[0]

    def finish(self, job):
        """Complete every waiting job, this one too."""
        for held in self.jobs.claim("runner", lease_seconds=60, limit=10):
            self.layout.store_of(CONTENT).commit("parts", "part", {"frames": 1})
            self._publish(ADDRESS)
            self.jobs.note(held.id, held.fence, content=CONTENT, result_address=ADDRESS)
            self.jobs.advance(held.id, held.fence, JobState.COMPLETED, result=_info(ADDRESS))
        return self.jobs.get(job.id)

    def _publish(self, address):
        path = Path(self.layout.data) / "made.mp4"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"master")
        self.layout.results.add("after", address, path)
        self.layout.results.publish(_info(address), path)

    @property
    def left(self):
        """What is still there: of the uploads, the intermediates, the results."""
        return {
            "uploads": any(Path(self.layout.data, "uploads").glob("*/*")),
            "work": any(Path(self.layout.data, "work").rglob("*.json")),
            "results": self.layout.results.has("master", ADDRESS) or self.layout.results.has("after", ADDRESS),
        }


def _info(address):
    return ResultInfo(
        address=address,
        name="restored.mp4",
        media_type="video/mp4",
        num_bytes=6,
        sha256="0" * 64,
        width=2,
        height=2,
        num_frames=1,
    )


@pytest.fixture
def house(database, clock, tmp_path):
    return House(database, clock, tmp_path)


def test_inputs_intermediates_and_results_go_after_their_times(house):
    house.finish(house.job(house.upload()))
    seen = []
    for _ in range(4):
        house.sweeper.sweep()
        seen.append(house.left)
        house.clock.pass_by(24 * 3600 + 1)
    assert [tuple(left.values()) for left in seen] == [
        (True, True, True),
        (False, True, True),
        (False, False, True),
        (False, False, False),
    ]


def test_a_deleted_job_loses_everything_at_the_next_sweep_and_is_gone_for_callers(house):
    job = house.finish(house.job(house.upload()))
    house.jobs.request_delete(job.id, owner="anna")
    assert house.sweeper.sweep().num_deleted == 3
    assert not any(house.left.values())
    with pytest.raises(GoneRefusal):
        house.jobs.get(job.id)
    assert house.sweeper.sweep().num_deleted == 0


def test_what_jobs_share_stays_until_the_last_of_them_is_gone(house):
    upload = house.upload()
    first, second = house.job(upload), house.job(upload, owner="bert")
    house.finish(first)
    house.jobs.request_delete(first.id, owner="anna")
    house.sweeper.sweep()
    assert all(house.left.values())
    house.jobs.request_delete(second.id, owner="bert")
    house.sweeper.sweep()
    assert not any(house.left.values())


def test_a_job_that_is_at_work_keeps_what_it_needs_of_a_deleted_one(house):
    upload = house.upload()
    done = house.finish(house.job(upload))
    house.job(upload)
    (busy,) = house.jobs.claim("runner", lease_seconds=1e6, limit=1)
    house.jobs.note(busy.id, busy.fence, content=CONTENT, result_address=ADDRESS)
    house.jobs.request_delete(done.id, owner="anna")
    house.clock.pass_by(10 * 24 * 3600)
    house.sweeper.sweep()
    assert all(house.left.values())


def test_an_upload_that_is_made_a_job_of_while_others_are_deleted_stays(house, monkeypatch):
    uploads = [house.upload() for _ in range(2)]
    house.clock.pass_by(25 * 3600)
    remove, made = retention.remove_folder, []

    def remove_slowly(url):
        if not made:
            (other,) = (each for each in uploads if house.layout.upload_folder(each.id) != url)
            made.append(house.job(other))
        remove(url)

    monkeypatch.setattr(retention, "remove_folder", remove_slowly)
    assert house.sweeper.sweep().uploads == 1
    assert (Path(house.layout.upload_folder(made[0].source.location)) / "film.mp4").exists()


def test_an_upload_that_nobody_made_a_job_of_goes_when_it_has_been_idle_for_long(house):
    house.upload()
    house.sweeper.sweep()
    assert house.left["uploads"]
    house.clock.pass_by(timedelta(hours=25).total_seconds())
    assert house.sweeper.sweep().uploads == 1
    assert not house.left["uploads"]


def test_a_sweep_that_is_cut_off_goes_on_at_the_next(house, monkeypatch):
    job = house.finish(house.job(house.upload()))
    house.jobs.request_delete(job.id, owner="anna")
    monkeypatch.setattr(house.artifacts, "mark_deleted", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        house.sweeper.sweep()
    monkeypatch.undo()
    house.sweeper.sweep()
    assert not any(house.left.values())


@pytest.mark.slow
def test_what_cannot_be_deleted_now_stops_nothing_else_and_goes_later(house, monkeypatch):
    stuck, *others = [house.finish(house.job(house.upload())) for _ in range(3)]
    idle = house.upload()
    for job in (stuck, *others):
        house.jobs.request_delete(job.id, owner="anna")
    remove, broken = retention.remove_folder, house.layout.upload_folder(stuck.source.location)

    def remove_unless_broken(url):
        if url == broken:
            raise TargetError(f"{url} may not be deleted")
        remove(url)

    monkeypatch.setattr(retention, "remove_folder", remove_unless_broken)
    house.clock.pass_by(25 * 3600)
    house.sweeper.sweep()
    left = {path.parent.name for path in Path(house.layout.data, "uploads").glob("*/*")}
    assert left == {stuck.source.location}
    with pytest.raises(GoneRefusal):
        house.uploads.get(idle.id)
    assert not house.left["results"]
    monkeypatch.undo()
    house.sweeper.sweep()
    assert not any(house.left.values())


def test_what_was_fetched_for_a_job_goes_with_it(house):
    source = Source(kind="url", location="https://example.org/film.mp4", name="film.mp4")
    job, _ = house.jobs.create(NewJob(owner="anna", source=source, settings={"model": "lanczos"}))
    fetched = Path(house.layout.source_folder(job.id)) / "film.mp4"
    fetched.parent.mkdir(parents=True)
    fetched.write_bytes(b"film")
    house.finish(job)
    house.jobs.request_delete(job.id, owner="anna")
    house.sweeper.sweep()
    assert not fetched.parent.exists()
    assert house.jobs.get(job.id, even_deleted=True).source.location == ""
