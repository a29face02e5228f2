"""The sender of notifications as a runner has it: it shows jobs in messages as the API shows them."""

from collections.abc import Mapping
from typing import Any

from seedvr2_ray.serve.config import ServiceConfig
from seedvr2_ray.serve.db.database import Database
from seedvr2_ray.serve.db.job_store import JobStore
from seedvr2_ray.serve.db.webhook_store import WebhookStore
from seedvr2_ray.serve.http.v1.schemas import view_of
from seedvr2_ray.serve.scheduler.webhooks import WebhookSender
from seedvr2_ray.serve.secrets import Secrets
from seedvr2_ray.serve.security.links import SignedLinks
from seedvr2_ray.serve.service.job_watch import Snapshot


def notifier_of(config: ServiceConfig, secrets: Secrets, database: Database) -> WebhookSender | None:
    """Make the sender of a deployment, if it has a secret to sign with.

    Raises:
        DeploymentError: the secret is none.
    """
    if secrets.webhook_secret is None:
        return None
    jobs = JobStore(database)
    base = (config.public_url or "").rstrip("/")
    # Links in messages open nothing by themselves: who receives one need not be who may read the result.
    links = SignedLinks(bytes(32))

    def describe(job_id: str) -> Mapping[str, Any]:
        shown = view_of(Snapshot(jobs.get(job_id), None), links).model_dump(mode="json")
        named = {name: link and base + link.partition("?")[0] for name, link in shown["links"].items()}
        return {**shown, "links": named}

    return WebhookSender(
        WebhookStore(database), config.webhooks, secrets.webhook_secret, describe, clock=database.clock
    )
