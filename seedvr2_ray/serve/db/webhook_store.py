"""Notifications that are still to be delivered: an outbox, filled in the transaction in which a job ends.

A notification names its job; what it says is read from the job when it is sent.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from seedvr2_ray.serve.db.database import Database
from seedvr2_ray.serve.db.tables import webhooks

_WAITING, _DELIVERED, _GIVEN_UP = "waiting", "delivered", "given_up"


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """One notification of one job."""

    id: str
    """The message's id: equal for all tries, so that a receiver can tell them."""
    job_id: str
    url: str
    event: str
    """``job.completed``, ``job.failed`` or ``job.cancelled``."""
    created_at: datetime
    num_tries: int
    """This one included; a later try makes marks of this one void."""


def enqueue(connection: sa.Connection, *, job_id: str, url: str, event: str, now: datetime) -> None:
    """Add a notification in the caller's transaction: it is sent if, and only if, that is committed."""
    connection.execute(
        sa.insert(webhooks).values(
            id=f"msg_{secrets.token_hex(12)}",
            job_id=job_id,
            url=url,
            event=event,
            state=_WAITING,
            created_at=now,
            num_tries=0,
            next_try_at=now,
        )
    )


class WebhookStore:
    """The outbox. Several deliverers may work on it at once."""

    def __init__(self, database: Database) -> None:
        """Keep notifications in a migrated database."""
        self._database = database

    def claim_due(self, *, lease_seconds: float, limit: int) -> Sequence[Webhook]:
        """Take notifications whose time has come, the longest due first.

        A deliverer that is lost with some of them has others try them once more after ``lease_seconds``.
        """
        now = self._database.clock()
        is_due = sa.and_(
            webhooks.c.state == _WAITING,
            webhooks.c.next_try_at <= now,
            sa.or_(webhooks.c.lease_until.is_(None), webhooks.c.lease_until < now),
        )
        # Asked every second or so; looking first leaves the write lock to others.
        with self._database.reading() as connection:
            if connection.execute(sa.select(webhooks.c.id).where(is_due).limit(1)).first() is None:
                return []
        with self._database.writing() as connection:
            query = (
                sa.select(webhooks.c.id)
                .where(is_due)
                .order_by(webhooks.c.next_try_at, webhooks.c.id)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            taken = list(connection.scalars(query))
            update = (
                sa.update(webhooks)
                .where(webhooks.c.id.in_(taken))
                .values(num_tries=webhooks.c.num_tries + 1, lease_until=now + timedelta(seconds=lease_seconds))
                .returning(webhooks)
            )
            claimed = {row["id"]: _to_webhook(row) for row in connection.execute(update).mappings()}
        return [claimed[webhook_id] for webhook_id in taken]

    def mark_delivered(self, webhook: Webhook) -> bool:
        """Note that the receiver has accepted it; say whether this try was still the latest."""
        return self._mark(webhook, state=_DELIVERED, delivered_at=self._database.clock(), next_try_at=None)

    def mark_failed(self, webhook: Webhook, reason: str, *, next_try_at: datetime | None) -> bool:
        """Note that a try failed, and when to try again: ``None`` gives up. Say whether it was still the latest try."""
        state = _GIVEN_UP if next_try_at is None else _WAITING
        return self._mark(webhook, state=state, next_try_at=next_try_at, last_error=reason[:500])

    def num_waiting(self) -> int:
        """Count the notifications that are still to be delivered."""
        query = sa.select(sa.func.count()).select_from(webhooks).where(webhooks.c.state == _WAITING)
        with self._database.reading() as connection:
            return connection.scalars(query).one()

    def forget(self, *, created_before: datetime) -> int:
        """Delete notifications that were delivered or given up, and say how many."""
        is_old = sa.and_(webhooks.c.state != _WAITING, webhooks.c.created_at < created_before)
        with self._database.writing() as connection:
            return connection.execute(sa.delete(webhooks).where(is_old)).rowcount

    def _mark(self, webhook: Webhook, **columns: Any) -> bool:
        update = (
            sa.update(webhooks)
            .where(
                webhooks.c.id == webhook.id,
                webhooks.c.num_tries == webhook.num_tries,
                webhooks.c.state == _WAITING,
            )
            .values(lease_until=None, **columns)
        )
        with self._database.writing() as connection:
            return connection.execute(update).rowcount == 1


def _to_webhook(row: sa.RowMapping) -> Webhook:
    return Webhook(
        id=row["id"],
        job_id=row["job_id"],
        url=row["url"],
        event=row["event"],
        created_at=row["created_at"],
        num_tries=row["num_tries"],
    )
