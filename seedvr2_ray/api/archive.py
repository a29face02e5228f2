"""A whole archive on Ray, from a program or a notebook."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seedvr2_ray.api.files import FileName
from seedvr2_ray.html import render_facts
from seedvr2_ray.restoration.load import CatalogueRestorers, LoadOptions
from seedvr2_ray.settings import RestoreSettings

if TYPE_CHECKING:
    from seedvr2_ray.batch.bulk import BulkProgress
    from seedvr2_ray.batch.execution.cluster import Pool
    from seedvr2_ray.batch.execution.rows import SegmentResult
    from seedvr2_ray.batch.execution.videos import VideoOutcome
    from seedvr2_ray.batch.manifest.normalise import Normalised
    from seedvr2_ray.batch.report.outcomes import Totals


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveRun:
    """What a job on an archive did, or would take."""

    folder: str
    """With the job's files: ``report.parquet`` (a row per file), ``report.json``, ``report.html`` and
    ``quarantine.jsonl`` (files that were set aside, with the reason and the way out)."""
    values: dict[str, Any]
    """The report, or of a dry run the estimate, in plain values."""

    def _repr_html_(self) -> str:
        return render_facts(self.folder, [(name, value) for name, value in self.values.items() if value != {}])


def restore_archive(
    manifest: FileName,
    output: FileName | None = None,
    settings: RestoreSettings | None = None,
    *,
    patterns: Sequence[str] = (),
    job_folder: str | None = None,
    address: str | None = None,
    pool: "Pool | None" = None,
    overwrite: bool = False,
    options: LoadOptions | None = None,
    price_per_gpu_hour: float = 0.0,
    dry_run: bool = False,
    megapixels_per_second: float = 10.0,
    progress: "BulkProgress | None" = None,
) -> ArchiveRun:
    """Restore every file of a manifest on Ray; the same call goes on after any interruption.

    Args:
        manifest: a folder, an object store's prefix, or a .csv, .jsonl or .parquet file with rows.
        output: folder or prefix of the results; None where every row names its target.
        settings: what holds where a row says nothing.
        patterns: shell patterns of the files of a folder to take.
        job_folder: of the job's own files, seen by all machines; by default inside ``output``.
        address: of a Ray cluster. By default the Ray that is there already, else what ``RAY_ADDRESS`` says, else one
            of its own on this machine: to move to a cluster is to change this.
        pool: how many restorers, and what each takes of the cluster.
        options: how every machine loads models.
        dry_run: plan everything and restore nothing.
        megapixels_per_second: of output, that one restorer is assumed to make; for a dry run.

    Returns:
        The report's values and where its files lie.

    Raises:
        InputError: the manifest is refused; nothing was restored. A file that is refused is set aside instead.
        DeploymentError: there is no cluster, or it cannot restore anything.
    """
    # Ray takes seconds to import, and nothing else here needs it.
    from seedvr2_ray.batch.bulk import BulkRequest, estimate_bulk, run_bulk
    from seedvr2_ray.batch.execution.cluster import Pool
    from seedvr2_ray.batch.manifest.manifest import ManifestSource

    request = BulkRequest(
        manifest=ManifestSource(
            url=str(manifest),
            output=None if output is None else str(output),
            defaults=settings or RestoreSettings(),
            patterns=tuple(patterns),
        ),
        folder=job_folder,
        pool=pool or Pool(),
        address=address,
        restorers=CatalogueRestorers(options or LoadOptions()),
        overwrite=overwrite,
        price_per_gpu_hour=price_per_gpu_hour,
    )
    if dry_run:
        return ArchiveRun(folder=request.job_folder(), values=estimate_bulk(request, megapixels_per_second).summary())
    return ArchiveRun(folder=request.job_folder(), values=run_bulk(request, progress or _Silent()))


class _Silent:
    """A progress that nobody looks at."""

    def began(self, manifest: "Normalised", price_per_gpu_hour: float) -> None: ...

    def received(self, result: "SegmentResult") -> None: ...

    def finished(self, outcome: "VideoOutcome", totals: "Totals") -> None: ...
