"""``seedvr2-ray cluster``: what an operator types."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from seedvr2_ray.errors import InputError, SettingsError

if TYPE_CHECKING:
    from seedvr2_ray.cluster.connection import KubernetesApi
    from seedvr2_ray.cluster.manifests import Manifest
    from seedvr2_ray.cluster.status import ClusterStatus

cluster_app = typer.Typer(help="Run the platform on Kubernetes with KubeRay.", no_args_is_help=True)

Overlay = Annotated[str, typer.Argument(help="One of the folder's overlays, such as laptop or h100.")]
Folder = Annotated[Path, typer.Option(help="Where base, components and overlays are.")]
Kubeconfig = Annotated[Path | None, typer.Option(envvar="KUBECONFIG", help="By default ~/.kube/config.")]
Context = Annotated[str | None, typer.Option(help="Of the kubeconfig; by default the current one.")]
Namespace = Annotated[str, typer.Option(help="Where the platform lives.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Let the cluster check everything and keep nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, for programs.")]
Address = Annotated[
    str | None, typer.Option(help="Of the dashboard of a Ray cluster that runs; its token is RAY_AUTH_TOKEN.")
]

_FOLDER = Path("cluster")
_NAMESPACE = "seedvr2"


@cluster_app.command("render")
def render_command(overlay: Overlay, folder: Folder = _FOLDER) -> None:
    """Print the objects of an overlay as YAML, as kubectl kustomize does."""
    typer.echo(yaml.safe_dump_all([it.body for it in _rendered(folder, overlay)], sort_keys=False), nl=False)


@cluster_app.command("validate")
def validate_command(
    overlay: Annotated[list[str] | None, typer.Argument(help="By default all.")] = None,
    folder: Folder = _FOLDER,
    as_json: Json = False,
) -> None:
    """Check manifests without a cluster: schemas, the operator's rules and our own."""
    from seedvr2_ray.cluster.kustomize import overlay_names
    from seedvr2_ray.cluster.validate import find_problems

    found = {}
    for name in overlay or overlay_names(folder) or [""]:
        found[name] = [str(problem) for problem in find_problems(_rendered(folder, name))]
    lines = [f"{name}: {text}" for name, texts in found.items() for text in texts or ["valid"]]
    _say(as_json, {"overlays": found}, lines)
    if any(found.values()):
        raise typer.Exit(SettingsError.exit_code)


@cluster_app.command("apply")
def apply_command(
    overlay: Overlay,
    dry_run: DryRun = False,
    force: Annotated[bool, typer.Option("--force", help="Take over fields that somebody else has set.")] = False,
    folder: Folder = _FOLDER,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = _NAMESPACE,
    as_json: Json = False,
) -> None:
    """Send an overlay to a cluster, after every check; nothing is sent if one fails."""
    from seedvr2_ray.cluster.changes import apply_all

    api = _connected(kubeconfig, context, namespace)
    sent = apply_all(api, _rendered(folder, overlay), dry_run=dry_run, force=force)
    verb = "would be applied" if dry_run else "applied"
    _say(as_json, {"applied": [it.label for it in sent], "dry_run": dry_run}, [f"{it.label}: {verb}" for it in sent])


@cluster_app.command("status")
def status_command(
    kubeconfig: Kubeconfig = None, context: Context = None, namespace: Namespace = _NAMESPACE, as_json: Json = False
) -> None:
    """Show jobs, queue, replicas, GPUs and machines on one screen."""
    from seedvr2_ray.cluster.status import read_status

    status = read_status(_connected(kubeconfig, context, namespace))
    if as_json:
        typer.echo(json.dumps(status.summary(), indent=1, ensure_ascii=False))
    else:
        _show_status(status, Console(highlight=False, soft_wrap=True))


@cluster_app.command("submit", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit_command(
    context_: typer.Context,
    overlay: Overlay,
    name: Annotated[str, typer.Option(help="Of the job; the same name is refused while the other is there.")],
    dry_run: DryRun = False,
    address: Address = None,
    folder: Folder = _FOLDER,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = _NAMESPACE,
    as_json: Json = False,
) -> None:
    """Restore an archive on a cluster of its own; further options are those of seedvr2-ray batch."""
    from seedvr2_ray.cluster.changes import job_from, submit, submit_to_ray
    from seedvr2_ray.cluster.platform_rules import entrypoint_of

    manifests = job_from(_rendered(folder, overlay), name, _options(context_.args))
    entrypoint = entrypoint_of(manifests[-1])
    _require_batch_options(entrypoint)
    if address is not None:
        job = submit_to_ray(address, entrypoint, os.environ.get("RAY_AUTH_TOKEN"))
        _say(as_json, {"job": job, "entrypoint": entrypoint}, [f"job {job} was submitted to {address}"])
        return
    made = submit(_connected(kubeconfig, context, namespace), manifests, dry_run=dry_run)
    verb = "would be created" if dry_run else "was created; follow it with: seedvr2-ray cluster logs " + made.name
    _say(as_json, {"job": made.name, "entrypoint": entrypoint, "dry_run": dry_run}, [f"{made.label} {verb}"])


@cluster_app.command("logs")
def logs_command(
    job: Annotated[str, typer.Argument(help="As cluster status names it.")],
    tail: Annotated[int | None, typer.Option(min=1, help="Only the last lines.")] = None,
    address: Address = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = _NAMESPACE,
) -> None:
    """Print what a job wrote."""
    from seedvr2_ray.cluster.changes import ray_job_log
    from seedvr2_ray.cluster.status import read_job_log

    if address is not None:
        typer.echo(ray_job_log(address, job, os.environ.get("RAY_AUTH_TOKEN")), nl=False)
        return
    text = read_job_log(_connected(kubeconfig, context, namespace), job, tail=tail)
    if text is None:
        raise InputError(f"no pod of job {job} is there (yet, or any more); see seedvr2-ray cluster status")
    typer.echo(text, nl=False)


@cluster_app.command("scale")
def scale_command(
    group: Annotated[str, typer.Argument(help="Of machines, as cluster status names it.")],
    low: Annotated[int | None, typer.Option("--min", min=0, help="Machines that are always there.")] = None,
    high: Annotated[int | None, typer.Option("--max", min=0, help="Machines at most.")] = None,
    service: Annotated[str, typer.Option(help="Whose machines.")] = "seedvr2",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = _NAMESPACE,
    as_json: Json = False,
) -> None:
    """Change how many machines a group may have; the autoscaler does the rest."""
    from seedvr2_ray.cluster.changes import scale

    if low is None and high is None:
        raise SettingsError("nothing would change; pass --min, --max or both")
    done = scale(_connected(kubeconfig, context, namespace), service, group, low=low, high=high)
    lines = [f"{name}: group {group} has between {done.low} and {done.high} machines" for name in done.objects]
    _say(as_json, {"changed": list(done.objects), "min": done.low, "max": done.high}, lines)


@cluster_app.command("upgrade")
def upgrade_command(
    overlay: Overlay,
    second_cluster: Annotated[
        bool, typer.Option("--second-cluster", help="Allow an upgrade that needs the machines twice for a while.")
    ] = False,
    dry_run: DryRun = False,
    folder: Folder = _FOLDER,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = _NAMESPACE,
    as_json: Json = False,
) -> None:
    """Bring the running service to what an overlay says, in place where that is possible."""
    from seedvr2_ray.cluster.changes import plan_upgrade

    api = _connected(kubeconfig, context, namespace)
    plan = plan_upgrade(api, _rendered(folder, overlay))
    if plan.kind == "second cluster" and not (second_cluster or dry_run):
        raise InputError(
            "the machines' description changes, so KubeRay will start a second cluster beside the first: up to twice "
            f"the machines, {plan.more_gpus:g} GPUs of them at once; pass --second-cluster if there is room, or change "
            "only serveConfigV2"
        )
    if plan.kind != "nothing":
        api.apply(plan.manifest, dry_run=dry_run)
    line = f"{plan.manifest.label}: {plan.kind}" + (" (dry run)" if dry_run else "")
    _say(as_json, {"upgrade": plan.kind, "more_gpus": plan.more_gpus, "dry_run": dry_run}, [line])


def _rendered(folder: Path, overlay: str) -> "list[Manifest]":
    from seedvr2_ray.cluster.kustomize import render

    return render(folder, overlay)


def _connected(kubeconfig: Path | None, context: str | None, namespace: str) -> "KubernetesApi":
    from seedvr2_ray.cluster.connection import connect

    return connect(kubeconfig=kubeconfig, context=context, namespace=namespace)


def _options(words: list[str]) -> dict[str, str]:
    """Pair the options of ``batch`` with their values."""
    split = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if len(split) % 2 or not all(name.startswith("--") for name in split[::2]):
        raise SettingsError(f"cannot read {' '.join(words)}: write options of seedvr2-ray batch as --name value")
    return dict(zip(split[::2], split[1::2], strict=True))


def _require_batch_options(entrypoint: list[str]) -> None:
    """Refuse here what the job would refuse after its machines have come."""
    from typer.main import get_command

    from seedvr2_ray.cli.archive.batch import batch, require_manifest

    command = typer.Typer(rich_markup_mode=None, add_completion=False)
    command.command()(batch)
    context = get_command(command).make_context("seedvr2-ray batch", entrypoint[2:])
    require_manifest(context.params["manifest"])


def _say(as_json: bool, values: Any, lines: list[str]) -> None:
    if as_json:
        typer.echo(json.dumps(values, indent=1, ensure_ascii=False))
    else:
        for line in lines:
            typer.echo(line)


def _show_status(status: "ClusterStatus", console: Console) -> None:
    def table(*headers: str, rows: list[tuple[Any, ...]], empty: str) -> None:
        if not rows:
            console.print(empty, markup=False)
            return
        shown = Table(*headers, box=None, header_style="dim", pad_edge=False)
        for row in rows:
            shown.add_row(*(str(cell) for cell in row))
        console.print(shown)

    if not status.services:
        console.print("no service")
    for service in status.services:
        second = f", upgrading to {service.pending_cluster}" if service.pending_cluster else ""
        console.print(f"service {service.name} on {service.active_cluster or 'no cluster yet'}{second}", markup=False)
        console.print(f"  {_jobs_in_words(service.gauges)}", markup=False)
        for name, state in service.deployments.items():
            console.print(f"  {name}: {state}", markup=False)
    table(
        *("cluster", "group", "ready", "coming", "going", "most", "GPUs", "waits for"),
        rows=[
            (g.cluster, g.group, g.ready, g.coming, g.going, g.most, f"{g.gpus:g}", g.waits_for) for g in status.groups
        ],
        empty="no machines",
    )
    table(
        *("job", "state", "started", "failed tries", "message"),
        rows=[(j.name, j.state, j.started_at or "-", j.failed_tries, j.message) for j in status.jobs],
        empty="no archives",
    )
    for warning in status.warnings:
        console.print(f"warning: {warning}", markup=False)


def _jobs_in_words(gauges: dict[str, float] | None) -> str:
    from seedvr2_ray.restoration.report.templates import format_duration

    if gauges is None:
        return "jobs: the service does not answer through the API server"
    states = {name.removeprefix("seedvr2_jobs."): num for name, num in gauges.items() if "." in name and num}
    states.pop("queued", None)  # The queue's own gauges say more.
    at_work = [f"{num:g} {name}" for name, num in states.items()]
    waiting = f"{gauges.get('seedvr2_queue_depth', 0):g} waiting"
    if gauges.get("seedvr2_queue_depth"):
        waiting += f" (the oldest for {format_duration(gauges.get('seedvr2_queue_age_seconds', 0))})"
    left = format_duration(gauges.get("seedvr2_remaining_gpu_seconds", 0))
    return f"jobs: {', '.join([waiting, *at_work])}; device time left {left}"
