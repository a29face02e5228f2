"""Jobs for the tests of the service's stores."""

from typing import Any

from seedvr2_ray.serve.db.job_store import JobStore, NewJob
from seedvr2_ray.serve.jobs import Job, JobState, ResultInfo, Source

MASTER = ResultInfo(
    address="sha256-result",
    name="film-restored.mp4",
    media_type="video/mp4",
    num_bytes=1234,
    sha256="ab" * 32,
    width=1920,
    height=1080,
    num_frames=240,
)

WAYS: dict[JobState, tuple[JobState, ...]] = {
    JobState.PLANNING: (),
    JobState.RESTORING: (JobState.RESTORING,),
    JobState.ASSEMBLING: (JobState.RESTORING, JobState.ASSEMBLING),
    JobState.COMPLETED: (JobState.RESTORING, JobState.ASSEMBLING, JobState.COMPLETED),
    JobState.FAILED: (JobState.FAILED,),
    JobState.CANCELLED: (JobState.CANCELLED,),
}
"""Steps that take a claimed job to a state."""


def new_job(owner: str = "ada", **changes: Any) -> NewJob:
    """Return a submission."""
    values: dict[str, Any] = {
        "source": Source(kind="upload", location="upload_1", name="film.mp4", num_bytes=5 * 2**31),
        "settings": {"model": "nano", "resolution": "x2"},
    }
    return NewJob(owner=owner, **{**values, **changes})


def submit(store: JobStore, owner: str = "ada", **changes: Any) -> Job:
    """Queue a job."""
    return store.create(new_job(owner, **changes))[0]


def held(store: JobStore, state: JobState = JobState.PLANNING, **changes: Any) -> Job:
    """Queue a job, claim it as runner ``one``, and take it to a state. Nothing else may wait."""
    submitted = submit(store, **changes)
    [job] = store.claim("one", lease_seconds=15, limit=1)
    assert job.id == submitted.id
    for step in WAYS[state]:
        job = store.advance(job.id, job.fence, step)
    return job
