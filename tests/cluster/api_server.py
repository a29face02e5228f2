"""A Kubernetes API server with just the endpoints that the package uses, over real HTTP. It knows no schemas."""

import copy
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from seedvr2_ray.cluster.patches import apply_json_patch

TOKEN = "a-token-for-tests"
_PATH = re.compile(
    r"/(?:api|apis)/(?P<version>v1|[^/]+/v\d\w*)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<sub>log|proxy)(?P<rest>/.*)?)?$"
)


@dataclass
class Store:
    """What the server holds, and how it is to behave."""

    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """By plural and name."""
    namespaces: set[str] = field(default_factory=lambda: {"seedvr2"})
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    """Methods and plurals that callers may not use."""
    conflicting: dict[tuple[str, str], str] = field(default_factory=dict)
    """Who owns a field, by plural and name."""
    immutable: set[tuple[str, str]] = field(default_factory=set)
    """Plurals and names of what cannot be changed any more."""
    logs: dict[str, str] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    """What services answer, by ``name:port/path``."""
    requests: list[str] = field(default_factory=list)
    broken: bool = False

    def put(self, plural: str, body: dict[str, Any]) -> None:
        """Add an object."""
        self.objects[plural, body["metadata"]["name"]] = body


class _Refused(Exception):
    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    store: Store


class _Endpoints(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(length) if length else b""
        try:
            status, text = 200, self._done(content)
        except _Refused as refused:
            status = refused.status
            text = json.dumps({"kind": "Status", "reason": refused.reason, "message": str(refused), "code": status})
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _done(self, content: bytes) -> str:
        store, parts = self.server.store, urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        store.requests.append(f"{self.command} {parts.path}")
        if store.broken:
            raise _Refused(503, "ServiceUnavailable", "etcd is away")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _Refused(401, "Unauthorized", "Unauthorized")
        found = _PATH.match(parts.path)
        if found is None:
            raise _Refused(404, "NotFound", "the server could not find the requested resource")
        plural, name, namespace = found["plural"], found["name"], found["namespace"]
        if (self.command, plural) in store.forbidden:
            raise _Refused(403, "Forbidden", f'{plural} is forbidden: User "op" cannot do that')
        if found["sub"] == "log":
            return store.logs[name]
        if found["sub"] == "proxy":
            key = f"{name}{found['rest']}"
            if key not in store.answers:
                raise _Refused(503, "ServiceUnavailable", "no endpoints available")
            return store.answers[key]
        if namespace is not None and namespace not in store.namespaces and self.command != "GET":
            raise _Refused(404, "NotFound", f'namespaces "{namespace}" not found')
        return self._on_object(plural, name, query, content)

    def _on_object(self, plural: str, name: str | None, query: dict[str, str], content: bytes) -> str:
        store, keeps = self.server.store, query.get("dryRun") != "All"
        if self.command == "GET" and name is None:
            wanted = query.get("labelSelector", "")
            items = [
                body
                for (kind, _), body in sorted(store.objects.items())
                if kind == plural and _matches(body["metadata"].get("labels") or {}, wanted)
            ]
            return json.dumps({"metadata": {"resourceVersion": "1"}, "items": items})
        if self.command == "POST":
            body = json.loads(content)
            if (plural, body["metadata"]["name"]) in store.objects:
                raise _Refused(409, "AlreadyExists", f'{plural} "{body["metadata"]["name"]}" already exists')
            if keeps:
                store.put(plural, body)
            return json.dumps(body)
        assert name is not None
        if self.command == "PATCH" and self.headers["Content-Type"].startswith("application/apply-patch"):
            if (plural, name) in store.conflicting and query.get("force") != "true":
                owner = store.conflicting[plural, name]
                raise _Refused(
                    409, "Conflict", f'Apply failed with 1 conflict: conflict with "{owner}": .spec.replicas'
                )
            if (plural, name) in store.immutable:
                raise _Refused(
                    422, "Invalid", f"{name} is invalid: spec.template: PodTemplate{{...}}: field is immutable"
                )
            body = yaml.safe_load(content)
            if keeps:
                store.put(plural, body)
            return json.dumps(body)
        if (plural, name) not in store.objects:
            raise _Refused(404, "NotFound", f'{plural} "{name}" not found')
        if self.command == "PATCH":
            store.put(plural, _patched(store.objects[plural, name], json.loads(content)))
        return json.dumps(store.objects[plural, name])


def _matches(labels: dict[str, str], selector: str) -> bool:
    key, equals, value = selector.partition("=")
    return not selector or (key in labels and (not equals or labels[key] == value))


def _patched(body: dict[str, Any], operations: list[dict[str, Any]]) -> dict[str, Any]:
    """Apply operations in which a ``test`` that fails refuses all of them."""
    body = copy.deepcopy(body)
    for operation in operations:
        if operation["op"] == "test":
            node: Any = body
            for step in operation["path"][1:].split("/"):
                node = node[int(step)] if isinstance(node, list) else node[step]
            if node != operation["value"]:
                raise _Refused(422, "Invalid", "the server rejected our request due to an error in our request")
        else:
            body = apply_json_patch(body, [operation])
    return body


@contextmanager
def api_server(folder: Path, *, token: str = TOKEN) -> Iterator[tuple[Store, Path]]:
    """Run a server; yields what it holds and a kubeconfig that leads to it."""
    server = _Server(("127.0.0.1", 0), _Endpoints)
    server.store = Store()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.store, write_kubeconfig(folder, f"http://127.0.0.1:{server.server_port}", token)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_kubeconfig(folder: Path, address: str, token: str = TOKEN) -> Path:
    """Write a kubeconfig with one context, ``tests``."""
    file = folder / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "tests",
        "clusters": [{"name": "c", "cluster": {"server": address}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "tests", "context": {"cluster": "c", "user": "u"}}],
    }
    file.write_text(yaml.safe_dump(content))
    return file
