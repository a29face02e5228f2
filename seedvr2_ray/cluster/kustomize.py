"""Renders the folder ``cluster/``: that part of kustomize which it uses, and a refusal of everything else.

``kubectl kustomize`` renders the same files to the same objects (tested wherever kubectl is there). This renderer
exists so that an installation of the package alone can render and check manifests, and so that a mistake is one
sentence.
"""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from seedvr2_ray.cluster.manifests import CLUSTER_SCOPED, Manifest, read_path
from seedvr2_ray.cluster.patches import apply_json_patch, merge
from seedvr2_ray.errors import SettingsError

OVERLAYS = "overlays"
_HEADER = {"apiVersion", "kind"}


def overlay_names(folder: Path) -> list[str]:
    """Return the names of the overlays of a folder of manifests."""
    return sorted(path.parent.name for path in (folder / OVERLAYS).glob("*/kustomization.yaml"))


def render(folder: Path, overlay: str) -> list[Manifest]:
    """Return the objects of an overlay.

    Args:
        folder: what holds ``base``, ``components`` and ``overlays``.
        overlay: the name of one of its overlays.

    Raises:
        SettingsError: there is no such overlay, or a file of it cannot be rendered.
    """
    names = overlay_names(folder)
    if not names:
        raise SettingsError(f"{folder} holds no overlays; name the folder cluster of the repository with --folder")
    if overlay not in names:
        raise SettingsError(f"there is no overlay {overlay}; the overlays are {', '.join(names)}")
    return [Manifest(body) for body in _build(folder / OVERLAYS / overlay, [])]


def _build(folder: Path, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the objects of one kustomization. A component works on those that were there before it."""
    file = folder / "kustomization.yaml"
    (content,) = _documents(file)
    unknown = set(content) - _HEADER - set(_STEPS)
    if unknown:
        raise SettingsError(
            f"{file} uses {', '.join(sorted(unknown))}, which is not rendered here; use {', '.join(_STEPS)}"
        )
    for name, step in _STEPS.items():
        if name in content:
            bodies = step(bodies, content[name], folder)
    return bodies


def _documents(file: Path) -> list[Any]:
    try:
        return [document for document in yaml.safe_load_all(file.read_text()) if document is not None]
    except FileNotFoundError:
        raise SettingsError(f"{file} does not exist, and a kustomization names it; correct the name") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{file} is no YAML: {' '.join(str(error).split())}") from error


def _resources(bodies: list[dict[str, Any]], entries: list[str], folder: Path) -> list[dict[str, Any]]:
    for entry in entries:
        path = folder / entry
        added = _build(path.resolve(), []) if path.is_dir() else _documents(path)
        taken = {_identity(body) for body in bodies}
        for body in added:
            if _identity(body) in taken:
                raise SettingsError(f"{path} brings {Manifest(body).label}, which is there already; rename one")
        bodies = [*bodies, *added]
    return bodies


def _components(bodies: list[dict[str, Any]], entries: list[str], folder: Path) -> list[dict[str, Any]]:
    for entry in entries:
        bodies = _build((folder / entry).resolve(), bodies)
    return bodies


def _config_maps(bodies: list[dict[str, Any]], entries: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    made = []
    for entry in entries:
        options = entry.get("options") or {}
        _only(entry, {"name", "files", "options"}, folder)
        _only(options, {"disableNameSuffixHash", "labels"}, folder)
        if not options.get("disableNameSuffixHash"):
            raise SettingsError(f"{folder}: {entry['name']} would get a hash into its name; set disableNameSuffixHash")
        metadata = {"name": entry["name"]}
        if "labels" in options:
            metadata["labels"] = dict(options["labels"])
        data = {name: (folder / name).read_text() for name in entry["files"]}
        made.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    return [*bodies, *made]


def _patches(bodies: list[dict[str, Any]], entries: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    for entry in entries:
        _only(entry, {"target", "patch", "path"}, folder)
        change = yaml.safe_load(entry["patch"]) if "patch" in entry else _documents(folder / entry["path"])[0]
        chosen = [body for body in bodies if _is_selected(body, entry["target"], folder)]
        if not chosen:
            raise SettingsError(f"a patch in {folder} is for {entry['target']}, which is not there; correct its target")
        bodies = [_patched(body, change, folder) if body in chosen else body for body in bodies]
    return bodies


def _patched(body: dict[str, Any], change: Any, folder: Path) -> dict[str, Any]:
    if isinstance(change, list):
        return apply_json_patch(body, change)
    if not Manifest(body).api_version.startswith("ray.io/"):
        raise SettingsError(f"{folder} merges into {Manifest(body).label}; write that patch as a list of operations")
    merged: dict[str, Any] = merge(body, change)
    return merged


def _replacements(bodies: list[dict[str, Any]], entries: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    bodies = copy.deepcopy(bodies)
    for entry in entries:
        source = dict(entry["source"])
        path = source.pop("fieldPath")
        found = [body for body in bodies if _is_selected(body, source, folder)]
        value = read_path(found[0], path) if len(found) == 1 else None
        if value is None:
            raise SettingsError(f"{folder} copies {path} of {source}, which is not there once; correct it")
        for target in entry["targets"]:
            _only(target, {"select", "fieldPaths", "options"}, folder)
            for body in bodies:
                if _is_selected(body, target["select"], folder):
                    for place in target["fieldPaths"]:
                        _write_path(body, place, copy.deepcopy(value))
    return bodies


def _write_path(body: dict[str, Any], path: str, value: Any) -> None:
    *steps, last = path.split(".")
    for step in steps:
        body = body.setdefault(step, {})
    body[last] = value


def _images(bodies: list[dict[str, Any]], entries: list[dict[str, str]], folder: Path) -> list[dict[str, Any]]:
    bodies = copy.deepcopy(bodies)
    for entry in entries:
        _only(entry, {"name", "newName", "newTag"}, folder)
        for container in _containers(bodies):
            name, tag = split_image(str(container["image"]))
            if name == entry["name"]:
                tag = entry.get("newTag", tag)
                container["image"] = entry.get("newName", name) + (f":{tag}" if tag else "")
    return bodies


def split_image(image: str) -> tuple[str, str]:
    """Return an image's name, which may hold a registry's port, and its tag, which may be missing."""
    folder, slash, last = image.rpartition("/")
    name, _, tag = last.partition(":")
    return f"{folder}{slash}{name}", tag


def _containers(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [found for child in node for found in _containers(child)]
    if not isinstance(node, dict):
        return []
    own = [one for key in ("containers", "initContainers") for one in node.get(key) or [] if "image" in one]
    return own + [found for child in node.values() for found in _containers(child)]


def _in_namespace(bodies: list[dict[str, Any]], namespace: str, folder: Path) -> list[dict[str, Any]]:
    bodies = copy.deepcopy(bodies)
    for body in bodies:
        if body["kind"] == "Namespace":
            body["metadata"]["name"] = namespace
        elif body["kind"] not in CLUSTER_SCOPED:
            body["metadata"]["namespace"] = namespace
    return bodies


def _is_selected(body: dict[str, Any], selector: Mapping[str, str], folder: Path) -> bool:
    _only(selector, {"kind", "name"}, folder)
    return all(
        wanted == found
        for wanted, found in (
            (selector.get("kind", body["kind"]), body["kind"]),
            (selector.get("name", body["metadata"]["name"]), body["metadata"]["name"]),
        )
    )


def _only(entry: Mapping[str, Any], known: set[str], folder: Path) -> None:
    unknown = set(entry) - known
    if unknown:
        raise SettingsError(
            f"{folder} uses {', '.join(sorted(unknown))}, which is not rendered here; use {sorted(known)}"
        )


def _identity(body: dict[str, Any]) -> tuple[str, str]:
    return str(body.get("kind")), str((body.get("metadata") or {}).get("name"))


_Step = Callable[[list[dict[str, Any]], Any, Path], list[dict[str, Any]]]

_STEPS: dict[str, _Step] = {
    "resources": _resources,
    "configMapGenerator": _config_maps,
    "components": _components,
    "patches": _patches,
    "namespace": _in_namespace,
    "images": _images,
    "replacements": _replacements,
}
"""What a kustomization may say, in the order in which kustomize does it."""
