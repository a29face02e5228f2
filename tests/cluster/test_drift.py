"""Laws of drift: every name in a manifest that the code or Ray gives is one that they still give."""

import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import ray
import typer
import yaml
from ray._private import ray_constants
from ray.autoscaler._private.constants import AUTOSCALER_METRIC_PORT
from ray.dashboard.consts import DASHBOARD_METRIC_PORT
from typer.main import get_command

import seedvr2_ray
from seedvr2_ray.cli.main import app
from seedvr2_ray.cluster.manifests import Manifest, pods_of, ray_cluster_of, read_path
from seedvr2_ray.cluster.platform_rules import entrypoint_of, metric_names, required_secrets, service_config
from seedvr2_ray.serve.app import build
from seedvr2_ray.telemetry import metrics
from tests.cluster.rendered import FOLDER, ROOT, every_manifest

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
_OTHERS = {"HOME", "POSTGRES_USER", "POSTGRES_PASSWORD", "PGDATA", "REDIS_PASSWORD"}
"""Variables of the system and of images that are not ours."""


@cache
def _sources(package: str) -> str:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    return "\n".join(path.read_text(errors="replace") for path in sorted(Path(spec.origin).parent.rglob("*.py")))


def _of_kind(*kinds: str) -> list[Manifest]:
    found = [manifest for _, manifest in every_manifest() if manifest.kind in kinds]
    assert found
    return found


@pytest.mark.slow
def test_images_have_the_packages_version_and_a_stage_of_the_dockerfile() -> None:
    stages = set(re.findall(r"^FROM .+ AS (\w+)$", (FOLDER / "docker" / "Dockerfile").read_text(), re.MULTILINE))
    tags = {
        container["image"].partition(":")[2]
        for _, manifest in every_manifest()
        for pod in pods_of(manifest)
        for container in pod.containers
        if container["image"].startswith("seedvr2-ray")
    }
    assert tags == {f"{seedvr2_ray.__version__}-{stage}" for stage in ("cpu", "cuda")}
    assert {"cpu", "cuda"} <= stages


def test_clusters_run_the_version_of_ray_that_is_pinned() -> None:
    versions = {ray_cluster_of(manifest)["rayVersion"] for manifest in _of_kind("RayCluster", "RayService", "RayJob")}  # type: ignore[index]
    assert versions == {ray.__version__}


def test_ports_are_those_that_ray_and_serve_listen_on() -> None:
    known = {
        "gcs-server": ray_constants.DEFAULT_PORT,
        "dashboard": ray_constants.DEFAULT_DASHBOARD_PORT,
        "client": 10001,
        "as-metrics": AUTOSCALER_METRIC_PORT,
        "dash-metrics": DASHBOARD_METRIC_PORT,
        "metrics": 8080,
    }
    for service in _of_kind("RayService"):
        options = yaml.safe_load(service.body["spec"]["serveConfigV2"])["http_options"]
        cluster = ray_cluster_of(service) or {}
        (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
        assert {port["name"]: port["containerPort"] for port in head["ports"]} == known
        for group in cluster["workerGroupSpecs"]:
            (worker,) = group["template"]["spec"]["containers"]
            assert {port["name"]: port["containerPort"] for port in worker["ports"]} == {
                "serve": options["port"],
                "metrics": known["metrics"],
            }
        assert options["host"] == "0.0.0.0"
    for ingress in _of_kind("Ingress"):
        backend = ingress.body["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
        assert backend == {"name": "seedvr2-serve-svc", "port": {"number": 8000}}


def test_network_policies_open_only_ports_that_pods_have() -> None:
    named = {
        port["containerPort"]
        for _, manifest in every_manifest()
        for pod in pods_of(manifest)
        for container in pod.containers
        for port in container.get("ports") or []
    }
    opened = {
        port["port"]
        for policy in _of_kind("NetworkPolicy")
        for rule in policy.body["spec"].get("ingress") or []
        for port in rule.get("ports") or []
    }
    assert opened and opened <= named


def test_variables_are_read_by_the_code_or_by_ray() -> None:
    names = {
        entry["name"]
        for _, manifest in every_manifest()
        for pod in pods_of(manifest)
        for container in pod.containers
        for entry in container.get("env") or []
    } - _OTHERS
    assert {"SEEDVR2_DATABASE_URL", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"} <= names
    readers = {"SEEDVR2": "seedvr2_ray", "RAY": "ray._private", "HF": "huggingface_hub"}
    for name in sorted(names):
        package = "ray.serve._private" if name.startswith("RAY_SERVE_") else readers[name.partition("_")[0]]
        assert f'"{name}"' in _sources(package), f"nobody reads {name}"


def test_variables_of_the_autoscaler_are_read_by_it() -> None:
    names = {
        entry["name"]
        for manifest in _of_kind("RayCluster", "RayService", "RayJob", "RayCronJob")
        for entry in read_path(ray_cluster_of(manifest), "autoscalerOptions.env") or []
    }
    assert names == {"RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S"}
    assert all(f'"{name}"' in _sources("ray.autoscaler.v2") for name in names)


def test_commands_are_ones_that_the_command_line_takes() -> None:
    command = get_command(app)
    entrypoints = [entrypoint_of(manifest) for manifest in _of_kind("RayJob", "RayCronJob")]
    commands = [
        container["command"]
        for _, manifest in every_manifest()
        for pod in pods_of(manifest)
        for container in pod.containers
        if container["image"].startswith("seedvr2-ray") and "command" in container
    ]
    for words in [*entrypoints, *(words for words in commands if words[0] != "sh")]:
        assert words[0] == "seedvr2-ray"
        group, rest = command, words[1:]
        while isinstance(group, typer.core.TyperGroup) and rest[0] in group.commands:
            group, rest = group.commands[rest[0]], rest[1:]  # type: ignore[assignment]
        group.make_context(words[0], list(rest))  # Raises on an option or a value that it does not take.
    for words in (words for words in commands if words[0] == "sh"):
        assert re.search(r"seedvr2-ray models pull \$model", words[-1])


def test_models_that_are_served_are_fetched_before() -> None:
    for overlay, manifest in every_manifest():
        if manifest.kind == "RayService":
            fetched = " ".join(
                word
                for pod in pods_of(manifest)
                for container in pod.containers
                if container["name"] == "weights"
                for word in container["command"]
            )
            for model in service_config(manifest).models:
                assert model in ("nano", "lanczos") or model in fetched, f"{overlay}: {model} is not fetched"


def test_serve_starts_what_the_service_builds() -> None:
    for service in _of_kind("RayService"):
        (application,) = yaml.safe_load(service.body["spec"]["serveConfigV2"])["applications"]
        assert application["import_path"] == f"{build.__module__}:{build.__name__}"
        assert set(application) <= {"name", "route_prefix", "import_path", "args", "deployments"}


def _expressions() -> dict[str, str]:
    rules = {
        rule.get("alert") or rule["record"]: rule["expr"]
        for manifest in _of_kind("PrometheusRule")
        for group in manifest.body["spec"]["groups"]
        for rule in group["rules"]
    }
    panels = {
        panel["title"]: " + ".join(target["expr"] for target in panel["targets"])
        for config in _of_kind("ConfigMap")
        for text in config.body["data"].values()
        for panel in json.loads(text)["panels"]
    }
    assert len(rules) > 8 and len(panels) > 15
    return rules | panels


def _exported() -> set[str]:
    """What the package's own metrics are called when Prometheus reads them from Ray."""
    counters = {f"ray_{name}_total" for name in metrics._COUNTERS}
    histograms = {f"ray_{name}_{end}" for name in metrics._HISTOGRAMS for end in ("bucket", "sum", "count")}
    return counters | {f"ray_{name}" for name in metrics._GAUGES} | histograms


def test_metrics_in_rules_and_dashboards_are_exported_by_the_code_or_by_ray() -> None:
    rays = _sources("ray.dashboard") + _sources("ray.serve")
    for title, expression in _expressions().items():
        for name in metric_names(expression):
            if name.startswith("ray_seedvr2_"):
                assert name in _exported(), f"{title}: {name} is not exported"
            else:
                bare = name.removeprefix("ray_").removesuffix("_total")
                assert re.search(rf'"{bare}(_total)?"', rays), f"{title}: Ray exports no {name}"


def test_states_in_rules_are_ones_that_are_counted() -> None:
    states = {state for text in _expressions().values() for state in re.findall(r'state="(\w+)"', text)}
    code = _sources("seedvr2_ray")
    assert states == {"failed", "quarantined"}
    assert all(f'"{state}"' in code for state in states)


def test_recorded_names_are_used_and_used_ones_recorded() -> None:
    recorded = {
        rule["record"]
        for manifest in _of_kind("PrometheusRule")
        for group in manifest.body["spec"]["groups"]
        for rule in group["rules"]
        if "record" in rule
    }
    used = {name for text in _expressions().values() for name in re.findall(r"\bseedvr2:[a-z0-9_:]+", text)}
    assert used == recorded


def test_pod_monitors_scrape_ports_that_pods_have() -> None:
    ports = {
        port["name"]
        for _, manifest in every_manifest()
        for pod in pods_of(manifest)
        for container in pod.containers
        for port in container.get("ports") or []
    }
    (names, *rest) = [
        {endpoint["port"] for endpoint in monitor.body["spec"]["podMetricsEndpoints"]}
        for monitor in _of_kind("PodMonitor")
    ]
    assert names <= ports and all(other == names for other in rest)


def test_operations_explains_every_alert_and_every_secret() -> None:
    alerts = {
        rule["alert"]
        for manifest in _of_kind("PrometheusRule")
        for group in manifest.body["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    secrets = required_secrets([manifest for _, manifest in every_manifest()])
    for name in sorted(alerts | set(secrets) | set().union(*secrets.values())):
        assert name in OPERATIONS, f"docs/operations.md does not say what {name} is"


def test_every_overlay_is_described() -> None:
    for overlay in sorted({overlay for overlay, _ in every_manifest()}):
        assert f"`{overlay}`" in OPERATIONS, f"docs/operations.md leaves out {overlay}"


@pytest.mark.parametrize("kind", ["RayService", "RayJob", "RayCronJob"])
def test_machines_are_written_down_once(kind: str) -> None:
    for overlay, manifest in every_manifest():
        if manifest.kind == kind:
            fleet = next(m for o, m in every_manifest() if o == overlay and m.kind == "RayCluster")
            cluster = ray_cluster_of(manifest) or {}
            for field in ("headGroupSpec", "workerGroupSpecs", "authOptions", "rayVersion", "enableInTreeAutoscaling"):
                assert cluster[field] == read_path(fleet.body, f"spec.{field}")
