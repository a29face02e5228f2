"""Streams as an ingress sees them: opened, driven on a replica, found again after a break."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

import ray
from ray.exceptions import RayActorError, RayError
from ray.serve.handle import DeploymentHandle

from seedvr2_ray.errors import CapacityError, SeedVR2Error, SettingsError
from seedvr2_ray.serve.config import ServiceConfig
from seedvr2_ray.serve.live.order import STARTED, LiveOrder
from seedvr2_ray.serve.live.relay import RelayLimits, StreamRelay
from seedvr2_ray.serve.problems import MissingRefusal, RateRefusal, kind_of
from seedvr2_ray.serve.ray_errors import translated
from seedvr2_ray.serve.security.wording import explained
from seedvr2_ray.settings import RestoreSettings

_log = logging.getLogger(__name__)
_NAMESPACE = "seedvr2-live"
_READ_SECONDS = 60.0
"""How long the end of a stream is kept for somebody who is still reading what came before."""


@dataclass(frozen=True, slots=True)
class OpenStream:
    """A stream and one socket of its caller."""

    name: str
    socket: int
    received: int
    """Bytes of the caller that have arrived."""
    relay: Any


class LiveStreams:
    """Opens streams on the replicas of one application."""

    def __init__(self, config: ServiceConfig, restorers: Mapping[str, DeploymentHandle[Any]]) -> None:
        """Keep handles, by the name of the model."""
        self._config = config
        self._restorers = dict(restorers)
        self._drives: dict[str, asyncio.Task[None]] = {}
        self._forgetting: set[asyncio.Task[None]] = set()

    async def open(self, owner: str, settings: RestoreSettings, policy: Literal["drop", "slow"]) -> OpenStream:
        """Find a replica for a stream and attach to it.

        Raises:
            SettingsError: no such model is deployed.
            RateRefusal: this ingress holds as many streams as it may.
            CapacityError: no replica is free in time.
        """
        live = self._config.live
        model = self._config.default_model if settings.model == "auto" else settings.model
        if model not in self._restorers:
            raise SettingsError(f"model {model!r} is not deployed here; choose {' or '.join(sorted(self._restorers))}")
        if len(self._drives) >= live.max_streams:
            raise RateRefusal(f"{live.max_streams} live streams are open and no more are taken; try again later", 10)
        name = uuid4().hex
        limits = RelayLimits(
            grace_seconds=live.grace_seconds,
            stall_seconds=live.stall_seconds,
            most_output_bytes=live.most_waiting_bytes,
        )
        relay = _start_relay(name, owner, limits)
        order = LiveOrder(
            settings=RestoreSettings.from_mapping({**settings.to_mapping(), "model": model}),
            policy=policy,
            least_factor=live.least_factor_dropping if policy == "drop" else live.least_factor,
        )
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        drive = asyncio.create_task(self._drive(name, model, order, relay, started), name=f"live-{name}")
        self._drives[name] = drive
        try:
            async with asyncio.timeout(live.wait_seconds):
                await asyncio.shield(started)
            socket, received = await relay.attach.remote(owner, 0)
        except TimeoutError:
            drive.cancel()
            most = self._config.models[model].max_replicas
            raise CapacityError(
                f"none of the {most} replica(s) of {model} became free within {live.wait_seconds:g} s; try again "
                "later, or choose another model"
            ) from None
        except BaseException:
            drive.cancel()  # Nobody is attached who could end it: it would hold its replica for ever.
            raise
        return OpenStream(name, socket, received, relay)

    async def resume(self, owner: str, name: str, after: int) -> OpenStream:
        """Attach to a stream whose socket broke.

        Raises:
            MissingRefusal: there is none, or what is asked for is kept no more.
        """
        try:
            relay: Any = await asyncio.to_thread(ray.get_actor, name, namespace=_NAMESPACE)
            socket, received = await relay.attach.remote(owner, after)
        except (ValueError, RayActorError):
            raise MissingRefusal("there is no such stream; it has ended, so start a new one") from None
        except LookupError as error:
            reason = str(getattr(error, "cause", error))
            raise MissingRefusal(reason) from None
        return OpenStream(name, socket, received, relay)

    async def _drive(
        self, name: str, model: str, order: LiveOrder, relay: Any, started: "asyncio.Future[None]"
    ) -> None:
        """Keep a replica at work on a stream until it is over, and tell its caller what ended it."""
        response: Any = self._restorers[model].options(stream=True).live.remote(order, relay)
        why: dict[str, Any] | None = None
        try:
            with translated():
                async for sign in response:
                    if sign == STARTED and not started.done():
                        started.set_result(None)
        except SeedVR2Error as error:
            why = _told(error)
        except RayError as error:
            _log.error("a live stream was lost: %s", error)
            why = {"event": "error", "status": 503, "detail": "the process at work on the stream was lost; start anew"}
        finally:
            response.cancel()
            if not started.done():
                started.set_result(None)
            self._drives.pop(name, None)
            with contextlib.suppress(RayError):
                await _end(relay, why)
            self._forget_later(relay)

    def _forget_later(self, relay: Any) -> None:
        """End a relay once nobody needs it: whoever reads slowly, or is away, may still fetch the end."""

        async def forget() -> None:
            with contextlib.suppress(RayError):
                await relay.await_fetched.remote(_READ_SECONDS)
            await asyncio.sleep(self._config.live.grace_seconds)
            ray.kill(relay)

        task = asyncio.create_task(forget())
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)


def _start_relay(name: str, owner: str, limits: RelayLimits) -> Any:
    actor = ray.remote(StreamRelay)
    # It does no work worth a processor. It ends with this ingress, which drives the stream: nobody else would end it,
    # or give up the replica at its other end.
    return actor.options(name=name, namespace=_NAMESPACE, num_cpus=0, max_concurrency=16).remote(owner, limits)


async def _end(relay: Any, why: dict[str, Any] | None) -> None:
    stopped: str | None = await relay.why.remote()
    if stopped is not None:
        why = {"event": "error", "status": 408, "detail": stopped}
    await relay.finish_with.remote(why)


def _told(error: SeedVR2Error) -> dict[str, Any]:
    kind = kind_of(type(error))
    if kind.status >= 500:
        _log.error("a live stream failed: %s", error, exc_info=error)
    return {"event": "error", "type": kind.name, "status": kind.status, "detail": explained(error)}
