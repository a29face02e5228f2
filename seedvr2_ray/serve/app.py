"""The application that Ray Serve runs: ``serve run serve_config.yaml``, or ``seedvr2_ray.serve.app:build``.

The only module of the service that reads the environment: secrets and the database's address come from there.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client  # The only way to learn where Serve listens.

from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.gang.placement import bundles_of
from seedvr2_ray.gang.restorers import GangRestorers
from seedvr2_ray.models.weights.catalogue import find_entry
from seedvr2_ray.models.weights.download import WeightsSource
from seedvr2_ray.restoration.gang.messages import RankSource
from seedvr2_ray.restoration.gang.ranks import Timeouts
from seedvr2_ray.restoration.load import CatalogueRestorers, LoadOptions, RestorerSource
from seedvr2_ray.serve.config import ModelPool, ServiceConfig, database_url_of, pool_name
from seedvr2_ray.serve.deployments import DRAIN_SECONDS, Ingress, RunnerReplica, Wiring
from seedvr2_ray.serve.observability.instrumentation import Instrumentation, instrumentation_of
from seedvr2_ray.serve.scheduler.webhooks import signer_of
from seedvr2_ray.serve.secrets import read_secrets
from seedvr2_ray.serve.security.auth import auth_of, require_jwt_key, require_modes, require_safe_binding
from seedvr2_ray.serve.workers.finisher import Finisher
from seedvr2_ray.serve.workers.replica import RestorerReplica
from seedvr2_ray.serve.workers.storage_layout import StorageLayout
from seedvr2_ray.storage.location import is_local
from seedvr2_ray.storage.sources import default_scratch

_ON_ONE_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}
"""The ingress waits for nothing on its loop, so it may share the one of its replica: every message of a request would
go from one thread to the other and back."""
_INGRESS_CPUS = 0.1
_RUNNER_CPUS = 0.1
_FINISHER_CPUS = 0.25
"""Reserved, not used up: two cores must be enough to try everything."""
_HEALTH_CHECKS: dict[str, Any] = {
    "health_check_period_s": 5.0,
    "health_check_timeout_s": 30.0,
    "graceful_shutdown_wait_loop_s": 0.2,
}


def build(args: ServiceConfig) -> Application:
    """Build the deployments of one service.

    Environment: ``SEEDVR2_DATABASE_URL`` and ``SEEDVR2_AUTH`` take the place of what the file says; secrets are read by
    :func:`seedvr2_ray.serve.secrets.read_secrets`.

    Args:
        args: of the application in ``serve_config.yaml``.

    Raises:
        DeploymentError: they do not go together.
    """
    require_safe_binding(auth_of(args, os.environ), _http_host())
    return build_with(args, os.environ)


def build_with(
    config: ServiceConfig, environ: Mapping[str, str], restorers: RestorerSource | None = None
) -> Application:
    """Build as :func:`build` does, in another environment.

    Args:
        config: of the service.
        environ: what stands in for the environment.
        restorers: where replicas get their models; by default from the catalogue.
    """
    config = settle(config, environ)
    options = LoadOptions(
        weights=WeightsSource(
            weights_dir=None if config.weights_dir is None else Path(config.weights_dir),
            mirror_url=config.weights_mirror,
        )
    )
    if restorers is None:
        _require_gangs(config)
    layout = StorageLayout(
        data=config.data,
        scratch=config.scratch or default_scratch(),
        restorers=restorers or CatalogueRestorers(options),
    )
    assert config.database_url is not None, "settled"
    secrets = read_secrets(environ)
    if secrets.webhook_secret is not None:
        signer_of(secrets.webhook_secret)
    if "jwt" in config.auth:
        require_jwt_key(config.jwt, secrets.jwt_key)
    instrumentation = instrumentation_of(environ, secrets, config.database_url, config.rate_limits_url)
    wiring = Wiring(
        config=config, secrets=secrets, database_url=config.database_url, layout=layout, instrumentation=instrumentation
    )
    finisher = _finisher(config, layout, instrumentation)
    pools = {
        pool_name(model, own, size): restorer_application(model, pool, config, layout, instrumentation, own=own)
        for model, own in config.models.items()
        for size, pool in own.sizes.items()
    }
    runner = serve.deployment(
        name="runner",
        ray_actor_options={"num_cpus": _RUNNER_CPUS},
        max_ongoing_requests=100,
        graceful_shutdown_timeout_s=3 * DRAIN_SECONDS,
        **_HEALTH_CHECKS,
    )(RunnerReplica)
    ingress = serve.deployment(
        name="api",
        num_replicas=config.num_ingress_replicas,
        ray_actor_options={"num_cpus": _INGRESS_CPUS, "runtime_env": {"env_vars": _ON_ONE_LOOP}},
        # Event streams and uploads stay open for long; what is too much is refused with a reason by the service.
        max_ongoing_requests=1000,
        **_HEALTH_CHECKS,
    )(Ingress)
    return ingress.bind(wiring, runner.bind(wiring, finisher, pools), pools)


def settle(config: ServiceConfig, environ: Mapping[str, str]) -> ServiceConfig:
    """Decide what the file leaves open, and refuse what cannot work, before anything is started.

    Raises:
        DeploymentError: the configuration contradicts itself.
    """
    changes: dict[str, Any] = {}
    if is_local(config.data):
        # Replicas run in folders of Ray's own.
        changes["data"] = str(Path(config.data.removeprefix("file://")).absolute())
    changes["database_url"] = database_url_of(config, environ)
    changes["auth"] = auth_of(config, environ).auth
    # Validated once more: what the environment says must be as right as what the file says.
    settled = ServiceConfig.model_validate({**config.model_dump(), **changes})
    _require_models(settled)
    require_modes(settled.auth)
    return settled


def _http_host() -> str:
    """Where Serve listens; its own default while it is not running yet."""
    client = _get_global_client(raise_if_no_controller_running=False) if ray.is_initialized() else None
    return str(HTTPOptions().host if client is None else client.http_config.host)


def _require_models(config: ServiceConfig) -> None:
    for name, own in config.models.items():
        find_entry(name)
        if own.gang_size in own.gangs:
            raise DeploymentError(
                f"model {name} has gang_size {own.gang_size} and gangs of {own.gang_size}; say it once"
            )
    for name, pool in config.pools.items():
        if pool.gang_size < 1:
            raise DeploymentError(f"model {name} has gang_size {pool.gang_size}; the smallest gang is 1")
        if pool.num_gpus not in (0, 1) and pool.gang_size > 1:
            raise DeploymentError(
                f"model {name} has num_gpus {pool.num_gpus:g} and a gang_size of {pool.gang_size}; in a gang num_gpus "
                "is what each rank has: set it to 1, or to 0 for a gang on the CPU"
            )
        if pool.max_replicas < max(1, pool.min_replicas):
            raise DeploymentError(
                f"model {name} has max_replicas {pool.max_replicas}, below 1 or its min_replicas {pool.min_replicas}"
            )
    if config.default_model not in config.models:
        raise DeploymentError(
            f"default_model is {config.default_model} and the models are {', '.join(sorted(config.models))}; "
            "name one of them"
        )


def _require_gangs(config: ServiceConfig) -> None:
    gangs = [(model, pool) for model, own in config.models.items() for pool in own.sizes.values() if pool.gang_size > 1]
    if not gangs:
        return

    from seedvr2_ray.restoration.gang.rules import require_gang  # Loads torch, which an ingress can do without.

    for model, pool in gangs:
        require_gang(find_entry(model), pool.gang_size, pool.sp_strategy)


def _gangs(pool: ModelPool, source: RestorerSource, stall_seconds: float) -> GangRestorers:
    if not isinstance(source, RankSource):
        raise DeploymentError(f"{type(source).__name__} cannot load a model in ranks; leave gang_size at 1")
    # Ranks are given up before the segment is, so that the runner learns the reason.
    timeouts = Timeouts(
        start_seconds=0.8 * stall_seconds, silence_seconds=pool.rank_silence_seconds, stall_seconds=0.8 * stall_seconds
    )
    return GangRestorers(
        source=source, size=pool.gang_size, placement="group", strategy=pool.sp_strategy, timeouts=timeouts
    )


def _finisher(config: ServiceConfig, layout: StorageLayout, instrumentation: Instrumentation) -> Application:
    deployment = serve.deployment(
        name="finisher",
        ray_actor_options={"num_cpus": _FINISHER_CPUS},
        max_ongoing_requests=2,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": max(1, config.num_finishers),
            "target_ongoing_requests": 1,
            "upscale_delay_s": 2.0,
            "downscale_delay_s": 60.0,
        },
        graceful_shutdown_timeout_s=config.limits.stall_seconds,
        **_HEALTH_CHECKS,
    )(Finisher)
    return deployment.bind(layout, config.limits.stall_seconds, instrumentation)


def restorer_application(
    model: str,
    pool: ModelPool,
    config: ServiceConfig,
    layout: StorageLayout,
    instrumentation: Instrumentation | None = None,
    *,
    own: ModelPool | None = None,
) -> Application:
    """Build the deployment of one of a model's pools.

    Args:
        own: the model's own pool, if this may be one of its further gangs.
    """
    where: dict[str, Any] = {"ray_actor_options": {"num_cpus": pool.num_cpus, "num_gpus": pool.num_gpus}}
    if pool.gang_size > 1:
        # Each replica owns its group and leads the ranks in it from the first bundle; Serve makes and removes both.
        where = {
            "ray_actor_options": {"num_cpus": pool.num_cpus, "num_gpus": 0},
            "placement_group_bundles": bundles_of(pool.gang_size, num_gpus=pool.num_gpus, num_cpus=pool.num_cpus),
            "placement_group_strategy": "STRICT_PACK",
        }
        layout = replace(layout, restorers=_gangs(pool, layout.restorers, config.limits.stall_seconds))
    deployment = serve.deployment(
        name=f"restorer-{pool_name(model, own or pool, pool.gang_size)}",
        **where,
        # A model works on one segment at a time; what waits, waits where the runner can still take it back.
        max_ongoing_requests=1,
        autoscaling_config={
            "min_replicas": pool.min_replicas,
            "max_replicas": pool.max_replicas,
            "target_ongoing_requests": 1,
            "look_back_period_s": 12.0,
            "upscale_delay_s": 1.0,
            "downscale_delay_s": min(60.0, pool.downscale_to_zero_seconds),
            "downscale_to_zero_delay_s": pool.downscale_to_zero_seconds,
        },
        # A replica that is to go finishes its segment first, however long that is planned to take.
        graceful_shutdown_timeout_s=config.limits.stall_seconds + 60.0,
        # The old replica goes before the new one comes: there may be no second device.
        max_surge_percent=0,
        **_HEALTH_CHECKS,
    )(RestorerReplica)
    return deployment.bind(layout, model, config.limits.stall_seconds, instrumentation)
