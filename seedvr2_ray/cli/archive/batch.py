"""``seedvr2-ray batch``: an archive on this machine or on a Ray cluster."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from seedvr2_ray.cli.options import with_settings
from seedvr2_ray.cli.parameters import Json, Mirror, SpStrategy, weights_source
from seedvr2_ray.errors import SettingsError
from seedvr2_ray.local_ray import OWN, address_of, confine
from seedvr2_ray.models.backends import AttentionBackend
from seedvr2_ray.restoration.planning.geometry import DEFAULT_MAX_PIXELS
from seedvr2_ray.settings import RestoreSettings

SET_ASIDE = 3
"""Exit code of a job that set files aside: the same as of a single source that cannot be used."""

Address = Annotated[
    str | None, typer.Option(help="Ray cluster; by default RAY_ADDRESS, or a Ray of its own on this machine.")
]
GangSize = Annotated[
    int, typer.Option(min=1, help="Workers of so many GPUs of one machine, which restore each segment together.")
]
GroupName = Annotated[
    str | None,
    typer.Option(help="Placement group of this name for the only gang: a bundle for its leader, then one per GPU."),
]
Verify = Annotated[bool, typer.Option("--verify", help="Read finished masters again, also those that nobody touched.")]
Rate = Annotated[
    float, typer.Option(help="With --dry-run: output megapixels one restorer is assumed to make per second.")
]
FailOn = Annotated[
    Literal["any", "all", "never"],
    typer.Option(
        help="Which files that were set aside make the exit code 3: any; only if all were, so that nothing is done; "
        "never, for schedulers that would start machines to try again."
    ),
]


Output = Annotated[str | None, typer.Option(help="Folder or prefix of the results.")]
ManifestName = Annotated[
    str | None,
    typer.Option(help="A folder, an object store's prefix, or a .csv, .jsonl or .parquet file with rows."),
]
Patterns = Annotated[
    list[str] | None, typer.Option(help="Shell pattern of the files of a folder to take; may be repeated.")
]
JobFolderOption = Annotated[
    str | None, typer.Option(help="Folder of the job's own files, seen by all machines; by default inside OUTPUT.")
]
WeightsFolder = Annotated[
    Path | None, typer.Option(envvar="SEEDVR2_WEIGHTS_DIR", help="Folder with checkpoints on every machine.")
]
MaxWorkers = Annotated[int | None, typer.Option(min=1, help="Restorers at most; by default all that fit.")]
Bag = Annotated[
    bool, typer.Option("--bag", help="Put BagIt's tag files with the SHA-256 of every result beside the results.")
]


@with_settings
def batch(
    settings: RestoreSettings,
    context: typer.Context,
    manifest: ManifestName = None,
    output: Output = None,
    pattern: Patterns = None,
    job_folder: JobFolderOption = None,
    address: Address = None,
    min_workers: Annotated[int, typer.Option(min=1, help="Restorers that are always kept.")] = 1,
    max_workers: MaxWorkers = None,
    gpus_per_worker: Annotated[float | None, typer.Option(min=0, help="By default 1 where there are GPUs.")] = None,
    gang_size: GangSize = 1,
    sp_strategy: SpStrategy = "auto",
    placement_group: GroupName = None,
    cpus_per_worker: Annotated[float, typer.Option(min=0, help="For decoding and encoding beside the GPU.")] = 1.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace targets that exist.")] = False,
    verify: Verify = False,
    keep_work: Annotated[bool, typer.Option("--keep-work", help="Leave the intermediates in place.")] = False,
    price: Annotated[float, typer.Option(min=0, help="Price of a GPU hour, for the report.")] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan everything, restore nothing.")] = False,
    rate: Rate = 10.0,
    scratch: Annotated[str | None, typer.Option(help="Folder on every machine for copies of remote sources.")] = None,
    weights_dir: WeightsFolder = None,
    mirror: Mirror = None,
    attention: Annotated[AttentionBackend, typer.Option(help="Attention kernel.")] = "sdpa",
    max_pixels: Annotated[int, typer.Option(help="Largest output, in pixels of width x height.")] = DEFAULT_MAX_PIXELS,
    fail_on: FailOn = "any",
    bag: Bag = False,
    as_json: Json = False,
) -> None:
    """Restore a whole archive: every file of a manifest, on all GPUs of a Ray cluster or on this machine.

    Stopping it (Ctrl-C, a crash, ray job stop, a lost machine) loses at most the segments in work: run the
    same command again and it goes on. Files that cannot be restored are set aside in quarantine.jsonl with the
    reason and the way out, and the exit code is then 3; the report is in the job's folder.
    """
    if context.invoked_subcommand is not None:
        return
    manifest = require_manifest(manifest)
    if address_of(address) == OWN:
        confine()
    # Ray takes seconds to import, which every other command would pay for with each start.
    from seedvr2_ray.batch.bulk import BulkRequest, estimate_bulk, run_bulk
    from seedvr2_ray.batch.execution.cluster import Pool
    from seedvr2_ray.batch.manifest.manifest import ManifestSource
    from seedvr2_ray.cli.archive.console import BulkDisplay, show_estimate, show_report
    from seedvr2_ray.restoration.load import CatalogueRestorers, LoadOptions

    request = BulkRequest(
        manifest=ManifestSource(url=manifest, output=output, defaults=settings, patterns=tuple(pattern or ())),
        folder=job_folder,
        pool=Pool(
            min_size=min_workers,
            max_size=max_workers,
            num_gpus=gpus_per_worker,
            num_cpus=cpus_per_worker,
            gang_size=gang_size,
            sp_strategy=sp_strategy,
            placement_group=placement_group,
        ),
        address=address,
        restorers=CatalogueRestorers(LoadOptions(weights=weights_source(weights_dir, mirror), attention=attention)),
        overwrite=overwrite,
        verify=verify,
        keep_work=keep_work,
        max_pixels=max_pixels,
        price_per_gpu_hour=price,
        scratch=scratch,
        bag=bag,
    )
    console = Console(highlight=False, soft_wrap=True)
    if dry_run:
        estimate = estimate_bulk(request, rate).summary()
        console.print_json(json.dumps(estimate)) if as_json else show_estimate(estimate, console)
        return
    with BulkDisplay(quiet=as_json) as display:
        summary = run_bulk(request, display)
    console.print_json(json.dumps(summary)) if as_json else show_report(summary, request.job_folder(), console)
    if counts_as_failure(summary["files"], fail_on):
        raise typer.Exit(SET_ASIDE)


def require_manifest(manifest: str | None) -> str:
    """Return the manifest; it is no option that must be given, because ``batch status`` has none.

    Raises:
        SettingsError: it is missing.
    """
    if manifest is None:
        raise SettingsError("missing option '--manifest': name what to restore, a folder, a prefix, or a table of rows")
    return manifest


def counts_as_failure(files: Mapping[str, int], fail_on: str) -> bool:
    """Say whether a job that set files aside failed, in the eyes of who asked for it."""
    if fail_on == "never" or not files["quarantined"]:
        return False
    return fail_on == "any" or files["published"] + files["skipped"] == 0
