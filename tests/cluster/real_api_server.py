"""A trial on a real kube-apiserver and etcd, where somebody has their programs; not part of the tests.

python -m tests.cluster.real_api_server KUBE_APISERVER ETCD FOLDER

Neither program is in the registries from which the tests are installed; docs/decisions/0083 says what was tried, and
what this trial showed.
"""

import base64
import contextlib
import gzip
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import kubernetes
import urllib3

from seedvr2_ray.cli.main import main
from seedvr2_ray.cluster.connection import KubernetesApi, connect
from seedvr2_ray.cluster.manifests import Manifest
from seedvr2_ray.cluster.platform_rules import required_secrets
from tests.cluster.api_server import TOKEN, write_kubeconfig
from tests.cluster.rendered import FOLDER, OVERLAYS, manifests
from tests.ports import free_port

KINDS = {"RayCluster": "rayclusters", "RayService": "rayservices", "RayJob": "rayjobs", "RayCronJob": "raycronjobs"}
MONITORING = {"PodMonitor": "podmonitors", "PrometheusRule": "prometheusrules"}


@contextlib.contextmanager
def kube_apiserver(program: str, etcd: str, folder: Path) -> Iterator[Path]:
    """Run both, on loopback only, and yield a kubeconfig of an administrator."""
    ports = [free_port() for _ in range(3)]
    store, peers = (f"http://127.0.0.1:{port}" for port in ports[:2])
    (folder / "tokens.csv").write_text(f'{TOKEN},admin,1,"system:masters"\n')
    subprocess.run(["openssl", "genrsa", "-out", folder / "key.pem", "2048"], check=True, capture_output=True)
    with contextlib.ExitStack() as stack:
        for words in (
            [
                *(etcd, "--data-dir", folder / "etcd", "--unsafe-no-fsync", "--listen-peer-urls", peers),
                *("--listen-client-urls", store, "--advertise-client-urls", store),
            ],
            [
                program,
                f"--etcd-servers={store}",
                "--bind-address=127.0.0.1",
                f"--secure-port={ports[2]}",
                f"--cert-dir={folder / 'certificates'}",
                f"--token-auth-file={folder / 'tokens.csv'}",
                "--service-account-issuer=https://there",
                f"--service-account-signing-key-file={folder / 'key.pem'}",
                f"--service-account-key-file={folder / 'key.pem'}",
                "--authorization-mode=RBAC",
                "--disable-admission-plugins=ServiceAccount",
            ],
        ):
            log = stack.enter_context((folder / f"{Path(words[0]).name}.log").open("wb"))
            process = stack.enter_context(subprocess.Popen(words, stdout=log, stderr=log))
            stack.callback(process.terminate)
        kubeconfig = write_kubeconfig(folder, f"https://127.0.0.1:{ports[2]}")
        text = kubeconfig.read_text().replace("server:", "insecure-skip-tls-verify: true\n    server:")
        kubeconfig.write_text(text)
        api = connect(kubeconfig=kubeconfig, context=None, namespace="default")
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(Exception):
                api.find("v1", "Namespace")
                break
            assert time.monotonic() < deadline, "the API server does not become ready"
            time.sleep(0.5)
        yield kubeconfig


def _definition(group: str, version: str, kind: str, plural: str, schema: dict[str, Any]) -> dict[str, Any]:
    served = {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [{**served, "subresources": {"status": {}}}],
        },
    }


def install_definitions(kubeconfig: Path) -> None:
    """Make KubeRay's kinds and Prometheus' known, with the schemas that the package ships."""
    client = kubernetes.config.new_client_from_config(config_file=str(kubeconfig))
    make = kubernetes.client.ApiextensionsV1Api(client).create_custom_resource_definition
    folder = files("seedvr2_ray.cluster.schemas")
    for kind, plural in KINDS.items():
        schema = _without_empty_defaults(
            json.loads(gzip.decompress((folder / f"{kind.lower()}.v1.json.gz").read_bytes()))
        )
        schema["properties"]["status"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        schema["properties"]["metadata"] = {"type": "object"}
        make(_definition("ray.io", "v1", kind, plural, schema))
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    for kind, plural in MONITORING.items():
        make(_definition("monitoring.coreos.com", "v1", kind, plural, anything))


def _without_empty_defaults(node: Any) -> Any:
    """Kubernetes 1.20 takes an empty string as a default for none at all, and refuses it; ours are never left out."""
    if isinstance(node, list):
        return [_without_empty_defaults(child) for child in node]
    if not isinstance(node, dict):
        return node
    return {
        key: "unnamed" if (key, value) == ("default", "") else _without_empty_defaults(value)
        for key, value in node.items()
    }


def put_secrets(api: KubernetesApi) -> None:
    """Make the namespace and every secret that pods need."""
    api.create(Manifest({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "seedvr2"}}))
    found = [manifest for overlay in OVERLAYS for manifest in manifests(overlay)]
    for name, keys in required_secrets(found).items():
        data = {key: base64.b64encode(b"x").decode() for key in keys}
        api.create(Manifest({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}))


def _type_in(kubeconfig: Path, *words: str) -> None:
    sys.stdout.write(f"$ seedvr2-ray cluster {' '.join(words)}\n")
    code = main(["cluster", *words, "--kubeconfig", str(kubeconfig)])
    sys.stdout.write(f"= {code}\n\n")
    sys.stdout.flush()


if __name__ == "__main__":
    program, etcd, where = sys.argv[1:]
    urllib3.disable_warnings()  # The server has signed its own certificate.
    Path(where).mkdir(parents=True)
    with kube_apiserver(program, etcd, Path(where)) as kubeconfig:
        install_definitions(kubeconfig)
        # Kubernetes 1.20 knows budgets under another version only.
        ours = Path(shutil.copytree(FOLDER, Path(where) / "cluster"))
        availability = (ours / "base" / "availability.yaml").read_text().split("---\n")
        kept = [text for text in availability if "PodDisruptionBudget" not in text]
        (ours / "base" / "availability.yaml").write_text("---\n".join(kept))
        folder = ("--folder", str(ours))
        _type_in(kubeconfig, "apply", "laptop", *folder)
        put_secrets(connect(kubeconfig=kubeconfig, context=None, namespace="seedvr2"))
        for overlay in OVERLAYS:
            _type_in(kubeconfig, "apply", overlay, "--dry-run", *folder)
        for overlay in ("h100", "h100-bulk", "h100-nightly", "h100-queued", "gangs", "laptop", "h100-spot", "h100"):
            _type_in(kubeconfig, "apply", overlay, *folder)
        _type_in(kubeconfig, "status")
        _type_in(kubeconfig, "submit", "h100-bulk", "--name", "archive-7", "--dry-run", *folder)
        for _ in range(2):
            _type_in(kubeconfig, "submit", "h100-bulk", "--name", "archive-7", *folder)
        _type_in(kubeconfig, "scale", "h100-x8", "--max", "16")
        _type_in(kubeconfig, "scale", "h100-x9", "--max", "16")
        for overlay in ("h100", "gangs", "h100-spot"):
            _type_in(kubeconfig, "upgrade", overlay, "--dry-run", *folder)
        _type_in(kubeconfig, "logs", "archive-7")
        _type_in(kubeconfig, "status", "--json")
