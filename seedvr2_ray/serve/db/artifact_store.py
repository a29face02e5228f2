"""What jobs hold on storage, as their rows say: what is to go, what is gone, and what somebody still needs."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from seedvr2_ray.serve.db.database import Database
from seedvr2_ray.serve.db.discards import begin_discard, end_discard
from seedvr2_ray.serve.db.job_order import FINAL, has_left, is_unfinished
from seedvr2_ray.serve.db.job_rows import ArtifactKind, to_job, write_job
from seedvr2_ray.serve.db.tables import jobs
from seedvr2_ray.serve.jobs import Job


class ArtifactStore:
    """Inputs, intermediates and results of every job. Safe to use from many threads and processes, as the job store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def expired(self, what: ArtifactKind, *, ended_before: datetime, limit: int = 100) -> Sequence[Job]:
        """List finished jobs whose belongings are to go: those that ended long ago, and those whose owner asked.

        Args:
            what: which of their belongings.
            ended_before: jobs that ended later are kept, unless their owner asked.
            limit: most jobs to list, the first ended first.
        """
        query = (
            sa.select(jobs)
            .where(
                jobs.c.state.in_(FINAL),
                jobs.c[what.value].is_(None),
                sa.or_(jobs.c.finished_at < ended_before, jobs.c.delete_requested),
            )
            .order_by(jobs.c.finished_at, jobs.c.id)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [to_job(row) for row in connection.execute(query).mappings()]

    def mark_deleted(self, job_id: str, *what: ArtifactKind) -> Job:
        """Note that belongings of a job are deleted. Once all are, the row forgets what it held of the caller's."""
        now = self._database.clock()
        with self._database.writing() as connection:
            row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id).with_for_update()).mappings().one()
            columns: dict[str, Any] = {part.value: now for part in what if row[part.value] is None}
            if all(row[part.value] is not None or part.value in columns for part in ArtifactKind):
                columns |= {"source_location": "", "source_name": "", "webhook_url": None, "metadata": {}}
            return write_job(connection, job_id, columns)

    def begin_discard(self, address: str, *, besides: str) -> bool:
        """Say whether a result may be deleted: only ``besides`` uses it; nobody else can until :meth:`end_discard`."""
        return begin_discard(self._database, address, besides=besides)

    def end_discard(self, address: str) -> None:
        """A result has been deleted, and may be made anew."""
        end_discard(self._database, address)

    def has_had(self, owner: str, address: str, *, besides: str) -> bool:
        """Say whether an owner has had a result before, by a job other than ``besides``."""
        return bool(self._count(jobs.c.result_address == address, jobs.c.owner == owner, besides))

    def content_in_use(self, content: str, *, besides: str | None = None) -> int:
        """Count the jobs that may still need intermediates of a source's content, leaving out job ``besides``."""
        kept = sa.or_(is_unfinished, sa.and_(jobs.c.intermediates_deleted_at.is_(None), sa.not_(has_left)))
        return self._count(jobs.c.content == content, kept, besides)

    def upload_in_use(self, upload_id: str, *, besides: str | None = None) -> int:
        """Count the jobs that an upload is the source of and that may still read it, leaving out job ``besides``."""
        is_source = sa.and_(jobs.c.source_kind == "upload", jobs.c.source_location == upload_id)
        kept = sa.or_(is_unfinished, sa.and_(jobs.c.inputs_deleted_at.is_(None), sa.not_(has_left)))
        return self._count(is_source, kept, besides)

    def _count(self, first: sa.ColumnElement[bool], second: sa.ColumnElement[bool], besides: str | None) -> int:
        query = sa.select(sa.func.count()).select_from(jobs).where(first, second)
        if besides is not None:
            query = query.where(jobs.c.id != besides)
        with self._database.reading() as connection:
            return connection.scalars(query).one()
