"""Laws of what KubeRay's operator would refuse: each rule is kept by our manifests and broken by one change."""

from collections.abc import Callable
from typing import Any

import pytest

from seedvr2_ray.cluster.manifests import Manifest
from seedvr2_ray.cluster.operator_rules import LONGEST_NAMES, broken_operator_rules
from tests.cluster.rendered import every_manifest, manifests, the

Change = Callable[[dict[str, Any]], Any]


def _cluster(body: dict[str, Any]) -> dict[str, Any]:
    return body["spec"].get("rayClusterConfig") or body["spec"]["rayClusterSpec"]


def _broken(overlay: str, kind: str, change: Change) -> str:
    body = the(kind, manifests(overlay))
    assert list(broken_operator_rules(Manifest(body))) == []
    change(body)
    return "; ".join(broken_operator_rules(Manifest(body)))


def test_our_manifests_keep_every_rule() -> None:
    for overlay, manifest in every_manifest():
        assert list(broken_operator_rules(manifest)) == [], f"{overlay}: {manifest.label}"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda job: job["spec"].update(suspend=True), "a suspended job needs shutdownAfterJobFinishes"),
        (lambda job: job["spec"].update(shutdownAfterJobFinishes=True), "exclude one another"),
        (lambda job: job["spec"].update(ttlSecondsAfterFinished=5), "works only with shutdownAfterJobFinishes"),
        (lambda job: job["spec"].update(clusterSelector={"ray.io/cluster": "a"}), "exactly one of rayClusterSpec"),
        (lambda job: job["spec"].update(submissionMode="SidecarMode"), "submitterPodTemplate cannot be combined"),
        (lambda job: job["spec"].update(submissionMode="InteractiveMode"), "backoffLimit needs a cluster of the job"),
        (
            lambda job: job["spec"]["deletionStrategy"]["deletionRules"][0].update(policy="DeleteWorkers"),
            "DeleteWorkers cannot be combined with autoscaling",
        ),
        (
            lambda job: job["spec"]["deletionStrategy"]["deletionRules"][2]["condition"].update(ttlSeconds=1),
            "after SUCCEEDED workers must go first",
        ),
        (
            lambda job: job["spec"]["deletionStrategy"]["deletionRules"].append(
                job["spec"]["deletionStrategy"]["deletionRules"][0]
            ),
            "two rules say when DeleteCluster follows SUCCEEDED",
        ),
        (lambda job: job["spec"].update(managedBy="us"), "managedBy is us; choose one of ray.io/kuberay-operator"),
        (lambda job: job["spec"]["rayClusterSpec"].update(managedBy="us"), "managedBy is us"),
        (lambda job: job["spec"]["deletionStrategy"].pop("deletionRules"), "either deletionRules or, as before"),
        (
            lambda job: job["spec"]["deletionStrategy"].update(onSuccess={"policy": "DeleteSelf"}),
            "either deletionRules or, as before, onSuccess and onFailure",
        ),
        (
            lambda job: job["spec"].update(deletionStrategy={"onSuccess": {"policy": "DeleteSelf"}}),
            "has onSuccess alone",
        ),
        (
            lambda job: job["spec"]["deletionStrategy"]["deletionRules"][0]["condition"].pop("jobStatus"),
            "a condition of DeleteCluster has exactly one of jobStatus and jobDeploymentStatus",
        ),
    ],
)
def test_a_job_that_the_operator_would_refuse_is_found(change: Change, complaint: str) -> None:
    assert complaint in _broken("h100-bulk", "RayJob", change)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda it: it["headGroupSpec"].update(resources={"CPU": "1"}), "both in rayStartParams and in resources"),
        (lambda it: it["headGroupSpec"]["rayStartParams"].update(labels="a=b"), "the group's own field labels"),
        (lambda it: it["headGroupSpec"]["template"]["spec"].update(restartPolicy="Always"), "restartPolicy Always"),
        (lambda it: it["headGroupSpec"]["template"]["spec"].update(containers=[]), "group head has no container"),
        (lambda it: it.update(rayVersion="2.51.0"), "tokens need Ray 2.52"),
        (lambda it: it.pop("rayVersion"), "rayVersion is not set"),
        (lambda it: it["workerGroupSpecs"][0].update(suspend=True), "only without autoscaling"),
        (lambda it: it["workerGroupSpecs"][1].update(groupName="cpu"), "two groups are called cpu"),
        (lambda it: it["workerGroupSpecs"][1].update(replicas=99), "99 replicas, not between 0 and 8"),
        (
            lambda it: it["headGroupSpec"]["template"]["spec"]["containers"][0]["env"].append(
                {"name": "REDIS_PASSWORD"}
            ),
            "the head sets REDIS_PASSWORD",
        ),
    ],
)
def test_a_cluster_that_the_operator_would_refuse_is_found(change: Change, complaint: str) -> None:
    assert complaint in _broken("h100", "RayService", lambda body: change(_cluster(body)))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"stepSizePercent": 10, "intervalSeconds": 30}, "gatewayClassName"),
        ({"stepSizePercent": 60, "maxSurgePercent": 50, "gatewayClassName": "istio"}, "stepSizePercent is 60"),
        ({"gatewayClassName": "istio"}, "stepSizePercent is None"),
    ],
)
def test_an_incremental_upgrade_that_cannot_go_is_found(options: dict[str, Any], complaint: str) -> None:
    strategy = {"type": "NewClusterWithIncrementalUpgrade", "clusterUpgradeOptions": options}
    assert complaint in _broken("h100", "RayService", lambda body: body["spec"].update(upgradeStrategy=strategy))


@pytest.mark.parametrize("kind", sorted(LONGEST_NAMES))
def test_a_name_is_as_long_as_the_operator_takes(kind: str) -> None:
    overlay = {"RayCronJob": "h100-nightly", "RayJob": "h100-bulk"}.get(kind, "h100")
    limit = LONGEST_NAMES[kind]
    body = the(kind, manifests(overlay))
    body["metadata"]["name"] = "n" * limit
    assert list(broken_operator_rules(Manifest(body))) == []
    body["metadata"]["name"] = "n" * (limit + 1)
    assert f"has {limit + 1} characters and KubeRay takes {limit}" in "; ".join(broken_operator_rules(Manifest(body)))
    body["metadata"]["name"] = "7up"
    assert "must begin with a letter" in "; ".join(broken_operator_rules(Manifest(body)))


def test_a_schedule_has_five_fields() -> None:
    assert "five fields" in _broken("h100-nightly", "RayCronJob", lambda body: body["spec"].update(schedule="@often"))
