"""One look at a cluster: what is served, what waits, which machines are there, coming and going."""

import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from seedvr2_ray.cluster.changes import RAY
from seedvr2_ray.cluster.connection import KubernetesApi
from seedvr2_ray.cluster.manifests import Manifest, ray_cluster_of, read_path
from seedvr2_ray.cluster.platform_rules import gpus_of
from seedvr2_ray.errors import SeedVR2Error

_GAUGE = re.compile(r'^(seedvr2_\w+)(?:\{state="(\w+)"\})? ([0-9.e+-]+)$', re.MULTILINE)
_SERVE_PORT = 8000


@dataclass(frozen=True, slots=True)
class ServiceState:
    """A RayService."""

    name: str
    active_cluster: str
    pending_cluster: str
    """The second cluster of an upgrade that is under way; else empty."""
    deployments: dict[str, str]
    """State by the deployment's name."""
    gauges: dict[str, float] | None
    """What the service says of its jobs; None where it does not answer."""


@dataclass(frozen=True, slots=True)
class GroupState:
    """The machines of one group of one cluster."""

    cluster: str
    group: str
    ready: int
    coming: int
    going: int
    most: int
    gpus: float
    """Of the machines that are ready."""
    waits_for: str
    """Why the first of those that come is not there yet."""


@dataclass(frozen=True, slots=True)
class JobState:
    """A RayJob."""

    name: str
    state: str
    started_at: str
    failed_tries: int
    message: str


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """Everything on one screen."""

    namespace: str
    services: list[ServiceState]
    groups: list[GroupState]
    jobs: list[JobState]
    warnings: list[str]
    """The latest, from events of Kubernetes."""

    def summary(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def read_status(api: KubernetesApi) -> ClusterStatus:
    """Look at a namespace. What the service itself does not answer is left out, everything else is an error."""
    services = api.find(RAY, "RayService")
    clusters = api.find(RAY, "RayCluster")
    pods = api.find("v1", "Pod", labels="ray.io/cluster")
    jobs = api.find(RAY, "RayJob")
    events = [event for event in api.find("v1", "Event") if event.get("type") == "Warning"]
    events.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
    return ClusterStatus(
        namespace=api.namespace,
        services=[_service(api, body) for body in services],
        # One that is paused, as ``fleet`` is, has no machines and will not have any.
        groups=[state for body in clusters if not read_path(body, "spec.suspend") for state in _groups(body, pods)],
        jobs=[_job(body) for body in jobs],
        warnings=[_warning(event) for event in events[-5:]],
    )


def _service(api: KubernetesApi, body: dict[str, Any]) -> ServiceState:
    name = body["metadata"]["name"]
    active = read_path(body, "status.activeServiceStatus") or {}
    deployments = {
        deployment: str(state.get("status", ""))
        for application in (active.get("applicationStatuses") or {}).values()
        for deployment, state in (application.get("serveDeploymentStatuses") or {}).items()
    }
    gauges = None
    with suppress(SeedVR2Error):  # That a service does not answer is what the screen then says.
        gauges = parse_gauges(api.read_through(f"{name}-serve-svc", _SERVE_PORT, "metrics"))
    return ServiceState(
        name=name,
        active_cluster=str(active.get("rayClusterName") or ""),
        pending_cluster=str(read_path(body, "status.pendingServiceStatus.rayClusterName") or ""),
        deployments=deployments,
        gauges=gauges,
    )


def parse_gauges(text: str) -> dict[str, float]:
    """Return the service's gauges by name; those by state as ``seedvr2_jobs.running``."""
    return {f"{name}.{state}" if state else name: float(value) for name, state, value in _GAUGE.findall(text)}


def _groups(body: dict[str, Any], pods: list[dict[str, Any]]) -> list[GroupState]:
    cluster = body["metadata"]["name"]
    found = []
    for group in (ray_cluster_of(Manifest({"kind": "RayCluster", **body})) or {}).get("workerGroupSpecs") or []:
        own = [
            pod
            for pod in pods
            if (pod["metadata"].get("labels") or {}).get("ray.io/cluster") == cluster
            and pod["metadata"]["labels"].get("ray.io/group") == group["groupName"]
        ]
        going = [pod for pod in own if pod["metadata"].get("deletionTimestamp")]
        ready = [pod for pod in own if pod not in going and _is_ready(pod)]
        coming = [
            pod
            for pod in own
            if pod not in going and pod not in ready and read_path(pod, "status.phase") in ("Pending", "Running")
        ]
        found.append(
            GroupState(
                cluster=cluster,
                group=group["groupName"],
                ready=len(ready),
                coming=len(coming),
                going=len(going),
                most=int(group["maxReplicas"]),
                gpus=gpus_of(group) * len(ready),
                waits_for=_reason(coming[0]) if coming else "",
            )
        )
    return found


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = read_path(pod, "status.conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _reason(pod: dict[str, Any]) -> str:
    # What a container waits for says more than that it waits.
    for kind in ("initContainerStatuses", "containerStatuses"):
        for one in read_path(pod, f"status.{kind}") or []:
            waiting = read_path(one, "state.waiting") or {}
            if waiting.get("message"):
                return (
                    f"{one['name']}: {waiting.get('reason', 'waiting')}: {' '.join(waiting['message'].split())[:120]}"
                )
            if kind == "initContainerStatuses" and read_path(one, "state.running") is not None:
                return f"{one['name']} is being prepared"
    for one in read_path(pod, "status.conditions") or []:
        if one["status"] == "False" and one.get("message"):
            return f"{one.get('reason', one['type'])}: {' '.join(one['message'].split())[:120]}"
    return str(read_path(pod, "status.phase") or "")


def _job(body: dict[str, Any]) -> JobState:
    status = body.get("status") or {}
    return JobState(
        name=body["metadata"]["name"],
        state=str(status.get("jobStatus") or status.get("jobDeploymentStatus") or "new"),
        started_at=str(status.get("startTime") or ""),
        failed_tries=int(status.get("failed") or 0),
        message=" ".join(str(status.get("message") or "").split())[:200],
    )


def _warning(event: dict[str, Any]) -> str:
    about = event.get("involvedObject") or {}
    text = " ".join(str(event.get("message") or "").split())[:160]
    return f"{about.get('kind', '')} {about.get('name', '')}: {event.get('reason', '')}: {text}"


def read_job_log(api: KubernetesApi, job: str, *, tail: int | None) -> str | None:
    """Return what a RayJob wrote, from the pod that follows it; None where there is no such pod yet or any more."""
    pods = api.find("v1", "Pod", labels=f"job-name={job}")
    pods.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp") or ""))
    return api.read_log(pods[-1]["metadata"]["name"], tail=tail) if pods else None
