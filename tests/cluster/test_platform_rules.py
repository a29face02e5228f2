"""Laws of our own manifests: what they name exists, fits together, and is safe to run."""

from collections.abc import Callable
from typing import Any

import pytest

from seedvr2_ray.cluster.manifests import Manifest
from seedvr2_ray.cluster.platform_rules import metric_names, replaced_options, required_secrets
from seedvr2_ray.cluster.validate import find_problems, require_valid
from seedvr2_ray.errors import SettingsError
from tests.cluster.rendered import OVERLAYS, manifests, the

Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_can_be_said_against_our_manifests(overlay: str) -> None:
    assert [str(problem) for problem in find_problems(manifests(overlay))] == []


def _problems(overlay: str, kind: str, change: Change) -> str:
    found = manifests(overlay)
    change(the(kind, found))
    return "; ".join(str(problem) for problem in find_problems(found))


def _edit_serve(old: str, new: str) -> Change:
    def change(body: dict[str, Any]) -> None:
        assert old in body["spec"]["serveConfigV2"]
        body["spec"]["serveConfigV2"] = body["spec"]["serveConfigV2"].replace(old, new)

    return change


def _gpu_group(body: dict[str, Any]) -> dict[str, Any]:
    return body["spec"]["rayClusterConfig"]["workerGroupSpecs"][1]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_edit_serve("gang_size: 8", "gang_size: 16"), "wants 16 GPUs in one machine (gang_size 16) and the largest"),
        (
            _edit_serve("gang_size: 8", "gangsize: 8"),
            "serveConfigV2 is refused by the service: models.seedvr2-7b-sharp",
        ),
        (_edit_serve("seedvr2-7b-sharp", "seedvr3"), "deploys a model that does not exist"),
        (_edit_serve("default_model: seedvr2-3b", "default_model: nano"), "default_model is nano, not among"),
        (_edit_serve("applications:", "apps:"), "is no configuration of one application"),
        (
            lambda body: body["spec"].update(rayClusterDeletionDelaySeconds=60),
            "an upgrade would cut it: set at least 660",
        ),
        (
            lambda body: _gpu_group(body)["template"]["spec"].update(terminationGracePeriodSeconds=30),
            "group h100-x8 has terminationGracePeriodSeconds 30",
        ),
    ],
)
def test_a_service_that_does_not_fit_together_is_found(change: Change, complaint: str) -> None:
    assert complaint in _problems("gangs", "RayService", change)


@pytest.mark.parametrize(
    ("overlay", "options", "complaint"),
    [
        ("h100-bulk", "--gang-size=16", "each restorer wants 16 GPUs in one machine (--gang-size 16) and the largest"),
        ("h100-bulk", "--gang-size 4 --gpus-per-worker 4", "wants 16 GPUs in one machine (--gang-size 4)"),
        ("h100-nightly", "--gang-size 9", "the largest machine of a group has 8; make the gang smaller"),
        ("laptop-bulk", "--gpus-per-worker 1", "the largest machine of a group has 0"),
        ("laptop-bulk", "--gang-size two", "is no command of seedvr2-ray batch"),
    ],
)
def test_an_archive_whose_gangs_fit_no_machine_is_found(overlay: str, options: str, complaint: str) -> None:
    def change(body: dict[str, Any]) -> None:
        job = body["spec"].get("jobTemplate") or body["spec"]
        job["entrypoint"] = job["entrypoint"].replace("--gpus-per-worker 1", "").strip() + f" {options}"

    assert complaint in _problems(overlay, "RayCronJob" if overlay == "h100-nightly" else "RayJob", change)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda it: it["securityContext"].pop("readOnlyRootFilesystem"), "may write to its image"),
        (lambda it: it["securityContext"].update(allowPrivilegeEscalation=True), "may gain rights"),
        (lambda it: it["securityContext"].pop("capabilities"), "keeps capabilities"),
        (lambda it: it["resources"]["limits"].pop("memory"), "has no limit of memory"),
        (lambda it: it.update(image="seedvr2-ray"), "without a version"),
        (lambda it: it.update(image="host:5000/seedvr2-ray:latest"), "without a version"),
    ],
)
def test_a_container_that_is_not_safe_is_found(change: Change, complaint: str) -> None:
    def in_head(body: dict[str, Any]) -> None:
        change(body["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0])

    assert complaint in _problems("laptop", "RayCluster", in_head)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda spec: spec["securityContext"].pop("runAsNonRoot"), "may run as root"),
        (lambda spec: spec["securityContext"].pop("seccompProfile"), "has no seccomp profile"),
        (lambda spec: spec.update(priorityClassName="first"), "names the PriorityClass first, which is not rendered"),
        (lambda spec: spec["volumes"][0]["persistentVolumeClaim"].update(claimName="x"), "PersistentVolumeClaim x"),
        (lambda spec: spec["volumes"][3]["emptyDir"].pop("sizeLimit"), "no cap on /dev/shm"),
    ],
)
def test_a_pod_that_is_not_safe_is_found(change: Change, complaint: str) -> None:
    def in_head(body: dict[str, Any]) -> None:
        for container in body["spec"]["headGroupSpec"]["template"]["spec"]["containers"]:
            container["securityContext"].pop("runAsNonRoot")
            container["securityContext"].pop("seccompProfile")
        change(body["spec"]["headGroupSpec"]["template"]["spec"])

    assert complaint in _problems("laptop", "RayCluster", in_head)


@pytest.mark.parametrize(
    ("kind", "change", "complaint"),
    [
        ("RayService", lambda body: body["spec"].update(serveConfig="x"), "'serveConfig' was unexpected"),
        (
            "RayService",
            lambda body: _gpu_group(body)["template"]["spec"].update(tolerationz=[]),
            "'tolerationz' was unexpected",
        ),
        ("RayCluster", lambda body: body["spec"]["workerGroupSpecs"][0].pop("template"), "'template' is a required"),
        ("RayCluster", lambda body: body["spec"].update(suspend="yes"), "'yes' is not of type 'boolean'"),
        ("Ingress", lambda body: body["spec"].update(rulez=[]), "'rulez' was unexpected"),
        ("Job", lambda body: body["spec"]["template"]["spec"].update(restart="Never"), "'restart' was unexpected"),
        ("PodMonitor", lambda body: body["spec"].update(endpoints=[]), "'endpoints' was unexpected"),
        ("PrometheusRule", lambda body: body["spec"]["groups"][1]["rules"][0].update(when="5m"), "is not valid under"),
        ("Ingress", lambda body: body.update(apiVersion="networking.k8s.io/v9"), "nothing is known of"),
    ],
)
def test_a_field_that_kubernetes_would_drop_is_an_error(kind: str, change: Change, complaint: str) -> None:
    assert complaint in _problems("h100", kind, change)


def test_one_sentence_says_the_first_problem_and_how_many_more_there_are() -> None:
    found = manifests("laptop")
    body = the("RayService", found)
    body["metadata"]["name"] = "n" * 60
    body["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["labels"] = "a=b"
    with pytest.raises(SettingsError, match=r"KubeRay takes 47 .* \(and 1 more; see seedvr2-ray cluster validate\)"):
        require_valid(found)


def test_secrets_are_known_with_the_keys_that_are_asked_for() -> None:
    found = required_secrets(manifests("laptop"))
    assert found["seedvr2-secrets"] == {"SEEDVR2_DATABASE_URL"}
    assert found["seedvr2-ray-token"] == {"auth_token"}
    assert found["seedvr2-redis"] == {"password"}
    assert "seedvr2-object-store" not in found, "it is optional"


def test_options_of_an_entrypoint_are_replaced_or_added_and_quoted() -> None:
    text = replaced_options(["seedvr2-ray", "batch", "--manifest", "a"], {"--manifest": "b c", "--model": "nano"})
    assert text == "seedvr2-ray batch --manifest 'b c' --model nano"


def test_metrics_are_found_in_expressions_and_labels_are_none() -> None:
    text = 'sum by (ray_io_group) (rate(ray_a_total{ray_b="x"}[5m])) / seedvr2:recorded'
    assert metric_names(text) >= {"ray_a_total"} and "ray_io_group" not in metric_names(text)


def test_a_manifest_without_a_pod_is_checked_too() -> None:
    problems = find_problems(
        [Manifest({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"p": 1}})]
    )
    assert "'p' was unexpected" in str(problems[0])
