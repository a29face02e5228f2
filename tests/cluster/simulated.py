"""Ray nodes of this machine as the machines of a RayCluster, with Ray's own autoscaler. Not a test module."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from seedvr2_ray.cluster.platform_rules import gpus_of
from tests.cluster.api_server import Store
from tests.cluster.kuberay import NAME, NAMESPACE, Operator
from tests.ray_nodes import NOTICES_LOSS_SOON, SMALL_NODE

_ROOT = Path(__file__).parents[2]


@contextmanager
def _environ(**added: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _in_pod(pod: str, group: str) -> Any:
    """The variables by which Ray's autoscaler knows a pod's node; the operator sets them."""
    return _environ(RAY_CLOUD_INSTANCE_ID=pod, RAY_NODE_TYPE_NAME=group)


@contextmanager
def operated(
    store: Store, server: str, spec: Mapping[str, Any], provider: dict[str, int], log: Path
) -> Iterator[tuple[Operator, Cluster]]:
    """Run a RayCluster; whoever asks for it calls :meth:`Operator.step`, in the main thread.

    Args:
        store: of the API server at ``server``.
        spec: of the RayCluster.
        provider: machines of each group that can be had.
        log: what the autoscaler writes.
    """

    def start(pod: str, group: dict[str, Any]) -> Any:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        with _in_pod(pod, group["groupName"]):
            return cluster.add_node(
                num_cpus=int(limits["cpu"]), num_gpus=int(gpus_of(group)), labels=group.get("labels"), **SMALL_NODE
            )

    head = {"num_cpus": 0, "no_monitor": True, "_system_config": NOTICES_LOSS_SOON, **SMALL_NODE}
    said = {entry["name"]: entry["value"] for entry in spec["autoscalerOptions"].get("env") or []}
    with _environ(PYTHONPATH=str(_ROOT), OMP_NUM_THREADS="1"):
        with _in_pod(f"{NAME}-head", "headgroup"):
            cluster = Cluster(initialize_head=True, head_node_args=head)
        operator = Operator(store, provider, start, cluster.remove_node)
        operator.begin(dict(spec))
        command = [sys.executable, "-m", "tests.cluster.autoscaler", cluster.address, server, NAME, NAMESPACE]
        try:
            ray.init(address=cluster.address, log_to_driver=False)
            operator.step()
            with (
                log.open("wb") as out,
                subprocess.Popen(
                    command,
                    cwd=_ROOT,
                    env={**os.environ, **said, "AUTOSCALER_UPDATE_INTERVAL_S": "1"},
                    stdout=out,
                    stderr=out,
                ) as autoscaler,
            ):
                try:
                    yield operator, cluster
                finally:
                    autoscaler.kill()
        finally:
            ray.shutdown()
            cluster.shutdown()
