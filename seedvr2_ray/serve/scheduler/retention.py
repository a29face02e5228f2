"""What is deleted when: inputs, intermediates and results of finished jobs after their times, deleted jobs' at once.

Anything that several jobs share stays until the last of them is gone. A sweep may be repeated, cut off, and done by
several runners at once; what it deletes under the hands of a job that has just begun is made again by that job.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from seedvr2_ray.errors import StorageError, TargetError
from seedvr2_ray.serve.config import Retention
from seedvr2_ray.serve.db.artifact_store import ArtifactStore
from seedvr2_ray.serve.db.database import Clock, utc_now
from seedvr2_ray.serve.db.job_rows import ArtifactKind
from seedvr2_ray.serve.db.upload_store import UploadStore
from seedvr2_ray.serve.db.webhook_store import WebhookStore
from seedvr2_ray.serve.jobs import Job
from seedvr2_ray.serve.problems import GoneRefusal, MissingRefusal
from seedvr2_ray.serve.workers.storage_layout import StorageLayout
from seedvr2_ray.storage.location import remove_folder

_log = logging.getLogger(__name__)

_MOST_JOBS = 100
_MOST_UPLOADS = 1000
FAULTS = (OSError, StorageError, TargetError)
"""Of one file or folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """How much one sweep deleted."""

    inputs: int
    intermediates: int
    results: int
    uploads: int

    @property
    def num_deleted(self) -> int:
        """Of everything together."""
        return self.inputs + self.intermediates + self.results + self.uploads


class Sweeper:
    """Deletes what has expired."""

    def __init__(
        self,
        layout: StorageLayout,
        rules: Retention,
        artifacts: ArtifactStore,
        uploads: UploadStore,
        webhooks: WebhookStore,
        *,
        clock: Clock = utc_now,
    ) -> None:
        """Take the stores of one deployment, and the rules that say how long things are kept."""
        self._layout = layout
        self._rules = rules
        self._artifacts = artifacts
        self._uploads = uploads
        self._webhooks = webhooks
        self._clock = clock

    def sweep(self) -> Swept:
        """Delete what has expired, and say how much that was. Blocks for as long as deleting takes.

        Raises:
            StorageError: the database does not answer; the next sweep goes on.
        """
        rules = self._rules
        swept = Swept(
            inputs=self._delete(ArtifactKind.INPUTS, rules.uploads_hours, self._delete_input),
            intermediates=self._delete(
                ArtifactKind.INTERMEDIATES, rules.intermediates_hours, self._delete_intermediates
            ),
            results=self._delete(ArtifactKind.RESULTS, rules.results_hours, self._delete_result),
            uploads=self._delete_idle_uploads(),
        )
        self._webhooks.forget(created_before=self._clock() - timedelta(hours=rules.results_hours))
        return swept

    def _delete(self, what: ArtifactKind, hours: float, delete: Callable[[Job], None]) -> int:
        """Delete what jobs leave behind. What cannot be deleted now stays for a later sweep, and stops nothing else."""
        num_deleted = 0
        failed: set[str] = set()
        ended_before = self._clock() - timedelta(hours=hours)
        while expired := [
            job
            for job in self._artifacts.expired(what, ended_before=ended_before, limit=_MOST_JOBS + len(failed))
            if job.id not in failed
        ]:
            for job in expired:
                try:
                    delete(job)
                except FAULTS as error:
                    failed.add(job.id)
                    _log.warning("%s of %s cannot be deleted now: %s", what.name.lower(), job.id, error)
                    continue
                # Only now: what is cut off here is deleted once more.
                self._artifacts.mark_deleted(job.id, what)
                num_deleted += 1
        return num_deleted

    def _delete_input(self, job: Job) -> None:
        source = job.source
        if source.kind == "url":
            remove_folder(self._layout.source_folder(job.id))
        elif source.kind == "upload" and not self._artifacts.upload_in_use(source.location, besides=job.id):
            self._delete_upload(source.location)

    def _delete_intermediates(self, job: Job) -> None:
        remove_folder(self._layout.deaths_folder(job.id))
        if job.content is not None and not self._artifacts.content_in_use(job.content, besides=job.id):
            remove_folder(self._layout.work_folder(job.content))

    def _delete_result(self, job: Job) -> None:
        address = job.result_address
        if address is not None and self._artifacts.begin_discard(address, besides=job.id):
            self._layout.results.discard(address)
            self._artifacts.end_discard(address)

    def _delete_idle_uploads(self) -> int:
        limit = self._clock() - timedelta(hours=self._rules.uploads_hours)
        num_deleted = 0
        for upload in self._uploads.idle(changed_before=limit, limit=_MOST_UPLOADS):
            try:
                if self._is_idle(upload.id, limit):
                    self._delete_upload(upload.id)
                    num_deleted += 1
            except FAULTS as error:
                _log.warning("%s cannot be deleted now: %s", upload.id, error)
        return num_deleted

    def _is_idle(self, upload_id: str, limit: datetime) -> bool:
        """Look once more: since they were listed, those before it may have taken minutes to delete."""
        try:
            changed_at = self._uploads.get(upload_id).changed_at
        except (GoneRefusal, MissingRefusal):
            return False
        return changed_at < limit and not self._artifacts.upload_in_use(upload_id)

    def _delete_upload(self, upload_id: str) -> None:
        remove_folder(self._layout.upload_folder(upload_id))
        try:
            self._uploads.delete(upload_id)
        except (GoneRefusal, MissingRefusal):
            return  # Its owner, or another runner, was faster.
