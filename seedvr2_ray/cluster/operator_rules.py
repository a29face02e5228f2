"""What KubeRay's operator refuses although its schemas allow it: rules of version 1.7, checked before anything is sent.

An object that breaks one of them is stored by Kubernetes and then stands still with an event that few people read.
"""

import re
from collections.abc import Iterator
from typing import Any

from seedvr2_ray.cluster.manifests import Manifest, ray_cluster_of, read_path

LONGEST_NAMES = {"RayCluster": 53, "RayService": 47, "RayJob": 47, "RayCronJob": 36}
_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_RESOURCES = ("num-cpus", "num-gpus", "memory", "resources")
_OLDEST_WITH_TOKENS = (2, 52)
_MANAGERS = ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")


def broken_operator_rules(manifest: Manifest) -> Iterator[str]:
    """Yield a sentence for every rule of the operator that an object breaks."""
    limit = LONGEST_NAMES.get(manifest.kind)
    if limit is None:
        return
    if len(manifest.name) > limit:
        yield (
            f"the name {manifest.name} has {len(manifest.name)} characters and KubeRay takes {limit} for a "
            f"{manifest.kind}, because it names pods after it; choose a shorter one"
        )
    if not _LABEL.fullmatch(manifest.name):
        yield f"the name {manifest.name} may hold only a-z, 0-9 and -, must begin with a letter and not end with -"
    spec = manifest.body.get("spec") or {}
    cluster = ray_cluster_of(manifest)
    for described in (spec, cluster or {}):
        if described.get("managedBy", _MANAGERS[0]) not in _MANAGERS:
            yield f"managedBy is {described['managedBy']}; choose one of {', '.join(_MANAGERS)}"
            break
    if cluster is not None:
        yield from _broken_by_cluster(cluster)
    if manifest.kind == "RayJob":
        yield from _broken_by_job(spec)
    elif manifest.kind == "RayCronJob":
        if len(str(spec.get("schedule", "")).split()) != 5:
            yield f"the schedule {spec.get('schedule')!r} is not five fields of cron; write such as '0 22 * * *'"
        yield from _broken_by_job(spec.get("jobTemplate") or {})
    elif manifest.kind == "RayService":
        yield from _broken_by_upgrade(spec)


def _broken_by_cluster(cluster: dict[str, Any]) -> Iterator[str]:
    head = cluster.get("headGroupSpec") or {}
    workers = cluster.get("workerGroupSpecs") or []
    scales = bool(cluster.get("enableInTreeAutoscaling"))
    names = [group.get("groupName") for group in workers]
    for name in sorted({str(name) for name in names if names.count(name) > 1}):
        yield f"two groups are called {name}; give each a name of its own"
    for name, group in [("head", head), *((group.get("groupName"), group) for group in workers)]:
        params = group.get("rayStartParams") or {}
        pod = read_path(group, "template.spec") or {}
        if not pod.get("containers"):
            yield f"group {name} has no container; the first one runs Ray"
        if group.get("resources") and any(params.get(key) for key in _RESOURCES):
            yield f"group {name} names resources both in rayStartParams and in resources; keep one of them"
        if "labels" in params:
            yield f"group {name} sets labels in rayStartParams; use the group's own field labels"
        if scales and pod.get("restartPolicy", "Never") != "Never" and _has_second_autoscaler(cluster):
            yield f"group {name} has restartPolicy {pod['restartPolicy']}; with autoscaler v2 it must be Never or unset"
        if scales and group.get("suspend"):
            yield f"group {name} is suspended, which goes only without autoscaling; set maxReplicas to 0 instead"
        low, high = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
        if name != "head" and not low <= group.get("replicas", low) <= high:
            yield f"group {name} has {group.get('replicas')} replicas, not between {low} and {high}; change one of them"
    yield from _broken_by_options(cluster)


def _broken_by_options(cluster: dict[str, Any]) -> Iterator[str]:
    if read_path(cluster, "authOptions.mode") == "token":
        version = str(cluster.get("rayVersion", ""))
        found = re.match(r"(\d+)\.(\d+)", version)
        if found is None or (int(found[1]), int(found[2])) < _OLDEST_WITH_TOKENS:
            yield f"authOptions.mode is token and rayVersion is {version or 'not set'}; tokens need Ray 2.52 or newer"
    containers = read_path(cluster, "headGroupSpec.template.spec.containers") or [{}]
    env = {entry.get("name") for entry in containers[0].get("env") or []}
    for name in sorted({"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"} & env):
        yield f"the head sets {name}; use gcsFaultToleranceOptions"
    if "RAY_enable_autoscaler_v2" in env:
        yield "the head sets RAY_enable_autoscaler_v2; use autoscalerOptions.version"


def _has_second_autoscaler(cluster: dict[str, Any]) -> bool:
    return bool(read_path(cluster, "autoscalerOptions.version") == "v2")


def _broken_by_job(spec: dict[str, Any]) -> Iterator[str]:
    mode = spec.get("submissionMode", "K8sJobMode")
    cleans_up = bool(spec.get("shutdownAfterJobFinishes"))
    if bool(spec.get("rayClusterSpec")) == bool(spec.get("clusterSelector")):
        yield "exactly one of rayClusterSpec and clusterSelector says where the job runs; set one and drop the other"
    if spec.get("suspend") and not cleans_up:
        yield "a suspended job needs shutdownAfterJobFinishes: true; set it, and ttlSecondsAfterFinished for the delay"
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not cleans_up:
        yield "ttlSecondsAfterFinished works only with shutdownAfterJobFinishes: true; set that, or use deletionRules"
    if mode == "SidecarMode":
        for key in ("submitterPodTemplate", "submitterConfig", "clusterSelector"):
            if key in spec:
                yield f"{key} cannot be combined with SidecarMode; drop it or use K8sJobMode"
    if spec.get("backoffLimit", 0) > 0 and (mode == "InteractiveMode" or spec.get("clusterSelector")):
        yield "backoffLimit needs a cluster of the job's own: drop it, or clusterSelector and InteractiveMode"
    yield from _broken_by_deletion(spec, cleans_up=cleans_up)


def _broken_by_deletion(spec: dict[str, Any], *, cleans_up: bool) -> Iterator[str]:
    strategy = spec.get("deletionStrategy") or {}
    rules = strategy.get("deletionRules") or []
    old = [key for key in ("onSuccess", "onFailure") if key in strategy]
    if "deletionStrategy" in spec and (rules if old else not rules):
        yield "deletionStrategy has either deletionRules or, as before, onSuccess and onFailure; keep the rules"
    if len(old) == 1:
        yield f"deletionStrategy has {old[0]} alone; write deletionRules instead"
    if rules and cleans_up:
        yield "deletionRules and shutdownAfterJobFinishes exclude one another; keep the rules"
    if any(rule["policy"] == "DeleteWorkers" for rule in rules) and read_path(
        spec, "rayClusterSpec.enableInTreeAutoscaling"
    ):
        yield "the policy DeleteWorkers cannot be combined with autoscaling; use DeleteCluster"
    times: dict[str, dict[str, int]] = {}
    for rule in rules:
        condition = rule["condition"]
        if ("jobStatus" in condition) == ("jobDeploymentStatus" in condition):
            yield f"a condition of {rule['policy']} has exactly one of jobStatus and jobDeploymentStatus; keep one"
            continue
        state = str(condition.get("jobStatus") or condition.get("jobDeploymentStatus"))
        if rule["policy"] in times.setdefault(state, {}):
            yield f"two rules say when {rule['policy']} follows {state}; keep one"
        times[state][rule["policy"]] = condition.get("ttlSeconds", 0)
    for state, found in times.items():
        order = [found[name] for name in ("DeleteWorkers", "DeleteCluster", "DeleteSelf") if name in found]
        if order != sorted(order):
            yield f"after {state} workers must go first, then the cluster, then the job; put the times in that order"


def _broken_by_upgrade(spec: dict[str, Any]) -> Iterator[str]:
    strategy = spec.get("upgradeStrategy") or {}
    kinds = ("None", "NewCluster", "NewClusterWithIncrementalUpgrade")
    if strategy.get("type", "NewCluster") not in kinds:
        yield f"upgradeStrategy.type is {strategy['type']}; choose one of {', '.join(kinds)}"
    if strategy.get("type") != "NewClusterWithIncrementalUpgrade":
        return
    options = strategy.get("clusterUpgradeOptions") or {}
    if not read_path(spec, "rayClusterConfig.enableInTreeAutoscaling"):
        yield "an incremental upgrade moves replicas with the autoscaler; set enableInTreeAutoscaling: true"
    if not options.get("gatewayClassName"):
        yield "an incremental upgrade needs clusterUpgradeOptions.gatewayClassName; name a class of the Gateway API"
    step, surge = options.get("stepSizePercent"), options.get("maxSurgePercent", 100)
    if step is None or not 0 < step <= surge <= 100:
        yield f"stepSizePercent is {step} and maxSurgePercent {surge}; the step must be above 0 and at most the surge"
