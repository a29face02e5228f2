"""One Kubernetes object, and what of it the rest of this folder wants to know."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

CLUSTER_SCOPED = frozenset({"Namespace", "PriorityClass", "ClusterRole", "ClusterRoleBinding", "StorageClass"})
"""Kinds that belong to no namespace."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """An object as it would be sent to Kubernetes."""

    body: dict[str, Any]

    @property
    def kind(self) -> str:
        """Such as RayService."""
        return str(self.body.get("kind", ""))

    @property
    def api_version(self) -> str:
        """Such as ray.io/v1."""
        return str(self.body.get("apiVersion", ""))

    @property
    def name(self) -> str:
        """Unique among the objects of its kind and namespace."""
        return str((self.body.get("metadata") or {}).get("name", ""))

    @property
    def namespace(self) -> str | None:
        """None for kinds that belong to the whole cluster."""
        return (self.body.get("metadata") or {}).get("namespace")

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class PodSpec:
    """A pod that an object asks for."""

    owner: Manifest
    path: str
    """Where in the object it stands, such as ``spec.rayClusterConfig.headGroupSpec.template``."""
    template: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """Those that run, and those that run before them."""
        spec = self.template.get("spec") or {}
        return [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]


def ray_cluster_of(manifest: Manifest) -> dict[str, Any] | None:
    """Return the description of the Ray cluster that an object starts, if it starts one."""
    found = ray_cluster_place(manifest)
    return None if found is None else found[1]


def ray_cluster_place(manifest: Manifest) -> tuple[str, dict[str, Any]] | None:
    """Return where in an object its Ray cluster is described, and the description."""
    paths = {
        "RayCluster": "spec",
        "RayService": "spec.rayClusterConfig",
        "RayJob": "spec.rayClusterSpec",
        "RayCronJob": "spec.jobTemplate.rayClusterSpec",
    }
    path = paths.get(manifest.kind)
    found = None if path is None else read_path(manifest.body, path)
    return (path, found) if path is not None and isinstance(found, dict) else None


def read_path(body: Any, path: str) -> Any:
    """Return what stands at a dotted path of mappings, or None."""
    for step in path.split("."):
        body = body.get(step) if isinstance(body, dict) else None
    return body


def pods_of(manifest: Manifest) -> Iterator[PodSpec]:
    """Yield every pod template inside an object, wherever it stands."""

    def walk(node: Any, path: str) -> Iterator[PodSpec]:
        if isinstance(node, dict):
            spec = node.get("spec")
            if isinstance(spec, dict) and isinstance(spec.get("containers"), list):
                yield PodSpec(manifest, path, node)
                return
            for key, value in node.items():
                yield from walk(value, f"{path}.{key}" if path else key)
        elif isinstance(node, list):
            for index, value in enumerate(node):
                yield from walk(value, f"{path}[{index}]")

    yield from walk(manifest.body, "")
