"""The jobs of the service, kept in its database: one row each, which is the truth about it.

A runner holds a job by a lease, and names the fence it was given in every write. The fence grows whenever the job
changes hands, so whatever a runner writes that has lost its job changes nothing.
"""

import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Unpack

import sqlalchemy as sa

from seedvr2_ray.serve.db.database import Database
from seedvr2_ray.serve.db.discards import require_staying
from seedvr2_ray.serve.db.job_order import (
    POSITIONS,
    has_left,
    is_claimable,
    is_unfinished,
    is_unheld,
    load_of,
    waiting_order,
)
from seedvr2_ray.serve.db.job_rows import (
    Changes,
    LeaseLost,
    Load,
    NewJob,
    Page,
    Renewal,
    changed_columns,
    from_cursor,
    new_row,
    to_cursor,
    to_job,
    write_job,
)
from seedvr2_ray.serve.db.tables import jobs
from seedvr2_ray.serve.db.webhook_store import enqueue
from seedvr2_ray.serve.jobs import Job, JobState, require_transition
from seedvr2_ray.serve.problems import ConflictRefusal, GoneRefusal, MissingRefusal

__all__ = ["Changes", "JobStore", "LeaseLost", "Load", "NewJob", "Page", "Renewal"]

QUOTA_WINDOW = timedelta(hours=24)
"""Over which the use of an owner counts."""
MAX_PAGE = 200
"""Most jobs of one page."""

_ADMISSION_LOCK = 0x5EED_0002


class JobStore:
    """Every job of a deployment. Synchronous; safe to use from many threads, and many processes on one database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def create(self, new: NewJob, *, admit: Callable[[Load], None] | None = None) -> tuple[Job, bool]:
        """Queue a job, or find the one that the same request made before.

        Args:
            new: what to do, and for whom.
            admit: raises if there is too much to do already. No other job is created between its look and this one,
                and it is not asked about a repeated request.

        Returns:
            The job, and whether it is new.

        Raises:
            ConflictRefusal: another request has used the same key.
            GoneRefusal: the same request made a job that was deleted.
        """
        now = self.database.clock()
        job_id = f"job_{secrets.token_hex(12)}"
        with self.database.writing() as connection:
            if admit is not None:
                self.database.serialise(connection, _ADMISSION_LOCK)
                if (known := _made_before(connection, new)) is not None:
                    return known, False
                admit(load_of(connection, new.owner, since=now - QUOTA_WINDOW))
            row = self.database.insert_unless_there(connection, jobs, new_row(new, job_id, now))
            if row is not None:
                return to_job(row), True
            known = _made_before(connection, new)
            assert known is not None, "only the key can have been in the way"
            return known, False

    def get(self, job_id: str, *, owner: str | None = None, even_deleted: bool = False) -> Job:
        """Return a job.

        Args:
            job_id: which.
            owner: refuse jobs of anybody else, as if they did not exist; ``None`` for the service itself.
            even_deleted: return what is left of a deleted job instead of refusing it.

        Raises:
            MissingRefusal: there is no such job, or it is somebody else's.
            GoneRefusal: it was deleted.
        """
        with self.database.reading() as connection:
            job = _read(connection, job_id, owner=owner)
        if not even_deleted:
            _require_present(job)
        return job

    def list(
        self,
        *,
        owner: str | None,
        states: Collection[JobState] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """List jobs, newest first; deleted ones are left out.

        Pages that follow one another show every job that was there at the first exactly once, whatever is submitted
        meanwhile.

        Args:
            owner: whose; ``None`` for everybody's.
            states: only jobs in these.
            limit: most jobs on the page; at least 1 and at most ``MAX_PAGE`` are given.
            cursor: ``next_cursor`` of the page before.

        Raises:
            InputError: the cursor is not one.
        """
        limit = min(max(limit, 1), MAX_PAGE)
        query = sa.select(jobs).where(sa.not_(has_left)).order_by(jobs.c.created_at.desc(), jobs.c.id.desc())
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if states is not None:
            query = query.where(jobs.c.state.in_(sorted(states)))
        if cursor is not None:
            created_at, job_id = from_cursor(cursor)
            query = query.where(
                sa.or_(jobs.c.created_at < created_at, sa.and_(jobs.c.created_at == created_at, jobs.c.id < job_id))
            )
        with self.database.reading() as connection:
            found = [to_job(row) for row in connection.execute(query.limit(limit + 1)).mappings()]
        return Page(tuple(found[:limit]), to_cursor(found[limit - 1]) if len(found) > limit else None)

    def queue_position(self, job: Job) -> int | None:
        """Return how many claims away a job is: 1 is the next; ``None`` if it does not wait."""
        return self.queue_positions().get(job.id) if job.state is JobState.QUEUED else None

    def queue_positions(self) -> dict[str, int]:
        """Return the positions of all jobs that wait, with one query for all event streams."""
        now = {"now": self.database.clock()}
        with self.database.reading() as connection:
            return {row.id: row.position for row in connection.execute(POSITIONS, now)}

    def versions(self, job_ids: Iterable[str]) -> dict[str, int]:
        """Return the versions of some jobs with one query; deleted ones are left out."""
        wanted = list(job_ids)
        if not wanted:
            return {}
        query = sa.select(jobs.c.id, jobs.c.version).where(jobs.c.id.in_(wanted), sa.not_(has_left))
        with self.database.reading() as connection:
            return {row.id: row.version for row in connection.execute(query)}

    def load(self, owner: str | None = None) -> Load:
        """Say how much there is to do, and what ``owner`` has of it."""
        with self.database.reading() as connection:
            return load_of(connection, owner, since=self.database.clock() - QUOTA_WINDOW)

    def count(self, owner: str | None) -> dict[JobState, int]:
        """Count an owner's jobs by state, or with ``None`` everybody's; deleted ones are left out."""
        query = sa.select(jobs.c.state, sa.func.count().label("num")).where(sa.not_(has_left)).group_by(jobs.c.state)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        with self.database.reading() as connection:
            return {JobState(row.state): row.num for row in connection.execute(query)}

    def claim(
        self, runner: str, *, lease_seconds: float, limit: int, most_per_owner: int | None = None
    ) -> Sequence[Job]:
        """Take jobs that nobody works on, in their order: owners take turns, each with his most urgent job first.

        Each is PLANNING afterwards, whatever its last runner had reached: it goes on from what is committed.
        Jobs whose runner was lost and that were asked to stop are ended here rather than given to anybody.

        Args:
            runner: who takes them.
            lease_seconds: for how long, unless renewed.
            limit: most jobs to take.
            most_per_owner: that one owner may have with runners, all of them together; by default as many as there are.
        """
        now = self.database.clock()
        # Runners ask twice a second; looking first leaves the write lock to others.
        with self.database.reading() as connection:
            if limit < 1 or connection.execute(sa.select(jobs.c.id).where(is_unheld(now)).limit(1)).first() is None:
                return []
        with self.database.writing() as connection:
            self._end_abandoned(connection)
            order = waiting_order(now)
            query = (
                sa.select(jobs.c.id)
                .join(order, order.c.id == jobs.c.id)
                .where(is_claimable(now))  # Looked at again when the row is locked.
                .order_by(order.c.position)
                .limit(limit)
                .with_for_update(of=jobs, skip_locked=True)
            )
            if most_per_owner is not None:
                query = query.where(order.c.turn <= most_per_owner)
            taken = list(connection.scalars(query))
            update = (
                sa.update(jobs)
                .where(jobs.c.id.in_(taken))
                .values(
                    state=JobState.PLANNING.value,
                    runner=runner,
                    lease_until=now + timedelta(seconds=lease_seconds),
                    fence=jobs.c.fence + 1,
                    version=jobs.c.version + 1,
                    num_tries=jobs.c.num_tries + 1,
                    started_at=sa.func.coalesce(jobs.c.started_at, now),
                )
                .returning(jobs)
            )
            claimed = {row["id"]: to_job(row) for row in connection.execute(update).mappings()}
        return [claimed[job_id] for job_id in taken]

    def renew(self, runner: str, fences: Mapping[str, int], *, lease_seconds: float) -> Renewal:
        """Go on holding jobs, and learn which of them are lost or were asked to stop.

        Args:
            runner: who holds them.
            fences: the fence of each, by job id.
            lease_seconds: for how long, from now.
        """
        if not fences:
            return Renewal(lost=frozenset(), cancelled=frozenset())
        update = (
            sa.update(jobs)
            .where(_held_with(runner, fences))
            .values(lease_until=self.database.clock() + timedelta(seconds=lease_seconds))
            .returning(jobs.c.id, jobs.c.cancel_requested)
        )
        with self.database.writing() as connection:
            held = {row.id: row.cancel_requested for row in connection.execute(update)}
        return Renewal(
            lost=frozenset(fences.keys() - held.keys()),
            cancelled=frozenset(job_id for job_id, is_cancelled in held.items() if is_cancelled),
        )

    def release(self, runner: str, fences: Mapping[str, int]) -> None:
        """Give jobs back, for others to claim at once; those that the runner has lost are left alone."""
        update = (
            sa.update(jobs)
            .where(_held_with(runner, fences))
            .values(runner=None, lease_until=None, fence=jobs.c.fence + 1, version=jobs.c.version + 1)
        )
        with self.database.writing() as connection:
            connection.execute(update)

    def advance(self, job_id: str, fence: int, after: JobState, **changes: Unpack[Changes]) -> Job:
        """Take the next step of a job that a runner holds, and write what came with it.

        A final step ends the claim and queues the webhook, all at once or not at all.

        Raises:
            LeaseLost: the fence is not the latest, or the job has ended.
            ConflictRefusal: ``after`` may not follow the job's state.
        """
        with self.database.writing() as connection:
            job = _locked(connection, job_id)
            if job is None or job.fence != fence or job.runner is None:
                raise _lost(job_id, fence)
            require_transition(job_id, job.state, after)
            columns = changed_columns(changes)
            if after.is_final:
                return self._end(connection, job, after, columns)
            return write_job(connection, job_id, {"state": after.value, **columns})

    def note(self, job_id: str, fence: int, **changes: Unpack[Changes]) -> None:
        """Write news of a job that a runner holds; its state stays.

        Raises:
            LeaseLost: the fence is not the latest, or the job has ended.
            RetryableError: the result that it is to have is being deleted.
        """
        update = (
            sa.update(jobs)
            .where(jobs.c.id == job_id, jobs.c.fence == fence, jobs.c.runner.is_not(None))
            .values(version=jobs.c.version + 1, **changed_columns(changes))
        )
        with self.database.writing() as connection:
            if "result_address" in changes:
                require_staying(self.database, connection, changes["result_address"])
            if connection.execute(update).rowcount != 1:
                raise _lost(job_id, fence)

    def request_cancel(self, job_id: str, *, owner: str | None, only_queued: bool = False) -> Job:
        """Cancel a job: at once if nobody works on it, else its runner learns of it. Asking twice does no harm.

        With ``only_queued`` a job is left alone that a runner has taken up.

        Raises:
            MissingRefusal, GoneRefusal: as :meth:`get`.
            ConflictRefusal: the job has completed or failed, or is to be left alone.
        """
        with self.database.writing() as connection:
            job = _present(connection, job_id, owner)
            if only_queued and job.state is not JobState.QUEUED:
                raise ConflictRefusal(f"job {job_id} is {job.state} and waits no more")
            if job.cancel_requested or job.state is JobState.CANCELLED:
                return job
            require_transition(job_id, job.state, JobState.CANCELLED)
            return self._cancel(connection, job, {"cancel_requested": True})

    def request_delete(self, job_id: str, *, owner: str | None) -> Job:
        """Cancel a job if it is unfinished, and have its data deleted. Once finished it is gone for callers.

        Raises:
            MissingRefusal, GoneRefusal: as :meth:`get`.
        """
        with self.database.writing() as connection:
            job = _present(connection, job_id, owner)
            if job.state.is_final:
                return write_job(connection, job_id, {"delete_requested": True})
            return self._cancel(connection, job, {"cancel_requested": True, "delete_requested": True})

    def _end_abandoned(self, connection: sa.Connection) -> None:
        """End the jobs that were asked to stop and whose runner is lost."""
        abandoned = (
            sa.select(jobs)
            .where(is_unheld(self.database.clock()), jobs.c.cancel_requested)
            .with_for_update(skip_locked=True)
        )
        for row in connection.execute(abandoned).mappings().all():
            self._end(connection, to_job(row), JobState.CANCELLED, {"fence": row["fence"] + 1})

    def _cancel(self, connection: sa.Connection, job: Job, columns: dict[str, Any]) -> Job:
        now = self.database.clock()
        if job.runner is None or job.lease_until is None or job.lease_until < now:
            return self._end(connection, job, JobState.CANCELLED, {**columns, "fence": job.fence + 1})
        return write_job(connection, job.id, columns)

    def _end(self, connection: sa.Connection, job: Job, after: JobState, columns: dict[str, Any]) -> Job:
        now = self.database.clock()
        if job.webhook_url is not None:
            enqueue(connection, job_id=job.id, url=job.webhook_url, event=f"job.{after}", now=now)
        ended = {"state": after.value, "finished_at": now, "runner": None, "lease_until": None}
        return write_job(connection, job.id, {**ended, **columns})


def _read(connection: sa.Connection, job_id: str, *, owner: str | None = None) -> Job:
    row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).mappings().first()
    if row is None or owner not in (None, row["owner"]):
        raise MissingRefusal(f"there is no job {job_id[:80]!r} of yours; GET /v1/jobs lists the ones you have")
    return to_job(row)


def _locked(connection: sa.Connection, job_id: str) -> Job | None:
    row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id).with_for_update()).mappings().first()
    return None if row is None else to_job(row)


def _present(connection: sa.Connection, job_id: str, owner: str | None) -> Job:
    _read(connection, job_id, owner=owner)
    job = _locked(connection, job_id)
    assert job is not None, "rows are never deleted"
    _require_present(job)
    return job


def _require_present(job: Job) -> None:
    if job.deleted_at is not None or (job.delete_requested and job.state.is_final):
        raise GoneRefusal(f"job {job.id} was deleted; submit it again")


def _held_with(runner: str, fences: Mapping[str, int]) -> sa.ColumnElement[bool]:
    pairs = sa.tuple_(jobs.c.id, jobs.c.fence).in_(list(fences.items()))
    return sa.and_(jobs.c.runner == runner, pairs, is_unfinished)


def _lost(job_id: str, fence: int) -> LeaseLost:
    return LeaseLost(f"job {job_id} is not held with fence {fence} any more; leave it to whoever has it now")


def _made_before(connection: sa.Connection, new: NewJob) -> Job | None:
    """Find the job that a key made, and refuse the key if it made it from another request."""
    if new.idempotency_key is None:
        return None
    query = sa.select(jobs).where(jobs.c.owner == new.owner, jobs.c.idempotency_key == new.idempotency_key)
    row = connection.execute(query).mappings().first()
    if row is None:
        return None
    if row["request_digest"] != new.request_digest:
        raise ConflictRefusal(
            f"Idempotency-Key {new.idempotency_key[:80]!r} belongs to another request, which made job {row['id']}; "
            "use a new key for a new request"
        )
    job = to_job(row)
    _require_present(job)
    return job
