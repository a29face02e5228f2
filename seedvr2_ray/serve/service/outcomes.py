"""What comes out of jobs, opened for those who may read it: results, what was written about them, stills."""

from collections.abc import Awaitable, Callable
from typing import Literal

from seedvr2_ray.serve.jobs import Job, JobState, ResultInfo
from seedvr2_ray.serve.problems import ConflictRefusal, GoneRefusal, MissingRefusal
from seedvr2_ray.serve.results import Results, StoredFile
from seedvr2_ray.serve.security.auth import Caller
from seedvr2_ray.serve.threads import in_thread


class Outcomes:
    """Files of jobs' results, found for a caller."""

    def __init__(self, get: Callable[[Caller, str], Awaitable[Job]], results: Results) -> None:
        """Know where to look.

        Args:
            get: gives a job to a caller who may see it, and refuses it to others.
            results: where they lie.
        """
        self._get = get
        self._results = results

    async def open_result(self, caller: Caller, job_id: str) -> tuple[ResultInfo, StoredFile]:
        """Find a completed job's result.

        Raises:
            ConflictRefusal: there is none yet, or there never will be.
            GoneRefusal: it has been deleted.
        """
        job = await self._get(caller, job_id)
        if job.result is None:
            raise ConflictRefusal(_why_no_result(job))
        found = await in_thread(self._results.file, "master", job.result.address)
        if found is None:
            raise GoneRefusal(f"the result of job {job_id} has been deleted; submit the job again")
        return job.result, found

    async def open_companion(self, caller: Caller, job_id: str, kind: Literal["report", "sidecar"]) -> StoredFile:
        """Find what was written about a completed job's result: the report page, or its provenance.

        Raises:
            ConflictRefusal, GoneRefusal: as :meth:`open_result`.
        """
        result, _ = await self.open_result(caller, job_id)
        found = await in_thread(self._results.file, kind, result.address)
        if found is None:
            raise MissingRefusal(f"the result of job {job_id} came without this; submit the job again to have it made")
        return found

    async def open_preview(self, caller: Caller, job_id: str, which: Literal["before", "after"]) -> StoredFile:
        """Find a still of the source or of the result.

        Raises:
            MissingRefusal: none has been made yet.
        """
        job = await self._get(caller, job_id)
        found = None if job.result_address is None else await in_thread(self._results.file, which, job.result_address)
        if found is None:
            raise MissingRefusal(f"job {job_id} has no preview yet; ask again when its progress says has_preview")
        return found


def _why_no_result(job: Job) -> str:
    if job.state is JobState.FAILED:
        reason = f": {job.error.detail}" if job.error else ""
        return f"job {job.id} failed and has no result{reason}"
    if job.state is JobState.CANCELLED:
        return f"job {job.id} was cancelled and has no result; submit it again"
    return f"job {job.id} is {job.state} and has no result yet; wait until it is completed"
