"""Laws of rendering: what kubectl renders, or a sentence."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from seedvr2_ray.cluster.kustomize import render, split_image
from seedvr2_ray.cluster.patches import apply_json_patch, merge
from seedvr2_ray.errors import SettingsError
from tests.cluster.rendered import FOLDER, OVERLAYS, manifests


def _kubectl() -> str | None:
    """A kubectl whose kustomize knows components and replacements (5.0 and later)."""
    found = shutil.which("kubectl")
    if found is None:
        return None
    said = subprocess.run([found, "version", "--client"], capture_output=True, text=True).stdout
    version = re.search(r"Kustomize Version: v(\d+)", said)
    return found if version is not None and int(version[1]) >= 5 else None


@pytest.mark.slow
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubectl_renders_the_same_objects(overlay: str) -> None:
    kubectl = _kubectl()
    if kubectl is None:
        pytest.skip("no kubectl with kustomize 5 or newer is installed")
    said = subprocess.run(
        [kubectl, "kustomize", FOLDER / "overlays" / overlay], capture_output=True, text=True, check=True
    )
    theirs = {(body["kind"], body["metadata"]["name"]): body for body in yaml.safe_load_all(said.stdout)}
    ours = {(manifest.kind, manifest.name): manifest.body for manifest in manifests(overlay)}
    assert ours == theirs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one overlay of one object."""
    (tmp_path / "overlays" / "tiny").mkdir(parents=True)
    (tmp_path / "overlays" / "tiny" / "one.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: one\ndata:\n  a: b\n"
    )
    return tmp_path


def _write(folder: Path, content: str) -> None:
    (folder / "overlays" / "tiny" / "kustomization.yaml").write_text("resources: [one.yaml]\n" + content)


def test_an_overlay_that_is_not_there_is_refused_with_those_that_are(folder: Path) -> None:
    _write(folder, "")
    with pytest.raises(SettingsError, match="no overlay huge; the overlays are tiny"):
        render(folder, "huge")


def test_a_folder_without_overlays_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no overlays; name the folder cluster .* --folder"):
        render(tmp_path, "laptop")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("helmCharts: []\n", "uses helmCharts, which is not rendered here"),
        ("images: [{name: a, digest: b}]\n", "uses digest, which is not rendered here"),
        ("patches: [{target: {kind: Pod}, patch: '[]'}]\n", "a patch .* is for .*Pod.*, which is not there"),
        ("patches: [{target: {kind: ConfigMap}, patch: 'data: {a: c}'}]\n", "write that patch as a list of operations"),
        (
            "patches: [{target: {kind: ConfigMap}, patch: '[{op: replace, path: /data/z, value: c}]'}]\n",
            "replace /data/z finds no such place",
        ),
        (
            "replacements: [{source: {kind: ConfigMap, name: one, fieldPath: data.z}, targets: []}]\n",
            "copies data.z .* which is not there once",
        ),
        ("components: [../absent]\n", "does not exist, and a kustomization names it"),
        ("namespace: ][\n", "is no YAML"),
    ],
)
def test_what_cannot_be_rendered_is_refused_with_one_sentence(folder: Path, content: str, complaint: str) -> None:
    _write(folder, content)
    with pytest.raises(SettingsError, match=complaint) as refused:
        render(folder, "tiny")
    assert "\n" not in str(refused.value)


def test_an_object_that_comes_twice_is_refused(folder: Path) -> None:
    (folder / "overlays" / "tiny" / "kustomization.yaml").write_text("resources: [one.yaml, one.yaml]\n")
    with pytest.raises(SettingsError, match="brings ConfigMap one, which is there already"):
        render(folder, "tiny")


def test_namespaces_and_images_reach_every_object_that_has_them(folder: Path) -> None:
    (folder / "overlays" / "tiny" / "one.yaml").write_text(
        "kind: Pod\nmetadata: {name: p}\nspec: {initContainers: [{image: a}], containers: [{image: 'a:1'}]}\n"
        "---\nkind: PriorityClass\nmetadata: {name: c}\n"
    )
    _write(folder, "namespace: there\nimages: [{name: a, newName: 'registry:5000/a', newTag: '2'}]\n")
    pod, priority = render(folder, "tiny")
    assert pod.namespace == "there" and priority.namespace is None
    images = [pod.body["spec"][kind][0]["image"] for kind in ("initContainers", "containers")]
    assert images == ["registry:5000/a:2"] * 2


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("a", ("a", "")),
        ("a:1", ("a", "1")),
        ("host:5000/a", ("host:5000/a", "")),
        ("host:5000/b/a:1", ("host:5000/b/a", "1")),
    ],
)
def test_a_registrys_port_is_no_tag(image: str, parts: tuple[str, str]) -> None:
    assert split_image(image) == parts


@pytest.mark.parametrize(
    ("operation", "after"),
    [
        ({"op": "add", "path": "/list/-", "value": 3}, {"list": [1, 2, 3], "a/b": 1}),
        ({"op": "add", "path": "/list/0", "value": 3}, {"list": [3, 1, 2], "a/b": 1}),
        ({"op": "add", "path": "/new", "value": {"x": 1}}, {"list": [1, 2], "a/b": 1, "new": {"x": 1}}),
        ({"op": "copy", "from": "/list/0", "path": "/list/2"}, {"list": [1, 2, 1], "a/b": 1}),
        ({"op": "replace", "path": "/a~1b", "value": 2}, {"list": [1, 2], "a/b": 2}),
        ({"op": "remove", "path": "/list/1"}, {"list": [1], "a/b": 1}),
    ],
)
def test_operations_do_what_their_standard_says(operation: dict[str, object], after: dict[str, object]) -> None:
    before = {"list": [1, 2], "a/b": 1}
    assert apply_json_patch(before, [operation]) == after
    assert before == {"list": [1, 2], "a/b": 1}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/list/0", "value": 1},
        {"op": "add", "path": "/list/7", "value": 1},
        {"op": "replace", "path": "/list/7", "value": 1},
        {"op": "remove", "path": "/absent"},
        {"op": "add", "path": "list", "value": 1},
        {"op": "add", "path": "/list/-", "value": 1, "vlaue": 2},
    ],
)
def test_an_operation_that_cannot_be_done_is_refused(operation: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="finds no such place"):
        apply_json_patch({"list": [1, 2]}, [operation])


def test_a_merge_replaces_lists_and_removes_what_is_null() -> None:
    assert merge({"a": {"b": [1], "c": 2}, "d": 3}, {"a": {"b": [2]}, "d": None}) == {"a": {"b": [2], "c": 2}}
