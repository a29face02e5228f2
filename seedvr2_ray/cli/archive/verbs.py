"""``seedvr2-ray batch status`` and ``batch retry``: an archive's job looked at, and what it set aside tried again."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from seedvr2_ray.cli.archive.batch import SET_ASIDE, FailOn, batch, counts_as_failure
from seedvr2_ray.cli.options import with_settings
from seedvr2_ray.cli.parameters import Json, Mirror, weights_source
from seedvr2_ray.local_ray import OWN, address_of, confine
from seedvr2_ray.settings import RestoreSettings

JobFolder = Annotated[str, typer.Argument(help="The job's folder, as --job-folder named it; or OUTPUT/.seedvr2-ray.")]


@with_settings
def retry(
    settings: RestoreSettings,
    job: JobFolder,
    address: Annotated[str | None, typer.Option(help="Ray cluster; by default as for a whole archive.")] = None,
    max_workers: Annotated[int | None, typer.Option(min=1, help="Restorers at most; by default all that fit.")] = None,
    gpus_per_worker: Annotated[float | None, typer.Option(min=0, help="By default 1 where there are GPUs.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace targets that exist.")] = False,
    scratch: Annotated[str | None, typer.Option(help="Folder on every machine for copies of remote sources.")] = None,
    weights_dir: Annotated[
        Path | None, typer.Option(envvar="SEEDVR2_WEIGHTS_DIR", help="Folder with checkpoints on every machine.")
    ] = None,
    mirror: Mirror = None,
    fail_on: FailOn = "any",
    as_json: Json = False,
) -> None:
    """Try the files again that a job set aside, and no others.

    Settings that are given here replace the rows' own. The report of this run is in JOB/retry; that of the whole
    archive stays.
    """
    if address_of(address) == OWN:
        confine()
    # Ray takes seconds to import, which every other command would pay for with each start.
    from seedvr2_ray.batch.again import end_retry, write_retry
    from seedvr2_ray.batch.bulk import BulkRequest, run_bulk
    from seedvr2_ray.batch.execution.cluster import Pool
    from seedvr2_ray.batch.manifest.manifest import ManifestSource
    from seedvr2_ray.cli.archive.console import BulkDisplay, show_report
    from seedvr2_ray.restoration.load import CatalogueRestorers, LoadOptions

    folder = job.rstrip("/")
    request = BulkRequest(
        manifest=ManifestSource(url=write_retry(folder, settings), output=None, defaults=RestoreSettings()),
        folder=folder,
        pool=Pool(max_size=max_workers, num_gpus=gpus_per_worker),
        address=address,
        restorers=CatalogueRestorers(LoadOptions(weights=weights_source(weights_dir, mirror))),
        overwrite=overwrite,
        scratch=scratch,
        report_folder=f"{folder}/retry",
    )
    console = Console(highlight=False, soft_wrap=True)
    with BulkDisplay(quiet=as_json) as display:
        summary = run_bulk(request, display)
    end_retry(folder)
    console.print_json(json.dumps(summary)) if as_json else show_report(summary, f"{folder}/retry", console)
    if counts_as_failure(summary["files"], fail_on):
        raise typer.Exit(SET_ASIDE)


def status(job: JobFolder, as_json: Json = False) -> None:
    """Say how a job stands: whether it runs, what its last report says, what is set aside and why."""
    from seedvr2_ray.batch.again import job_status

    console = Console(highlight=False, soft_wrap=True)
    found = job_status(job.rstrip("/"))
    if as_json:
        console.print_json(json.dumps(found))
        return
    console.print("running, or killed less than ten minutes ago" if found["is_running"] else "not running")
    report = found["last_report"]
    if report is not None:
        files = report["files"]
        console.print(
            f"last report, of {report.get('made_at', 'an earlier version')}: {files['published']} files restored, "
            f"{files['skipped']} were there already, {files['quarantined']} set aside",
            markup=False,
        )
    for reason, number in found["set_aside_by_reason"].items():
        console.print(f"set aside: {number} x {reason}", markup=False)


batch_app = typer.Typer(invoke_without_command=True, rich_markup_mode=None, add_completion=False)
batch_app.callback()(batch)
batch_app.command()(status)
batch_app.command()(retry)
