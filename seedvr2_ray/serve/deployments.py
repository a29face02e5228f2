"""What runs inside Serve's replicas besides workers: the ingress and the runner. Both hold nothing that matters."""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from seedvr2_ray.errors import StorageError
from seedvr2_ray.serve.config import Limits, ServiceConfig
from seedvr2_ray.serve.db.artifact_store import ArtifactStore
from seedvr2_ray.serve.db.database import open_database, utc_now
from seedvr2_ray.serve.db.job_store import JobStore
from seedvr2_ray.serve.db.upload_store import UploadStore
from seedvr2_ray.serve.db.usage_store import UsageStore
from seedvr2_ray.serve.db.webhook_store import WebhookStore
from seedvr2_ray.serve.http import upscale
from seedvr2_ray.serve.http.application import create_api
from seedvr2_ray.serve.http.page import page_router
from seedvr2_ray.serve.http.runpod import routes as runpod
from seedvr2_ray.serve.http.v1.live import live_router
from seedvr2_ray.serve.live.streams import LiveStreams
from seedvr2_ray.serve.notifier import notifier_of
from seedvr2_ray.serve.observability.instrumentation import Instrumentation
from seedvr2_ray.serve.scheduler.retention import Sweeper
from seedvr2_ray.serve.scheduler.runner import JobRunner
from seedvr2_ray.serve.secrets import Secrets
from seedvr2_ray.serve.security.rate_limits import RequestLimiter
from seedvr2_ray.serve.service.verbs import Service
from seedvr2_ray.serve.workers.ray_handles import RayWorkers
from seedvr2_ray.serve.workers.scratch_cleanup import keep_tidy
from seedvr2_ray.serve.workers.storage_layout import StorageLayout
from seedvr2_ray.telemetry.metrics import show

_log = logging.getLogger(__name__)

DRAIN_SECONDS = 20.0
"""How long a runner that is replaced lets replicas finish the segments they are at."""
_MOST_MISSED_LEASES = 4
_SWEEP_SECONDS = 5.0
_NOTIFY_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Wiring:
    """What a replica must know of its deployment."""

    config: ServiceConfig
    secrets: Secrets
    database_url: str
    layout: StorageLayout
    instrumentation: Instrumentation


def changed_limits(limits: Limits, user_config: Mapping[str, Any]) -> Limits:
    """Return limits with those that a deployment's ``user_config`` names changed; unknown names are refused."""
    return Limits.model_validate({**limits.model_dump(), **user_config.get("limits", {})})


@serve.ingress()
class Ingress:
    """The HTTP application in a replica."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it.
        self,
        wiring: Wiring,
        runner: DeploymentHandle[Any],
        restorers: Mapping[str, DeploymentHandle[Any]],
    ) -> None:
        """Connect to the database; bring it up to date if this is the first to see it."""
        wiring.instrumentation.start("api")
        keep_tidy(wiring.layout)
        database = await asyncio.to_thread(open_database, wiring.database_url)

        async def wake() -> None:
            # Not waited for: a runner that polls finds the job as well.
            with contextlib.suppress(Exception):
                runner.wake.remote()

        self._limits = wiring.config.limits
        self._service = Service(
            wiring.config, wiring.secrets, database, wake=wake, rates=RequestLimiter(wiring.config.rate_limits_url)
        )
        self._live = LiveStreams(wiring.config, restorers)
        # Ray says when it begins to start replicas, and not when they are there.
        _log.info("the service is ready for requests")

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Build the application after the constructor."""
        return create_api(
            self._service, routers=[runpod.router, upscale.router, live_router(self._live), page_router()]
        )

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take new limits while requests run."""
        self._service.replace_limits(changed_limits(self._limits, user_config))


class RunnerReplica:
    """A :class:`JobRunner` at work for as long as the replica lives."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it.
        self, wiring: Wiring, finisher: DeploymentHandle[Any], restorers: Mapping[str, DeploymentHandle[Any]]
    ) -> None:
        """Connect to the database and begin to claim jobs."""
        wiring.instrumentation.start("runner")
        database = await asyncio.to_thread(open_database, wiring.database_url)
        self._config = wiring.config
        self._jobs = JobStore(database)
        self._runner = JobRunner(
            f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}",
            wiring.config,
            self._jobs,
            UsageStore(database),
            wiring.layout.results,
            RayWorkers(wiring.layout.data, finisher, restorers),
        )
        self._sweeper = Sweeper(
            wiring.layout,
            wiring.config.retention,
            ArtifactStore(database),
            UploadStore(database),
            WebhookStore(database),
        )
        self._notifier = notifier_of(wiring.config, wiring.secrets, database)
        self._work = asyncio.create_task(self._runner.run(), name="runner")
        self._notifying = asyncio.create_task(self._notify_and_wait(), name="webhooks")
        self._sweeping = asyncio.create_task(self._sweep_and_wait(), name="retention")

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take new limits while jobs run."""
        self._runner.replace_limits(changed_limits(self._config.limits, user_config))

    async def wake(self) -> None:
        """Look for jobs at once."""
        self._runner.wake()

    async def _sweep_and_wait(self) -> None:
        """Delete what has expired, every few seconds: a caller who deletes a job is not to wait long for it."""
        while True:
            try:
                await asyncio.to_thread(self._sweeper.sweep)
            except Exception as error:  # noqa: BLE001  # Storage that is away now is asked again.
                _log.warning("what has expired cannot be deleted now: %s", error)
            try:
                await self._show_gauges()
            except Exception as error:  # noqa: BLE001  # Figures that cannot be shown end no sweeping.
                _log.warning("how much there is to do cannot be shown now: %s", error)
            await asyncio.sleep(_SWEEP_SECONDS)

    async def _notify_and_wait(self) -> None:
        """Send the notifications that are due, every second or so."""
        while self._notifier is not None:
            try:
                await asyncio.to_thread(self._notifier.deliver_due)
            except Exception as error:  # noqa: BLE001  # The outbox keeps what was not sent.
                _log.warning("notifications cannot be sent now: %s", error)
            await asyncio.sleep(_NOTIFY_SECONDS)

    async def _show_gauges(self) -> None:
        try:
            load = await asyncio.to_thread(self._jobs.load)
        except StorageError:
            return  # The sweep has said so.
        oldest = load.oldest_queued_at
        age = 0.0 if oldest is None else max(0.0, (utc_now() - oldest).total_seconds())
        # Every runner sees the same queue.
        show("seedvr2_queue_depth", load.num_queued)
        show("seedvr2_queue_age_seconds", age)
        dispatcher = self._runner.dispatcher
        show("seedvr2_active_jobs", self._runner.num_active, source=self._runner.name)
        show("seedvr2_segments_waiting", dispatcher.num_waiting, source=self._runner.name)
        show("seedvr2_segments_in_flight", dispatcher.num_in_flight, source=self._runner.name)

    async def check_health(self) -> None:
        """Fail when only a new process helps.

        Raises:
            RuntimeError: the runner has ended, or its event loop has not come round for long.
        """
        if self._work.done():
            raise RuntimeError(f"the runner has ended: {self._work}")
        silence = time.monotonic() - self._runner.looked_at
        if silence > _MOST_MISSED_LEASES * self._config.lease_seconds:
            raise RuntimeError(f"the runner has not looked at its claims for {silence:.0f} s")

    async def __del__(self) -> None:
        """Give the jobs back before the replica goes: on scaling down, on updates and at the end of the service."""
        runner = getattr(self, "_runner", None)
        if runner is None:
            return
        self._sweeping.cancel()
        self._notifying.cancel()
        await runner.drain(grace_seconds=DRAIN_SECONDS)
        await asyncio.wait([self._work], timeout=DRAIN_SECONDS)
