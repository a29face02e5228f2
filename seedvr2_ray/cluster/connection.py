"""A Kubernetes API server, behind six verbs whose errors are sentences. Nothing else in the package talks to one."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3

from seedvr2_ray.cluster.manifests import CLUSTER_SCOPED, Manifest
from seedvr2_ray.errors import DeploymentError, InputError, RetryableError, SeedVR2Error, SettingsError

FIELD_MANAGER = "seedvr2-ray"
_APPLY = "application/apply-patch+yaml"
_JSON_PATCH = "application/json-patch+json"
_TIMEOUT = urllib3.Timeout(connect=5.0, read=30.0)
_PLURALS = {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses", "PriorityClass": "priorityclasses"}


class KubernetesApi:
    """One API server and one namespace on it."""

    def __init__(self, client: Any, namespace: str) -> None:
        """Keep a client of the package ``kubernetes``; :func:`connect` makes one."""
        self._client = client
        self.namespace = namespace
        self.address = str(client.configuration.host)

    def find(self, api_version: str, kind: str, *, labels: str | None = None) -> list[dict[str, Any]]:
        """Return the objects of a kind in the namespace.

        Args:
            labels: a selector that they must match, such as ``ray.io/cluster=a``.
        """
        query = {} if labels is None else {"labelSelector": labels}
        answer = self._call("GET", self._path(api_version, kind), f"list {kind}s", query=query)
        items: list[dict[str, Any]] = json.loads(answer).get("items") or []
        return items

    def read(self, api_version: str, kind: str, name: str) -> dict[str, Any] | None:
        """Return an object, or None where there is none of that name."""
        try:
            answer = self._call("GET", self._path(api_version, kind, name), f"read {kind} {name}")
        except _NotThereError:
            return None
        found: dict[str, Any] = json.loads(answer)
        return found

    def create(self, manifest: Manifest, *, dry_run: bool = False) -> None:
        """Make a new object.

        Raises:
            InputError: one of that name is there already.
        """
        path = self._path(manifest.api_version, manifest.kind)
        self._call("POST", path, f"create {manifest.label}", query=_query(dry_run=dry_run), body=manifest.body)

    def apply(self, manifest: Manifest, *, dry_run: bool = False, force: bool = False) -> None:
        """Make an object, or bring the one that is there up to date (server-side apply).

        What :meth:`patch` has set counts as somebody else's for the server; it is ours and is taken over.

        Args:
            dry_run: let the server check everything and store nothing.
            force: take over fields that somebody else has set.
        """
        path = self._path(manifest.api_version, manifest.kind, manifest.name)
        intent, query = f"apply {manifest.label}", _query(dry_run=dry_run)

        def send(*, forced: bool) -> None:
            forcing = {**query, "force": "true" if forced else "false"}
            self._call("PATCH", path, intent, query=forcing, body=manifest.body, content=_APPLY)

        try:
            send(forced=force)
        except InputError as error:
            if set(re.findall(r'conflicts? with "([^"]+)"', str(error))) != {FIELD_MANAGER}:
                raise
            send(forced=True)

    def patch(self, api_version: str, kind: str, name: str, operations: list[dict[str, Any]]) -> None:
        """Change an object by operations of a JSON patch; a ``test`` that fails changes nothing."""
        path = self._path(api_version, kind, name)
        self._call("PATCH", path, f"change {kind} {name}", query=_query(), body=operations, content=_JSON_PATCH)

    def read_log(self, pod: str, *, tail: int | None = None) -> str:
        """Return what a pod's first container wrote."""
        query = {} if tail is None else {"tailLines": str(tail)}
        path = f"{self._path('v1', 'Pod', pod)}/log"
        return self._call("GET", path, f"read the log of pod {pod}", query=query).decode(errors="replace")

    def read_through(self, service: str, port: int, path: str) -> str:
        """Return what a service inside the cluster answers to a GET, through the API server."""
        place = f"{self._path('v1', 'Service', f'{service}:{port}')}/proxy/{path}"
        return self._call("GET", place, f"ask service {service}").decode(errors="replace")

    def _path(self, api_version: str, kind: str, name: str | None = None) -> str:
        root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
        scope = "" if kind in CLUSTER_SCOPED else f"/namespaces/{self.namespace}"
        plural = _PLURALS.get(kind, f"{kind.lower()}s")
        return f"{root}{scope}/{plural}" + (f"/{name}" if name is not None else "")

    def _call(
        self,
        method: str,
        path: str,
        intent: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: str = "application/json",
    ) -> bytes:
        """Send one request.

        Args:
            intent: what it is for, in the words of error messages: ``list RayJobs``.
        """
        url = f"{self.address}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "*/*", "Content-Type": content}
        # The token is renewed here, by whatever the kubeconfig says renews it.
        for setting in self._client.configuration.auth_settings().values():
            if setting.get("value"):
                headers[setting["key"]] = setting["value"]
        try:
            # The client's own pool knows its certificates and proxies; its generated methods know no custom resources.
            response = self._client.rest_client.pool_manager.request(
                method,
                url,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=_TIMEOUT,
                retries=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise RetryableError(
                f"the cluster at {self.address} cannot be reached ({type(error).__name__}); check the address, the "
                "network and the context of your kubeconfig"
            ) from error
        data: bytes = response.data
        if response.status >= 400:
            raise self._translated(response.status, data, intent)
        return data

    def _translated(self, status: int, body: bytes, intent: str) -> SeedVR2Error:
        said = body.decode(errors="replace")[:300]
        with suppress(ValueError, TypeError, KeyError):
            said = str(json.loads(body)["message"])
        said = " ".join(said.split())
        where = f"in namespace {self.namespace} on {self.address}"
        match status:
            case 401:
                return DeploymentError(f"{self.address} does not know who you are; sign in and renew your kubeconfig")
            case 403:
                return DeploymentError(f"you may not {intent} {where}: {said}; ask for a role that allows it")
            case 404:
                return _NotThereError(
                    f"cannot {intent} {where}: {said}; create the namespace, install KubeRay's CRDs, or correct the "
                    "name"
                )
            case 409:
                return InputError(f"cannot {intent} {where}: {said}; choose another name, or pass --force to apply")
            case 422 if "immutable" in said:
                return SettingsError(
                    f"cannot {intent} {where}: part of it cannot be changed once it is made; delete the object that is "
                    "there, or name the one you want differently"
                )
            case 400 | 422:
                return SettingsError(f"the cluster refuses to {intent} {where}: {said}")
            case _:
                return RetryableError(f"cannot {intent} {where} now: {status} {said}; try again")


class _NotThereError(InputError):
    """The server knows no such path."""


def connect(*, kubeconfig: Path | None, context: str | None, namespace: str) -> KubernetesApi:
    """Return the API server that a kubeconfig names.

    Args:
        kubeconfig: by default what ``KUBECONFIG`` names, or ``~/.kube/config``.
        context: one of its contexts; by default the current one.
        namespace: where the platform lives.

    Raises:
        DeploymentError: there is no such file or context, or the package ``kubernetes`` is missing.
    """
    try:
        from kubernetes import config
    except ImportError:
        raise DeploymentError(
            "asking a cluster needs the package kubernetes; install it with: pip install 'seedvr2-ray[cluster]'"
        ) from None
    try:
        client = config.new_client_from_config(
            config_file=None if kubeconfig is None else str(kubeconfig), context=context
        )
    except config.ConfigException as error:
        text = " ".join(str(error).split())
        raise DeploymentError(f"the kubeconfig does not lead to a cluster: {text}; see kubectl config view") from error
    return KubernetesApi(client, namespace)


def _query(*, dry_run: bool = False) -> dict[str, str]:
    return {"fieldManager": FIELD_MANAGER, **({"dryRun": "All"} if dry_run else {})}
