"""What must be true of our own manifests: that what they name exists, fits together, and is safe to run.

Unlike the operator's rules these know what is inside a pod: which models there are, how long a segment may take.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import yaml
from pydantic import ValidationError

from seedvr2_ray.cluster.kustomize import split_image
from seedvr2_ray.cluster.manifests import Manifest, PodSpec, pods_of, ray_cluster_of, read_path
from seedvr2_ray.errors import SettingsError
from seedvr2_ray.models.weights.catalogue import find_entry
from seedvr2_ray.serve.config import ServiceConfig

OUR_IMAGE = "seedvr2-ray"
_GOODBYE_SECONDS = 60
"""What Serve adds to ``limits.stall_seconds`` before it ends a restorer that is at work."""
_SPOT = "spot"


def service_config(manifest: Manifest) -> ServiceConfig:
    """Return what a RayService's ``serveConfigV2`` deploys.

    Raises:
        SettingsError: it is not the configuration of one service of ours.
    """
    try:
        read = yaml.safe_load(str(read_path(manifest.body, "spec.serveConfigV2") or ""))
        (application,) = read["applications"]
        return ServiceConfig.model_validate(application.get("args") or {})
    except ValidationError as error:
        found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise SettingsError(f"serveConfigV2 is refused by the service: {'; '.join(found)}") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(
            f"serveConfigV2 is no configuration of one application ({' '.join(str(error).split())}); "
            "compare it with serve_config.yaml"
        ) from error


def broken_platform_rules(manifests: Sequence[Manifest]) -> Iterator[tuple[Manifest, str]]:
    """Yield every object that breaks a rule of ours, with a sentence about it."""
    for manifest in manifests:
        found = {"RayService": _broken_by_service, "RayJob": _broken_by_archive, "RayCronJob": _broken_by_archive}
        for sentence in found[manifest.kind](manifest) if manifest.kind in found else ():
            yield manifest, sentence
        for pod in pods_of(manifest):
            for sentence in _broken_by_pod(pod):
                yield manifest, sentence
    yield from _unknown_names(manifests)


def _broken_by_service(manifest: Manifest) -> Iterator[str]:
    try:
        config = service_config(manifest)
    except SettingsError as error:
        yield str(error)
        return
    groups = (ray_cluster_of(manifest) or {}).get("workerGroupSpecs") or []
    for name in config.models:
        try:
            find_entry(name)
        except SettingsError as error:
            yield f"serveConfigV2 deploys a model that does not exist: {error}"
    for name, pool in config.pools.items():
        wanted = pool.gang_size * max(pool.num_gpus, 1.0) if pool.gang_size > 1 else pool.num_gpus
        yield from _larger_than_machines(f"model {name}", wanted, f"gang_size {pool.gang_size}", groups)
    if config.default_model not in config.models:
        yield f"default_model is {config.default_model}, not among {', '.join(sorted(config.models))}; name one of them"
    longest = config.limits.stall_seconds + _GOODBYE_SECONDS
    delay = read_path(manifest.body, "spec.rayClusterDeletionDelaySeconds") or 60
    if delay < longest:
        yield (
            f"rayClusterDeletionDelaySeconds is {delay} and a segment may take {longest:g} s; an upgrade would cut it: "
            f"set at least {longest:g}"
        )
    for group in groups:
        grace = read_path(group, "template.spec.terminationGracePeriodSeconds") or 30
        is_spot = (group.get("labels") or {}).get("ray.io/market-type") == _SPOT
        if grace < longest and not is_spot:
            yield (
                f"group {group.get('groupName')} has terminationGracePeriodSeconds {grace} and a segment may take "
                f"{longest:g} s; set at least {longest:g}, or label the group ray.io/market-type: {_SPOT}"
            )


def _broken_by_archive(manifest: Manifest) -> Iterator[str]:
    """What the job itself would find out only after its machines have come, if it did not wait for others for ever."""
    cluster, words = ray_cluster_of(manifest), entrypoint_of(manifest)
    if cluster is None:
        return  # It runs on machines that others describe.
    options = dict(pairwise(part for word in words for part in (word.split("=", 1) if word[:2] == "--" else [word])))
    groups = cluster.get("workerGroupSpecs") or []
    has_gpus = any(gpus_of(group) for group in groups)
    try:
        size = int(options.get("--gang-size", 1))
        per_rank = float(options.get("--gpus-per-worker", 1.0 if has_gpus else 0.0))
    except ValueError:
        yield f"the entrypoint is no command of seedvr2-ray batch: {shlex.join(words)}; correct its numbers"
        return
    yield from _larger_than_machines("each restorer", size * per_rank, f"--gang-size {size}", groups)


def _larger_than_machines(who: str, wanted: float, setting: str, groups: Sequence[dict[str, Any]]) -> Iterator[str]:
    largest = max((gpus_of(group) for group in groups), default=0)
    if wanted > largest:
        yield (
            f"{who} wants {wanted:g} GPUs in one machine ({setting}) and the largest machine of a group has "
            f"{largest:g}; make the gang smaller or add a group of larger machines"
        )


def gpus_of(group: dict[str, Any]) -> float:
    """Return how many GPUs a machine of a worker group has."""
    containers = read_path(group, "template.spec.containers") or [{}]
    return float(read_path(containers[0], "resources.limits").get("nvidia.com/gpu", 0) if containers[0] else 0)


def _broken_by_pod(pod: PodSpec) -> Iterator[str]:
    person = read_path(pod.template, "spec.securityContext") or {}
    shared = {entry["name"]: entry.get("emptyDir") for entry in read_path(pod.template, "spec.volumes") or []}
    for container in pod.containers:
        where = f"container {container.get('name')} at {pod.path}"
        own = container.get("securityContext") or {}
        if not (own.get("runAsNonRoot") or person.get("runAsNonRoot")):
            yield f"{where} may run as root; set runAsNonRoot: true"
        if not own.get("readOnlyRootFilesystem"):
            yield f"{where} may write to its image; set readOnlyRootFilesystem: true and mount what it writes to"
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"{where} may gain rights; set allowPrivilegeEscalation: false"
        if "ALL" not in (read_path(own, "capabilities.drop") or []):
            yield f"{where} keeps capabilities; set capabilities.drop: [ALL]"
        if not (own.get("seccompProfile") or person.get("seccompProfile")):
            yield f"{where} has no seccomp profile; set seccompProfile.type: RuntimeDefault"
        limits = read_path(container, "resources.limits") or {}
        for resource in ("cpu", "memory"):
            if resource not in limits:
                yield f"{where} has no limit of {resource}; one pod could take the machine from all others"
        _, tag = split_image(str(container.get("image", "")))
        if tag in ("", "latest"):
            yield f"{where} runs the image {container.get('image')} without a version; set newTag in the overlay"
        for mount in container.get("volumeMounts") or []:
            volume = shared.get(mount["name"])
            if mount["mountPath"] == "/dev/shm" and not (volume or {}).get("sizeLimit"):
                yield f"{where} has no cap on /dev/shm, which counts as memory; set sizeLimit"


def _unknown_names(manifests: Sequence[Manifest]) -> Iterator[tuple[Manifest, str]]:
    """What an object names and no object of the same rendering makes; secrets are looked for on the cluster."""
    made = {(manifest.kind, manifest.name) for manifest in manifests}
    for manifest in manifests:
        for pod in pods_of(manifest):
            spec = pod.template["spec"]
            wanted = [
                ("ServiceAccount", spec.get("serviceAccountName")),
                ("PriorityClass", spec.get("priorityClassName")),
            ]
            wanted += [
                ("PersistentVolumeClaim", read_path(volume, "persistentVolumeClaim.claimName"))
                for volume in spec.get("volumes") or []
            ]
            for kind, name in wanted:
                if name is not None and (kind, name) not in made:
                    yield (
                        manifest,
                        f"{pod.path} names the {kind} {name}, which is not rendered; add it or correct the name",
                    )


def entrypoint_of(manifest: Manifest) -> list[str]:
    """Return the words of the command that a RayJob or RayCronJob runs."""
    path = "spec.jobTemplate.entrypoint" if manifest.kind == "RayCronJob" else "spec.entrypoint"
    return shlex.split(str(read_path(manifest.body, path) or ""))


def replaced_options(entrypoint: Sequence[str], changes: dict[str, str]) -> str:
    """Return an entrypoint with options replaced or added, quoted for a shell.

    Args:
        entrypoint: its words.
        changes: values by option, such as ``{"--manifest": "s3://archive/"}``.
    """
    words = list(entrypoint)
    for option, value in changes.items():
        if option in words:
            words[words.index(option) + 1] = value
        else:
            words += [option, value]
    return shlex.join(words)


def required_secrets(manifests: Sequence[Manifest]) -> dict[str, set[str]]:
    """Return the names of secrets without which pods do not start, with the keys that are asked for by name."""
    found: dict[str, set[str]] = {}

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for child in node:
                walk(child)
        elif isinstance(node, dict):
            for key, value in node.items():
                if key in ("secretKeyRef", "secretRef") and isinstance(value, dict) and not value.get("optional"):
                    keys = found.setdefault(str(value["name"]), set())
                    keys |= {str(value["key"])} if "key" in value else set()
                elif key == "authOptions" and isinstance(value, dict) and "secretName" in value:
                    found.setdefault(str(value["secretName"]), set()).add("auth_token")
                else:
                    walk(value)

    for manifest in manifests:
        walk(manifest.body)
    return found


def metric_names(expression: str) -> set[str]:
    """Return the names of metrics in an expression of Prometheus' language, without those that rules record."""
    return set(re.findall(r"\bray_[a-z][a-z0-9_]*\b", re.sub(r"\bby \([^)]*\)", "", expression)))
