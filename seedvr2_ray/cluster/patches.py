"""Changes of objects: JSON patches (RFC 6902) and merge patches (RFC 7386), as kustomize applies them to ray.io kinds.

For Kubernetes' own kinds kustomize merges lists by key, which a merge patch does not: those take JSON patches only.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from seedvr2_ray.errors import SettingsError


def apply_json_patch(body: dict[str, Any], operations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return an object after operations of RFC 6902: add, remove, replace, copy.

    Raises:
        SettingsError: an operation is unknown, or what it names is not there.
    """
    patched = copy.deepcopy(body)
    for operation in operations:
        try:
            _apply(patched, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise SettingsError(
                f"the patch {operation.get('op')} {operation.get('path')} finds no such place ({error}); "
                "compare it with the object that it changes"
            ) from error
    return patched


def merge(body: Any, change: Any) -> Any:
    """Return a value after a merge patch: mappings are merged, everything else is replaced, None removes."""
    if not isinstance(change, Mapping):
        return copy.deepcopy(change)
    merged = dict(body) if isinstance(body, Mapping) else {}
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def _apply(body: Any, operation: Mapping[str, Any]) -> None:
    unknown = set(operation) - {"op", "path", "value", "from"}
    if unknown:
        raise ValueError(f"unknown {', '.join(sorted(unknown))}")
    parent, last = _parent(body, operation["path"])
    match operation["op"]:
        case "add":
            _add(parent, last, copy.deepcopy(operation["value"]))
        case "copy":
            source, key = _parent(body, operation["from"])
            _add(parent, last, copy.deepcopy(_step(source, key)))
        case "replace":
            _step(parent, last)
            parent[_key(parent, last)] = copy.deepcopy(operation["value"])
        case "remove":
            del parent[_key(parent, last)]
        case other:
            raise ValueError(f"operation {other} is not among add, copy, remove, replace")


def _parent(body: Any, pointer: str) -> tuple[Any, str]:
    if not pointer.startswith("/"):
        raise ValueError(f"{pointer} does not begin with /")
    *steps, last = (step.replace("~1", "/").replace("~0", "~") for step in pointer[1:].split("/"))
    for step in steps:
        body = _step(body, step)
    return body, last


def _key(parent: Any, step: str) -> Any:
    return int(step) if isinstance(parent, list) else step


def _step(parent: Any, step: str) -> Any:
    return parent[_key(parent, step)]


def _add(parent: Any, step: str, value: Any) -> None:
    if not isinstance(parent, list):
        parent[step] = value
    elif step == "-":
        parent.append(value)
    else:
        if int(step) > len(parent):
            raise IndexError(f"the list has {len(parent)} entries")
        parent.insert(int(step), value)
