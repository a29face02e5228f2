"""Which jobs a runner may take, in which order, and how much there is to do: the larger queries of the job store."""

from datetime import datetime

import sqlalchemy as sa

from seedvr2_ray.serve.db.job_rows import Load
from seedvr2_ray.serve.db.tables import UtcTime, jobs, usage
from seedvr2_ray.serve.jobs import UNFINISHED, JobState

Now = datetime | sa.ColumnElement[datetime]
"""The time, or the parameter of a statement that will be told it."""

FINAL = sorted(state for state in JobState if state.is_final)
is_unfinished = jobs.c.state.in_(sorted(UNFINISHED))
has_left = sa.or_(
    jobs.c.deleted_at.is_not(None),
    sa.and_(jobs.c.delete_requested, jobs.c.state.in_(FINAL)),
)
"""A job is gone for callers: its data is deleted, or will be because its owner asked."""


def is_unheld(now: Now) -> sa.ColumnElement[bool]:
    """Say that nobody works on a job: it waits, was released, or its runner let the lease end."""
    return sa.and_(is_unfinished, sa.or_(jobs.c.runner.is_(None), jobs.c.lease_until < now))


def is_claimable(now: Now) -> sa.ColumnElement[bool]:
    """Say that a runner may take a job."""
    return sa.and_(is_unheld(now), sa.not_(jobs.c.cancel_requested))


def waiting_order(now: Now) -> sa.Subquery:
    """Number the jobs that may be claimed, from 1, in the order in which they will be.

    Owners take turns: the first job of everybody comes before the second of anybody. A priority says which of an
    owner's own jobs is the first; it takes no turn from others. What an owner has with runners already counts as turns
    taken, so a job's turn stays what it was while those before it are claimed.
    """
    held = (
        sa.select(jobs.c.owner, sa.func.count().label("num_held"))
        .where(is_unfinished, jobs.c.runner.is_not(None), jobs.c.lease_until >= now)
        .group_by(jobs.c.owner)
        .subquery()
    )
    own_turn = sa.func.row_number().over(
        partition_by=jobs.c.owner, order_by=(jobs.c.priority.desc(), jobs.c.created_at, jobs.c.id)
    )
    turns = (
        sa.select(
            jobs.c.id,
            jobs.c.created_at,
            (own_turn + sa.func.coalesce(held.c.num_held, 0)).label("turn"),
        )
        .outerjoin(held, held.c.owner == jobs.c.owner)
        .where(is_claimable(now))
        .subquery()
    )
    order = (turns.c.turn, turns.c.created_at, turns.c.id)
    return sa.select(turns.c.id, turns.c.turn, sa.func.row_number().over(order_by=order).label("position")).subquery()


_order = waiting_order(sa.bindparam("now", type_=UtcTime()))
POSITIONS = sa.select(_order.c.id, _order.c.position)
"""Where every job stands that waits, at the time ``now``. Put together once: every look at a waiting job asks it."""


def load_of(connection: sa.Connection, owner: str | None, *, since: datetime) -> Load:
    """Sum up the unfinished jobs, count those of ``owner``, and add up what he has used since a moment and may use yet.

    One look at both: a job that ends is either unfinished or among what was used, and never neither.
    """
    reserved = sa.case(
        (jobs.c.estimated_gpu_seconds > jobs.c.gpu_seconds, jobs.c.estimated_gpu_seconds), else_=jobs.c.gpu_seconds
    )
    left = jobs.c.estimated_gpu_seconds - jobs.c.gpu_seconds
    query = (
        sa.select(
            jobs.c.state,
            sa.func.count().label("num"),
            sa.func.sum(jobs.c.estimated_gpu_seconds).label("estimated"),
            sa.func.sum(sa.case((left > 0, left), else_=0.0)).label("remaining"),
            sa.func.min(jobs.c.created_at).label("oldest"),
            sa.func.sum(sa.case((jobs.c.owner == owner, 1), else_=0)).label("num_own"),
            sa.func.sum(sa.case((jobs.c.owner == owner, reserved), else_=0.0)).label("reserved"),
        )
        .where(is_unfinished)
        .group_by(jobs.c.state)
    )
    rows = {JobState(row.state): row for row in connection.execute(query)}
    queued = rows.get(JobState.QUEUED)
    return Load(
        num_queued=queued.num if queued else 0,
        queued_gpu_seconds=queued.estimated if queued else 0.0,
        remaining_gpu_seconds=sum(row.remaining for row in rows.values()),
        num_by_state={state: row.num for state, row in rows.items()},
        oldest_queued_at=queued.oldest if queued else None,
        num_unfinished_of_owner=sum(row.num_own for row in rows.values()),
        reserved_gpu_seconds_of_owner=sum(row.reserved for row in rows.values()),
        used_gpu_seconds_of_owner=_used(connection, owner, since),
    )


def _used(connection: sa.Connection, owner: str | None, since: datetime) -> float:
    """Sum up what an owner's ended jobs have used. Those that run are counted by their rows."""
    if owner is None:
        return 0.0
    running = sa.select(jobs.c.id).where(jobs.c.owner == owner, is_unfinished)
    query = sa.select(sa.func.coalesce(sa.func.sum(usage.c.gpu_seconds), 0.0)).where(
        usage.c.owner == owner, usage.c.at >= since, usage.c.job_id.not_in(running)
    )
    return float(connection.scalars(query).one())
