"""Laws of what killed runs leave behind, and of folders that not every machine sees. No Ray."""

import threading
from pathlib import Path

import pytest

from seedvr2_ray.batch import leftovers
from seedvr2_ray.batch.execution.videos import VideoOutcome
from seedvr2_ray.batch.job import Job
from seedvr2_ray.batch.leftovers import (
    kept_alive,
    remove_dead_runs,
    remove_leftovers,
    remove_run,
    require_shared_folder,
    say_alive,
)
from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.restoration.work.failures import Failure
from tests.waiting import wait_for


def job_in(folder: Path, run: str) -> Job:
    return Job(folder=str(folder / "job"), run=run, is_shared_checked=True)


def begin(folder: Path, run: str) -> Job:
    job = job_in(folder, run)
    say_alive(job)
    (Path(job.manifest_folder) / "rows.parquet").write_bytes(b"rows")
    job.log.record_attempt(f"planning/{run}/ab", "abcd")
    return job


def test_what_a_killed_run_left_goes_with_a_later_one_and_a_run_that_goes_on_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"silent": 1000.0, "living": 1500.0, "mine": 2000.0, "speechless": None}
    jobs = [begin(tmp_path, run) for run in said]
    monkeypatch.setattr(leftovers, "_last_alive", lambda job, run: said[run])
    assert sorted(remove_dead_runs(jobs[2])) == ["silent", "speechless"]
    assert sorted(path.name for path in (tmp_path / "job/manifests").iterdir()) == ["living", "mine"]
    assert sorted(path.name for path in (tmp_path / "job/log/planning").iterdir()) == ["living", "mine"]
    for job in jobs:
        remove_run(job, job.run)
    assert not list((tmp_path / "job/log/planning").iterdir())


def test_a_run_says_that_it_goes_on_whatever_its_driver_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "ALIVE_SECONDS", 0.01)
    job = job_in(tmp_path, "run")
    note = Path(job.manifest_folder) / "alive"
    with kept_alive(job):
        first = note.stat().st_ino
        wait_for(lambda: note.stat().st_ino != first, "another sign of life")


def test_a_run_goes_on_saying_that_it_goes_on_whatever_its_store_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "ALIVE_SECONDS", 0.01)
    said = threading.Semaphore(0)

    def say(job: Job) -> None:
        said.release()
        raise RuntimeError("Session is closed")  # As clients of stores say it, and no error of ours.

    with kept_alive(job_in(tmp_path, "run")):
        monkeypatch.setattr(leftovers, "say_alive", say)
        assert all(said.acquire(timeout=240) for _ in range(3))


def test_work_that_a_killed_run_could_not_remove_goes_at_the_end_of_the_next_unless_it_is_wanted(
    tmp_path: Path,
) -> None:
    job = job_in(tmp_path, "run")
    for content in ("done", "set-aside", "of-another-job"):
        job.store_of(content).commit("parts", "p", {})

    def ended(content: str, failure: Failure | None) -> VideoOutcome:
        state = "skipped" if failure is None else "quarantined"
        return VideoOutcome(
            number=0,
            where="",
            source="",
            target="",
            state=state,
            content=content,
            failure=failure,  # type: ignore[arg-type]
        )

    broken = Failure(stage="restore", error="broken", remedy="replace it")
    outcomes = [ended("done", None), ended("set-aside", None), ended("set-aside", broken)]
    remove_leftovers(job, outcomes)
    assert job.store_of("done").find("parts", "p") is None
    assert job.store_of("set-aside").find("parts", "p") is not None
    assert job.store_of("of-another-job").find("parts", "p") is not None


def test_a_machine_that_does_not_see_the_drivers_folder_says_so_in_one_sentence(tmp_path: Path) -> None:
    job = begin(tmp_path, "run")
    require_shared_folder(job)
    elsewhere = job_in(tmp_path / "elsewhere", "run")
    with pytest.raises(DeploymentError, match="does not see the job's folder .* with --job-folder"):
        require_shared_folder(elsewhere)
