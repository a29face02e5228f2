"""Schemas of objects that Kubernetes itself does not know, as values that ``jsonschema`` understands.

``*.json.gz`` are KubeRay 1.7's, without descriptions and status; ``monitoring.json`` says what of Prometheus' operator
is used.
"""

import gzip
import json
from functools import cache
from importlib.resources import files
from typing import Any

_KUBERAY = {
    ("ray.io/v1", kind): f"{kind.lower()}.v1.json.gz" for kind in ("RayCluster", "RayService", "RayJob", "RayCronJob")
}


@cache
def schema_of(api_version: str, kind: str) -> dict[str, Any] | None:
    """Return the schema of a kind, made strict: what it does not list is an error. None for kinds unknown here."""
    folder = files(__name__)
    if api_version == "monitoring.coreos.com/v1":
        known: dict[str, Any] = json.loads((folder / "monitoring.json").read_text())
        return known.get(kind)
    name = _KUBERAY.get((api_version, kind))
    if name is None:
        return None
    schema: dict[str, Any] = _strict(json.loads(gzip.decompress((folder / name).read_bytes())))
    # The schemas leave what every object has in common to Kubernetes.
    schema["properties"]["metadata"] = _METADATA
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return schema


_METADATA = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


def _strict(node: Any) -> Any:
    """Close every object that lists its fields; Kubernetes would drop unknown ones without a word."""
    if isinstance(node, list):
        return [_strict(child) for child in node]
    if not isinstance(node, dict):
        return node
    closed = {key: _strict(value) for key, value in node.items()}
    if isinstance(node.get("properties"), dict) and node.get("type") == "object":
        if not node.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
    if node.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
        closed["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return closed
