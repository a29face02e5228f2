"""The manifests of this repository, rendered once for all tests."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate.utils

from seedvr2_ray.cluster.kustomize import overlay_names, render
from seedvr2_ray.cluster.manifests import Manifest

# It reads a schema anew for every object; tests have thousands.
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
OVERLAYS = overlay_names(FOLDER)


@cache
def _rendered(overlay: str) -> tuple[Manifest, ...]:
    return tuple(render(FOLDER, overlay))


def manifests(overlay: str) -> list[Manifest]:
    """The objects of an overlay, free to be changed."""
    return [Manifest(copy.deepcopy(manifest.body)) for manifest in _rendered(overlay)]


def every_manifest() -> list[tuple[str, Manifest]]:
    """The objects of all overlays, each with its overlay's name."""
    return [(overlay, manifest) for overlay in OVERLAYS for manifest in _rendered(overlay)]


def the(kind: str, found: list[Manifest], name: str | None = None) -> dict[str, Any]:
    """The body of the only object of a kind."""
    (one,) = [manifest for manifest in found if manifest.kind == kind and name in (None, manifest.name)]
    return one.body
