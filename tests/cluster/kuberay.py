"""KubeRay's operator in small: it makes and removes pods of a RayCluster as its description says. Not a test module.

What it is told it learns from an API server, as the real one does: who scales changes ``replicas`` and
``workersToDelete`` of a group. What it does not do: restart heads, upgrade, run probes.
"""

import copy
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.api_server import Store

NAME = "seedvr2-abc"
NAMESPACE = "seedvr2"


@dataclass
class Operator:
    """One cluster, whose pods wait until the provider has a machine for them."""

    store: Store
    provider: dict[str, int]
    """Machines of each group that can be had."""
    start: Callable[[str, dict[str, Any]], Any]
    """Starts Ray on a machine, given the pod's name and its group, and returns the node."""
    stop: Callable[[Any], None]
    nodes: dict[str, Any] = field(default_factory=dict)
    """By pod."""
    _made: Counter[str] = field(default_factory=Counter)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def begin(self, spec: dict[str, Any]) -> None:
        """Take a RayCluster over: its head is there, and what the operator writes into it is written."""
        spec = copy.deepcopy(spec)
        for group in spec["workerGroupSpecs"]:
            group.setdefault("scaleStrategy", {})
        self.store.put("rayclusters", {"metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": spec})
        self._put(f"{NAME}-head", "headgroup", is_there=True, kind="head")

    def step(self) -> None:
        """Make what the description says true, as far as there are machines."""
        with self._lock:
            for group in self.store.objects["rayclusters", NAME]["spec"]["workerGroupSpecs"]:
                name = group["groupName"]
                for pod in group["scaleStrategy"].get("workersToDelete") or []:
                    self._delete(pod)
                for _ in range(len(self.pods(name)), max(group["replicas"], group["minReplicas"])):
                    self._made[name] += 1
                    self._put(f"{NAME}-{name}-{self._made[name]}", name, is_there=False)
                pods = self.pods(name)
                waiting = [pod for pod in pods if pod not in self.nodes]
                for pod in waiting[: max(0, self.provider[name] - len(pods) + len(waiting))]:
                    self.nodes[pod] = self.start(pod, group)
                    self._put(pod, name, is_there=True)

    def lose(self, pod: str, take_away: Callable[[Any], None]) -> None:
        """Lose a machine, as one goes that was cheap; the provider has no other in its place."""
        with self._lock:
            self.provider[self.store.objects["pods", pod]["metadata"]["labels"]["ray.io/group"]] -= 1
            take_away(self.nodes.pop(pod))
            del self.store.objects["pods", pod]

    def pods(self, group: str) -> list[str]:
        """Return the pods of a group."""
        return [
            name
            for (kind, name), body in sorted(self.store.objects.items())
            if kind == "pods" and body["metadata"]["labels"]["ray.io/group"] == group
        ]

    def _put(self, pod: str, group: str, *, is_there: bool, kind: str = "worker") -> None:
        labels = {"ray.io/cluster": NAME, "ray.io/group": group, "ray.io/node-type": kind}
        waits = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no machine is free"}
        status: dict[str, Any] = {"phase": "Pending", "conditions": [waits]}
        if is_there:
            status = {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"state": {"running": {}}}],
            }
        self.store.put("pods", {"metadata": {"name": pod, "labels": labels}, "status": status})

    def _delete(self, pod: str) -> None:
        if ("pods", pod) in self.store.objects:
            if pod in self.nodes:
                self.stop(self.nodes.pop(pod))
            del self.store.objects["pods", pod]
