"""Laws of what Ray's own autoscaler makes of our manifests: which machines it asks for, and when it gives them back."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay import node_provider
from ray.autoscaler._private.kuberay.autoscaling_config import (
    AutoscalingConfigProducer,
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler.v2.autoscaler import Autoscaler
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig, InstanceReconcileConfig, KubeRayConfigReader
from ray.core.generated import autoscaler_pb2

from seedvr2_ray.cluster.manifests import ray_cluster_of
from seedvr2_ray.cluster.platform_rules import gpus_of, service_config
from seedvr2_ray.gang.placement import bundles_of
from tests.cluster.api_server import api_server
from tests.cluster.autoscaler import changes
from tests.cluster.kuberay import NAME, NAMESPACE, Operator
from tests.cluster.rendered import every_manifest, manifests

CPU, ON_DEMAND, SPOT = "cpu", "h100-x8", "h100-x8-spot"
MANY = {CPU: 99, ON_DEMAND: 99, SPOT: 99}


class _Gcs:
    """What the head knows of nodes and of work that waits."""

    address = "127.0.0.1:1"

    def __init__(self) -> None:
        self.nodes: dict[bytes, Any] = {}
        self.waiting: list[dict[str, float]] = []
        self.together: list[list[dict[str, float]]] = []
        """Bundles that must be on one machine."""
        self.drained: list[str] = []
        self.start(f"{NAME}-head", {"groupName": "headgroup"}, {"node:__internal_head__": 1.0})

    def start(self, pod: str, group: dict[str, Any], resources: dict[str, float] | None = None) -> bytes:
        """A node that has just come."""
        if resources is None:
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            resources = {"CPU": float(limits["cpu"]), "GPU": gpus_of(group)}
        node = autoscaler_pb2.NodeState(
            node_id=pod.encode(),
            instance_id=pod,
            ray_node_type_name=group["groupName"],
            status=autoscaler_pb2.NodeStatus.RUNNING,
            total_resources=resources,
            available_resources=resources,
            labels=group.get("labels"),
        )
        self.nodes[node.node_id] = node
        return node.node_id

    def stop(self, node: bytes) -> None:
        self.nodes[node].status = autoscaler_pb2.NodeStatus.DEAD

    def idle(self, node: bytes, seconds: float) -> None:
        """Let a node have had nothing to do for a time."""
        self.nodes[node].status = autoscaler_pb2.NodeStatus.IDLE
        self.nodes[node].idle_duration_ms = int(1000 * seconds)

    def get_cluster_resource_state(self) -> bytes:
        request = autoscaler_pb2.ResourceRequest
        state = autoscaler_pb2.ClusterResourceState(
            node_states=self.nodes.values(),
            pending_resource_requests=[
                autoscaler_pb2.ResourceRequestByCount(request=request(resources_bundle=bundle), count=1)
                for bundle in self.waiting
            ],
            pending_gang_resource_requests=[
                autoscaler_pb2.GangResourceRequest(
                    bundle_selectors=[
                        autoscaler_pb2.BundleSelector(resource_requests=[request(resources_bundle=_sum(bundles))])
                    ],
                    requests=[request(resources_bundle=_sum(bundles))],
                )
                for bundles in self.together
            ],
        )
        return autoscaler_pb2.GetClusterResourceStateReply(cluster_resource_state=state).SerializeToString()

    def drain_node(self, node_id: str, **why: Any) -> tuple[bool, str]:
        self.drained.append(bytes.fromhex(node_id).decode())
        self.stop(bytes.fromhex(node_id))
        return True, ""


def _sum(bundles: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(bundle.get(name, 0) for bundle in bundles) for name in {n for b in bundles for n in b}}


class _Scaled:
    """A cluster between what waits and what is there."""

    def __init__(self, operator: Operator, gcs: _Gcs, autoscaler: Autoscaler) -> None:
        self.operator, self.gcs, self.autoscaler = operator, gcs, autoscaler

    def pods(self, *, rounds: int = 4) -> dict[str, int]:
        """Let autoscaler and operator act, and count pods by group."""
        for _ in range(rounds):
            assert self.autoscaler.update_autoscaling_state() is not None
            self.operator.step()
        counts = {name: len(self.operator.pods(name)) for name in (CPU, ON_DEMAND, SPOT)}
        return {name: count for name, count in counts.items() if count}


@pytest.fixture
def scaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Make the cluster of an overlay's service, with what its provider has."""
    with api_server(tmp_path) as (store, kubeconfig):
        server = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
        for name, value in changes(server).items():
            monkeypatch.setattr(node_provider, name, value)

        def make(overlay: str, provider: dict[str, int]) -> _Scaled:
            (service,) = [manifest for manifest in manifests(overlay) if manifest.kind == "RayService"]
            gcs = _Gcs()
            operator = Operator(store, provider, gcs.start, gcs.stop)
            operator.begin(copy.deepcopy(ray_cluster_of(service) or {}))
            operator.step()
            reader = KubeRayConfigReader(AutoscalingConfigProducer(NAME, NAMESPACE))
            return _Scaled(operator, gcs, Autoscaler("session", reader, gcs))

        yield make


def _replicas(overlay: str, model: str, num: int) -> list[dict[str, float]]:
    (service,) = [manifest for manifest in manifests(overlay) if manifest.kind == "RayService"]
    pool = service_config(service).models[model]
    return [{"GPU": pool.num_gpus, "CPU": pool.num_cpus}] * num


@pytest.mark.slow
def test_ray_sees_the_machines_that_a_manifest_means() -> None:
    for overlay, manifest in every_manifest():
        spec = ray_cluster_of(manifest)
        if spec is None:
            continue
        body = {"metadata": {"name": "a", "namespace": "b"}, "spec": spec}
        seen = _derive_autoscaling_config_from_ray_cr(body)["available_node_types"]
        assert seen["headgroup"]["resources"]["CPU"] == 0, f"{overlay}: nothing may run on the head"
        for group in spec["workerGroupSpecs"]:
            there = seen[group["groupName"]]
            assert there["resources"].get("GPU", 0) == gpus_of(group), f"{overlay}: {group['groupName']}"
            assert (there["min_workers"], there["max_workers"]) == (group["minReplicas"], group["maxReplicas"])


@pytest.mark.slow
def test_nothing_that_waits_asks_for_no_machine(scaled: Any) -> None:
    assert scaled("h100-spot", MANY).pods() == {CPU: 1}


@pytest.mark.slow
@pytest.mark.parametrize(("num", "machines"), [(1, 1), (8, 1), (9, 2), (24, 3)])
def test_replicas_that_wait_bring_as_many_spot_machines_as_they_fill(scaled: Any, num: int, machines: int) -> None:
    cluster = scaled("h100-spot", MANY)
    cluster.gcs.waiting = _replicas("h100-spot", "seedvr2-3b", num)
    assert cluster.pods(rounds=3) == {CPU: 1, SPOT: machines}


@pytest.mark.slow
def test_there_are_never_more_machines_than_the_groups_may_have(scaled: Any) -> None:
    cluster = scaled("h100-spot", MANY)
    cluster.gcs.waiting = _replicas("h100-spot", "seedvr2-3b", 999)
    assert cluster.pods(rounds=3) == {CPU: 1, SPOT: 16, ON_DEMAND: 8}


@pytest.mark.slow
def test_work_without_a_gpu_brings_no_machine_with_gpus(scaled: Any) -> None:
    cluster = scaled("h100-spot", MANY)
    cluster.gcs.waiting = [{"CPU": 1.0}] * 20
    assert cluster.pods(rounds=3) == {CPU: 3}


@pytest.mark.slow
def test_a_spot_machine_that_does_not_come_is_replaced_by_one_on_demand(
    scaled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = scaled("h100-spot", {**MANY, SPOT: 0})
    cluster.gcs.waiting = _replicas("h100-spot", "seedvr2-3b", 1)
    assert cluster.pods() == {CPU: 1, SPOT: 1}, "it is waited for"
    waited = replace(InstanceReconcileConfig(), allocate_status_timeout_s=-1)
    with monkeypatch.context() as patience:
        patience.setattr(AutoscalingConfig, "get_instance_reconcile_config", lambda self: waited)
        cluster.pods(rounds=1)
    assert cluster.pods() == {CPU: 1, ON_DEMAND: 1}


@pytest.mark.slow
def test_a_machine_without_work_is_drained_before_it_is_given_back(scaled: Any) -> None:
    cluster = scaled("h100-spot", MANY)
    cluster.gcs.waiting = _replicas("h100-spot", "seedvr2-3b", 1)
    cluster.pods()
    cluster.gcs.waiting = []
    (pod,) = cluster.operator.pods(SPOT)
    cluster.gcs.idle(cluster.operator.nodes[pod], 299)
    assert cluster.pods() == {CPU: 1, SPOT: 1} and cluster.gcs.drained == []
    cluster.gcs.idle(cluster.operator.nodes[pod], 301)
    assert cluster.pods(rounds=5) == {CPU: 1} and cluster.gcs.drained == [pod]


@pytest.mark.slow
def test_gangs_fill_machines(scaled: Any) -> None:
    cluster = scaled("gangs", MANY)
    (service,) = [manifest for manifest in manifests("gangs") if manifest.kind == "RayService"]
    pools = [pool for pool in service_config(service).models.values() if pool.gang_size > 1]
    assert sorted(pool.gang_size for pool in pools) == [4, 8]
    cluster.gcs.together = [
        bundles_of(pool.gang_size, num_gpus=pool.num_gpus, num_cpus=pool.num_cpus)
        for pool in pools
        for _ in range(16 // pool.gang_size)
    ]
    assert cluster.pods(rounds=3) == {CPU: 1, ON_DEMAND: 4}
