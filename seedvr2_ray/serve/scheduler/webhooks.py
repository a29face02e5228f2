"""Telling callers that a job has ended: signed after Standard Webhooks, tried again, never sent inside.

The outbox (:mod:`seedvr2_ray.serve.db.webhook_store`) is filled in the transaction in which a job ends; a runner's loop
calls :meth:`WebhookSender.deliver_due`. Receivers may get a message twice and tell so by its id.
"""

import base64
import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpcore
from standardwebhooks import Webhook as Signer

from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.serve.config import FetchRules, Webhooks
from seedvr2_ray.serve.db.database import Clock, utc_now
from seedvr2_ray.serve.db.webhook_store import Webhook, WebhookStore
from seedvr2_ray.serve.problems import FetchRefusal, GoneRefusal, MissingRefusal
from seedvr2_ray.serve.security.egress import Egress, NoAddressError
from seedvr2_ray.serve.security.fetch import require_fetchable

_log = logging.getLogger(__name__)

_AT_ONCE = 8
_LEAST_SECRET_BYTES = 24
_MOST_ANSWER_BYTES = 64 * 1024
"""Of an answer, of which only the status matters; the rest is not read."""
_RULES = FetchRules()

Describe = Callable[[str], Mapping[str, Any]]
"""Returns a job as callers see it, by its id. Raises GoneRefusal or MissingRefusal."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """What one round did."""

    num_delivered: int = 0
    num_failed: int = 0
    """Tried in vain, and to be tried again."""
    num_given_up: int = 0


class WebhookSender:
    """Sends what is due. Safe to use in several runners at once: the outbox gives every message to one of them."""

    def __init__(
        self,
        store: WebhookStore,
        rules: Webhooks,
        secret: str,
        describe: Describe,
        *,
        clock: Clock = utc_now,
        egress: Egress | None = None,
    ) -> None:
        """Prepare to sign and send.

        Args:
            secret: ``whsec_`` and base64, as :class:`seedvr2_ray.serve.secrets.Secrets` holds it.
            clock: the outbox's.
            egress: how hosts are looked up and trusted; tests put other answers here.

        Raises:
            DeploymentError: the secret is none.
        """
        self._signer = signer_of(secret)
        self._store = store
        self._rules = rules
        self._describe = describe
        self._clock = clock
        self._egress = egress or Egress(allow_private=rules.allow_private)

    def deliver_due(self, *, limit: int = 64) -> Delivered:
        """Send the messages whose time has come, a few at once, and note how it went. Blocks; call it in a thread."""
        # The lease outlives all tries of one round, so that nobody else sends what waits here for its turn.
        lease = self._rules.timeout_seconds * (limit / _AT_ONCE + 2)
        due = self._store.claim_due(lease_seconds=lease, limit=limit)
        if not due:
            return Delivered()
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="webhook") as threads:
            outcomes = list(threads.map(self._deliver, due))
        return Delivered(outcomes.count("delivered"), outcomes.count("failed"), outcomes.count("given up"))

    def _deliver(self, webhook: Webhook) -> str:
        try:
            body = self._body(webhook)
        except (GoneRefusal, MissingRefusal):
            self._store.mark_failed(webhook, "the job was deleted", next_try_at=None)
            return "given up"
        reason = self._send(webhook, body)
        if reason is None:
            self._store.mark_delivered(webhook)
            return "delivered"
        next_try_at = self._next_try(webhook)
        self._store.mark_failed(webhook, reason, next_try_at=next_try_at)
        _log.warning(
            "notification %s of job %s failed (try %d): %s", webhook.id, webhook.job_id, webhook.num_tries, reason
        )
        return "given up" if next_try_at is None else "failed"

    def _body(self, webhook: Webhook) -> bytes:
        message = {
            "type": webhook.event,
            "timestamp": webhook.created_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "data": self._describe(webhook.job_id),
        }
        return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()

    def _send(self, webhook: Webhook, body: bytes) -> str | None:
        """Send one message; return why that failed, or None. The reason never holds the URL."""
        now = datetime.now(UTC)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": webhook.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(webhook.id, now, body.decode()),
        }
        deadline = time.monotonic() + self._rules.timeout_seconds
        try:
            url = require_fetchable(webhook.url, _RULES)
            with self._egress.request("POST", url, headers=headers, content=body, deadline=deadline) as response:
                _read_a_little(response)
                status = response.status
        except FetchRefusal:
            return "the address cannot be used"
        except NoAddressError:
            return "the host has no public address"
        except httpcore.TimeoutException:
            return f"no answer within {self._rules.timeout_seconds:g} s"
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            return f"not reached ({type(error).__name__})"
        # A redirect is no delivery: whoever moved must name the new address, which would have to be checked.
        return None if 200 <= status < 300 else f"HTTP {status}"

    def _next_try(self, webhook: Webhook) -> datetime | None:
        if webhook.num_tries >= self._rules.max_tries:
            return None
        pause = min(self._rules.first_pause_seconds * 2 ** (webhook.num_tries - 1), self._rules.longest_pause_seconds)
        # Spread, so that a receiver that was down is not met by everything at once.
        return self._clock() + timedelta(seconds=pause * random.uniform(0.8, 1.2))


def _read_a_little(response: httpcore.Response) -> None:
    """Let a receiver finish what it says, up to a point."""
    num_bytes = 0
    for piece in response.iter_stream():
        num_bytes += len(piece)
        if num_bytes > _MOST_ANSWER_BYTES:
            return


def signer_of(secret: str) -> Signer:
    """Read the secret that messages are signed with.

    Raises:
        DeploymentError: it is none.
    """
    text = secret.removeprefix("whsec_").rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        key = b""
    if len(key) < _LEAST_SECRET_BYTES:
        raise DeploymentError(
            f"SEEDVR2_WEBHOOK_SECRET must be whsec_ and {_LEAST_SECRET_BYTES} bytes or more in base64; "
            "make one with `openssl rand -base64 32`"
        )
    return Signer(key)
