"""What an operator changes on a cluster: objects applied, archives submitted, groups scaled, the service upgraded."""

import copy
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seedvr2_ray.cluster.connection import KubernetesApi
from seedvr2_ray.cluster.manifests import Manifest, ray_cluster_place, read_path
from seedvr2_ray.cluster.platform_rules import entrypoint_of, gpus_of, replaced_options, required_secrets
from seedvr2_ray.cluster.validate import require_valid
from seedvr2_ray.errors import DeploymentError, InputError, RetryableError, SettingsError

RAY = "ray.io/v1"
_FIRST = ("Namespace", "PriorityClass", "ServiceAccount", "PersistentVolumeClaim", "NetworkPolicy")
"""Kinds that others need, in this order; the rest keep theirs."""


def apply_all(
    api: KubernetesApi, manifests: Sequence[Manifest], *, dry_run: bool, force: bool = False
) -> list[Manifest]:
    """Send rendered objects, those first that others need.

    Nothing is changed unless all are valid, secrets are there, and the server would take every object.

    Raises:
        SettingsError: an object is not valid.
        DeploymentError: a secret is missing.
    """
    require_valid(manifests)
    require_secrets(api, manifests)
    ordered = sorted(manifests, key=lambda it: _FIRST.index(it.kind) if it.kind in _FIRST else len(_FIRST))
    for only_tries in (True,) if dry_run else (True, False):
        for manifest in ordered:
            api.apply(manifest, dry_run=only_tries, force=force)
    return ordered


def require_secrets(api: KubernetesApi, manifests: Sequence[Manifest]) -> None:
    """Refuse to start pods that would wait for secrets for ever.

    Raises:
        DeploymentError: a secret, or a key of one, is not on the cluster.
    """
    for name, keys in sorted(required_secrets(manifests).items()):
        found = api.read("v1", "Secret", name)
        missing = sorted(keys - set((found or {}).get("data") or {}))
        literals = "".join(f" --from-literal={key}=..." for key in sorted(keys)) or " --from-env-file=FILE"
        if found is None:
            raise DeploymentError(
                f"the secret {name} is missing in namespace {api.namespace}; create it with: "
                f"kubectl -n {api.namespace} create secret generic {name}{literals}"
            )
        if missing:
            raise DeploymentError(
                f"the secret {name} in namespace {api.namespace} has no key {', '.join(missing)}; add it, for instance "
                f"with: kubectl -n {api.namespace} edit secret {name}"
            )


def job_from(manifests: Sequence[Manifest], name: str, options: Mapping[str, str]) -> list[Manifest]:
    """Return rendered objects with their RayJob renamed and its options changed.

    Args:
        manifests: of an overlay with exactly one RayJob.
        name: of the new job.
        options: of ``seedvr2-ray batch``, with their leading dashes.

    Raises:
        SettingsError: the overlay has no archive to submit.
    """
    templates = [manifest for manifest in manifests if manifest.kind == "RayJob"]
    if len(templates) != 1:
        raise SettingsError("this overlay has no RayJob; name one for archives, such as laptop-bulk or h100-bulk")
    body = copy.deepcopy(templates[0].body)
    body["metadata"]["name"] = name
    body["spec"]["entrypoint"] = replaced_options(entrypoint_of(templates[0]), dict(options))
    return [*(manifest for manifest in manifests if manifest is not templates[0]), Manifest(body)]


def submit(api: KubernetesApi, manifests: Sequence[Manifest], *, dry_run: bool) -> Manifest:
    """Create the RayJob among rendered objects, after the checks of :func:`apply_all`, and return it.

    Raises:
        InputError: a job of that name is there already.
    """
    require_valid(manifests)
    (job,) = [manifest for manifest in manifests if manifest.kind == "RayJob"]
    require_secrets(api, [job])
    api.create(job, dry_run=dry_run)
    return job


@dataclass(frozen=True, slots=True)
class Scaled:
    """What :func:`scale` did."""

    objects: tuple[str, ...]
    """What was changed: the service, so that the change stays, and the cluster, so that it happens now."""
    low: int
    high: int


def scale(api: KubernetesApi, service: str, group: str, *, low: int | None, high: int | None) -> Scaled:
    """Change how many machines a group of the service's cluster has at least and at most.

    KubeRay takes such a change of a RayService for none, so the cluster that is active is changed as well.

    Raises:
        InputError: there is no such service or group, or the numbers contradict each other.
    """
    found = api.read(RAY, "RayService", service)
    if found is None:
        raise InputError(
            f"there is no RayService {service} in namespace {api.namespace}; see seedvr2-ray cluster status"
        )
    targets = [Manifest({"kind": "RayService", **found})]
    active = read_path(found, "status.activeServiceStatus.rayClusterName")
    cluster = api.read(RAY, "RayCluster", str(active)) if active else None
    if cluster is not None:
        targets.append(Manifest({"kind": "RayCluster", **cluster}))
    changed = []
    for target in targets:
        path, index, now = _group(target, group)
        lower, upper = low if low is not None else now["minReplicas"], high if high is not None else now["maxReplicas"]
        if not 0 <= lower <= upper:
            raise InputError(f"group {group} cannot have between {lower} and {upper} machines; correct --min and --max")
        place = f"/{path.replace('.', '/')}/workerGroupSpecs/{index}"
        operations: list[dict[str, Any]] = [
            # Somebody else may have changed the list since it was read.
            {"op": "test", "path": f"{place}/groupName", "value": group},
            {"op": "add", "path": f"{place}/minReplicas", "value": lower},
            {"op": "add", "path": f"{place}/maxReplicas", "value": upper},
        ]
        api.patch(RAY, target.kind, target.name, operations)
        changed.append(target.label)
    return Scaled(tuple(changed), lower, upper)


def _group(target: Manifest, group: str) -> tuple[str, int, dict[str, int]]:
    place = ray_cluster_place(target)
    groups = [] if place is None else place[1].get("workerGroupSpecs") or []
    names = [one["groupName"] for one in groups]
    if place is None or group not in names:
        raise InputError(f"{target.label} has no group {group}; its groups are {', '.join(names) or 'none'}")
    one = groups[names.index(group)]
    return place[0], names.index(group), {"minReplicas": one.get("minReplicas", 0), "maxReplicas": one["maxReplicas"]}


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What an upgrade of the service would do."""

    kind: str
    """``nothing``, ``in place`` (only what is served changes) or ``second cluster``."""
    more_gpus: float
    """Of machines that are always there, which a second cluster needs beside those of the first."""
    manifest: Manifest


def plan_upgrade(api: KubernetesApi, manifests: Sequence[Manifest]) -> Upgrade:
    """Say what applying the RayService of rendered objects would do to the one that runs.

    Raises:
        InputError: there is nothing to upgrade.
    """
    require_valid(manifests)
    require_secrets(api, manifests)
    services = [manifest for manifest in manifests if manifest.kind == "RayService"]
    if len(services) != 1:
        raise SettingsError("this overlay has no RayService; name one that serves, such as laptop or h100")
    (wanted,) = services
    running = api.read(RAY, "RayService", wanted.name)
    if running is None:
        raise InputError(
            f"there is no RayService {wanted.name} in namespace {api.namespace} yet; start it with seedvr2-ray cluster "
            "apply"
        )
    now, then = read_path(running, "spec.rayClusterConfig") or {}, read_path(wanted.body, "spec.rayClusterConfig") or {}
    if _differs(now, then):
        groups = then.get("workerGroupSpecs") or []
        gpus = sum(gpus_of(group) * group.get("minReplicas", 0) for group in groups)
        return Upgrade("second cluster", gpus, wanted)
    same = running["spec"].get("serveConfigV2") == wanted.body["spec"].get("serveConfigV2")
    return Upgrade("nothing" if same else "in place", 0.0, wanted)


def _differs(now: Any, then: Any) -> bool:
    """Whether a wanted value differs from a stored one, which the server may have filled with defaults."""
    if isinstance(then, dict) and isinstance(now, dict):
        ignored = {"replicas", "minReplicas", "maxReplicas", "scaleStrategy"}
        return any(_differs(now.get(key), value) for key, value in then.items() if key not in ignored)
    if isinstance(then, list) and isinstance(now, list):
        return len(now) != len(then) or any(_differs(a, b) for a, b in zip(now, then, strict=True))
    return bool(now != then)


def submit_to_ray(address: str, entrypoint: Sequence[str], token: str | None) -> str:
    """Submit a command to a Ray cluster that runs already, and return the id of the job.

    Args:
        address: of its dashboard, ``http://127.0.0.1:8265`` after ``kubectl port-forward``.
        token: of the cluster's authentication; None where it has none.

    Raises:
        DeploymentError: no dashboard answers there.
        RetryableError: one does, and cannot take a job now.
    """
    client = _job_client(address, token)
    try:
        return str(client.submit_job(entrypoint=shlex.join(entrypoint)))
    except RuntimeError as error:
        text = " ".join(str(error).split())
        raise RetryableError(f"{address} does not take the job now ({text[:200]}); try again in a minute") from error


def ray_job_log(address: str, job: str, token: str | None) -> str:
    """Return what a job on a running Ray cluster wrote.

    Raises:
        InputError: there is no such job.
    """
    try:
        return str(_job_client(address, token).get_job_logs(job))
    except RuntimeError as error:
        raise InputError(f"{address} has no log of job {job}; see ray job list") from error


def _job_client(address: str, token: str | None) -> Any:
    from ray.job_submission import JobSubmissionClient

    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        return JobSubmissionClient(address, headers=headers)
    except (ConnectionError, RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise DeploymentError(
            f"no Ray dashboard answers at {address} ({text[:200]}); check address and token"
        ) from error
