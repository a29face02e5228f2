"""What the version before left behind opens: its work folders and its databases, as its own code wrote them.

``tests/data/before_rooms`` was written by commit 34420da; nothing of it is ever to be made anew.
"""

import shutil
import sqlite3
from pathlib import Path

import pytest

from seedvr2_ray.restoration.work.first_pass import SHOTS
from seedvr2_ray.restoration.work.remaining import PARTS, RESTORED
from seedvr2_ray.serve.db.database import open_database
from seedvr2_ray.serve.db.job_store import JobStore
from seedvr2_ray.serve.jobs import JobState
from seedvr2_ray.storage.commits import CommitStore

BEFORE = Path(__file__).parent / "data" / "before_rooms"
JOB = "job_a1289a1a7c9ca801dafac5be"


@pytest.fixture
def store(tmp_path: Path) -> CommitStore:
    shutil.copytree(BEFORE / "work_folder", tmp_path / "work")
    return CommitStore(str(tmp_path / "work"))


def test_every_commit_of_an_old_work_folder_is_found_with_its_payload(store: CommitStore, tmp_path: Path) -> None:
    assert store.find(SHOTS, "c" * 64) == {"starts": [0, 5]}
    restored = store.find(RESTORED, "a" * 64)
    assert restored == {"segment": 0, "frames": [0, 12], "missing_frames": [], "seconds": 1.5}
    intermediate = store.fetch_payload(RESTORED, "a" * 64, tmp_path)
    assert Path(intermediate).read_bytes() == b"an intermediate, lossless\n" * 3
    assert set(store.addresses(PARTS)) == {"b" * 64}
    encoded = store.fetch_payload(PARTS, "b" * 64, tmp_path)
    assert Path(encoded).read_bytes() == b"a part of the master\n" * 2


def test_what_died_in_an_old_work_folder_still_counts(store: CommitStore) -> None:
    assert store.record_attempt("deaths/restore", "a" * 64) == 2


def test_an_old_database_is_brought_up_to_date_and_its_jobs_go_on(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "old.db")
    connection.executescript((BEFORE / "database.sql").read_text())
    connection.close()
    database = open_database(f"sqlite:///{tmp_path}/old.db")
    jobs = JobStore(database)
    job = jobs.get(JOB)
    assert (job.state, job.owner, job.progress.segments_done) == (JobState.RESTORING, "anna", 2)
    # Its lease ended with the process that held it.
    (claimed,) = jobs.claim("another", lease_seconds=60, limit=1)
    assert claimed.id == JOB
    assert claimed.fence > job.fence
    database.close()
