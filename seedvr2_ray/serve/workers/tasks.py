"""What orders mean: plain functions that prepare, restore, finish and publish, wherever they are called.

Nothing here knows of Ray, of jobs' states or of who waits. Every function may be called again after any failure: what
is committed is found and not done twice.
"""

import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from seedvr2_ray.errors import DeploymentError, MediaError, RetryableError
from seedvr2_ray.media.container.info import MediaInfo
from seedvr2_ray.media.container.probe import probe
from seedvr2_ray.media.output.codecs import CODECS, IMAGE_CONTAINERS, SUFFIXES, codecs_for
from seedvr2_ray.media.output.rehearsal import rehearse
from seedvr2_ray.media.reading.proof import Proof
from seedvr2_ray.restoration.load import CatalogueRestorers, RestorerSource
from seedvr2_ray.restoration.planning.plan import Plan, plan_video, publication_key
from seedvr2_ray.restoration.report.comparison import ComparisonPicture, compare_frames
from seedvr2_ray.restoration.report.outcome import picture_of, read_frame, write_run_report
from seedvr2_ray.restoration.restorer import Restorer
from seedvr2_ray.restoration.work.assemble import Assembly, join, sidecar_bytes
from seedvr2_ray.restoration.work.encoded_segments import finish_part, has_served
from seedvr2_ray.restoration.work.first_pass import look_through
from seedvr2_ray.restoration.work.segment import PARTS, RESTORED, restore_segment
from seedvr2_ray.serve.jobs import ResultInfo, Source
from seedvr2_ray.serve.observability.tracing import traced
from seedvr2_ray.serve.security.fetch import fetch_url
from seedvr2_ray.serve.security.inspection import inspect
from seedvr2_ray.serve.service.results import MEDIA_TYPES, Results, renamed
from seedvr2_ray.serve.workers.protocol import (
    PartOrder,
    PreparedJob,
    PrepareOrder,
    PreviewOrder,
    PublishOrder,
    SegmentOrder,
)
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.address import digest_of, fingerprint
from seedvr2_ray.storage.commits import CommitStore, content_folder
from seedvr2_ray.storage.location import exists, publish
from seedvr2_ray.storage.sources import Pinned, SourceCopies, default_scratch, pin, require_unchanged

_USUAL_CONTAINER = "mp4"
_KEPT_CONTAINERS = frozenset({"mp4", "mov", "mkv", "webm"})
"""Those in which a source's container is kept; AVI and others become MP4."""

_PREPARE_DEATHS = "deaths/prepare"
_ABANDONED_SECONDS = 24 * 3600.0
_UNUSED_SECONDS = 3600.0
"""A copy of a source that no segment was read from for so long is fetched again if it is wanted after all."""


class StalePlanError(RetryableError):
    """A segment was planned for another version of its model than the one that is loaded; it must be planned again."""


class Stopped(Exception):  # Nothing went wrong.
    """Raised inside a restorer to stop it: whoever ordered the segment does not want it any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageLayout:
    """Where a deployment keeps things, as every process of it must know: small, picklable."""

    data: str
    """Folder or fsspec URL that every machine sees."""
    scratch: str = field(default_factory=default_scratch)
    """Folder on every machine for copies of remote sources and files being written."""
    scratch_bytes: int = 100 << 30
    restorers: RestorerSource = field(default_factory=CatalogueRestorers)

    @property
    def results(self) -> Results:
        """The store of results."""
        return Results(f"{self.data}/results")

    @property
    def log(self) -> CommitStore:
        """What is noted about whole jobs while they are prepared."""
        return CommitStore(f"{self.data}/log")

    @property
    def copies(self) -> SourceCopies:
        """Return this machine's copies of sources that lie elsewhere."""
        return SourceCopies(Path(self.scratch) / "sources", self.scratch_bytes)

    def upload_folder(self, upload_id: str) -> str:
        """Return where an upload lies."""
        return f"{self.data}/uploads/{upload_id}"

    def source_folder(self, job_id: str) -> str:
        """Return where what was fetched for a job lies."""
        return f"{self.data}/sources/{job_id}"

    def work_folder(self, content: str) -> str:
        """Return where the work on one content lies. Jobs with the same source share it."""
        return content_folder(self.data, content)

    def deaths_folder(self, job_id: str) -> str:
        """Return where it is noted which processes died while they prepared a job."""
        return f"{self.data}/log/{_PREPARE_DEATHS}/attempts/{job_id}"

    def store_of(self, content: str) -> CommitStore:
        """Return where the work on one content is committed."""
        return CommitStore(self.work_folder(content))

    @contextmanager
    def opened(self, source: Pinned) -> Iterator[Path]:
        """Give a local path of a source, which is still the one that was planned.

        Raises:
            MediaError: it was replaced.
        """
        with self.copies.opened(source.url, source.version) as path:
            require_unchanged(source)
            yield path

    def remove_abandoned(self) -> None:
        """Delete what killed processes of this machine left half-written, and copies of sources nobody asks for."""
        self.copies.remove_unused(older_than_seconds=_UNUSED_SECONDS)
        limit = time.time() - _ABANDONED_SECONDS
        for name in ("writing", "uploads", "estimates"):
            for left in (Path(self.scratch) / name).glob("*"):
                with suppress(FileNotFoundError):
                    if left.stat().st_mtime >= limit:
                        continue
                    shutil.rmtree(left) if left.is_dir() else left.unlink()

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Give a folder for files being written, gone afterwards."""
        folder = Path(self.scratch) / "writing" / uuid4().hex
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@traced("prepare")
def prepare(layout: StorageLayout, order: PrepareOrder) -> PreparedJob:
    """Fetch a source, look whether what is asked for is published, and if it is not, inspect and plan.

    Raises:
        InputError: the source or the settings are refused.
        RetryableError: a server or a store did not answer.
    """
    # Noted before it is read: a file that kills whoever reads it would kill one after the other.
    deaths = layout.log.record_attempt(_PREPARE_DEATHS, order.job_id) - 1
    try:
        if deaths >= order.limits.max_segment_tries:
            raise MediaError(
                f"{order.source.name} ended the process that read it {deaths} times; convert it with another program"
            )
        return _prepare(layout, order)
    finally:
        # Whoever gets here did not die of it.
        with suppress(RetryableError):
            layout.log.clear_attempts(_PREPARE_DEATHS, order.job_id)


def _prepare(layout: StorageLayout, order: PrepareOrder) -> PreparedJob:
    settings = RestoreSettings.from_mapping(order.settings)
    url = _bring_here(layout, order)
    version = fingerprint(url)
    with layout.copies.opened(url, version) as path:
        source = pin(url, version, path)
        require_unchanged(source)
        address = result_address(source.content, order.source.name, settings, order)
        published = layout.results.find(address, name=order.source.name)
        if published is not None:
            return PreparedJob(
                source=source,
                result_address=address,
                plan=None,
                published=replace(published, was_cached=True),
                has_preview=True,
            )
        store = layout.store_of(source.content)
        plan = _plan(order, settings, source, path, store)
    return PreparedJob(
        source=source,
        result_address=address,
        plan=plan,
        restored=store.addresses(RESTORED),
        parts=store.addresses(PARTS),
        has_preview=layout.results.has("after", address),
    )


def _plan(order: PrepareOrder, settings: RestoreSettings, source: Pinned, path: Path, store: CommitStore) -> Plan:
    media = inspect(path, order.limits, salvage=settings.salvage)

    def plan_with(shots: Sequence[int], proof: Proof | None = None) -> Plan:
        return plan_video(
            media,
            settings,
            # Neither name stands in a result: another owner with the same file may be given the same one.
            source=f"source{PurePosixPath(order.source.name).suffix.lower()}",
            target=target_name(media, settings, order.source.name),
            fingerprint=source.content,
            shots=shots,
            restorer=order.identity,
            max_pixels=order.limits.max_pixels,
            proof=proof,
        )

    # Whatever can be refused is refused before minutes are spent on looking through the source.
    plan = plan_with((0,))
    outlook = rehearse(str(path), media, plan.recipe.master)
    seen = look_through(str(path), media, source.content, store, salvage=settings.salvage)
    plan = plan_with(seen.shots if settings.detect_shots else (0,), seen.proof)
    return replace(plan, notices=(*plan.notices, *outlook))


def result_address(content: str, name: str, settings: RestoreSettings, order: PrepareOrder) -> str:
    """Address a result by everything that changes it: bytes, settings, model, versions, and the source's ending."""
    # The model is named by its identity: "auto" and its name are the same question.
    settings = replace(settings, model=order.identity.name)
    return publication_key(content, PurePosixPath(name).suffix.lower(), settings, order.identity)


def target_name(media: MediaInfo, settings: RestoreSettings, source_name: str) -> str:
    """Choose the container of a result, as the ending of a name; a pattern where every frame becomes an image."""
    own = SUFFIXES.get(PurePosixPath(source_name).suffix.lower(), "")
    if settings.codec in IMAGE_CONTAINERS:
        return f"restored.{settings.codec}" if media.kind == "image" else f"restored_%06d.{settings.codec}"
    if media.kind == "image":
        return f"restored.{own if own in IMAGE_CONTAINERS else 'png'}"
    if settings.container != "auto":
        return f"restored.{settings.container}"
    container = own if own in _KEPT_CONTAINERS else _USUAL_CONTAINER
    if settings.codec != "auto" and settings.codec not in codecs_for(container):
        container = CODECS[settings.codec].containers[0]
    return f"restored.{container}"


def _bring_here(layout: StorageLayout, order: PrepareOrder) -> str:
    """Return the URL under which every machine can read the source."""
    source = order.source
    if source.kind == "object":
        _require_allowed(source, order.fetch.object_prefixes)
        return source.location
    if source.kind == "upload":
        return f"{layout.upload_folder(source.location)}/{_plain(source.name)}"
    url = f"{layout.source_folder(order.job_id)}/{_plain(source.name)}"
    if not exists(url):
        with layout.workspace() as folder:
            fetched = folder / "fetched"
            fetch_url(source.location, fetched, order.fetch, order.limits)
            publish(fetched, url, overwrite=True)
    return url


def _plain(name: str) -> str:
    """Make sure that a name names a file right in its folder, whoever checked it before."""
    if name != PurePosixPath(name).name or name in ("", ".", ".."):
        raise MediaError("the source's file name is not usable; give it a name without slashes")
    return name


def _require_allowed(source: Source, prefixes: Sequence[str]) -> None:
    if not any(source.location.startswith(f"{prefix.rstrip('/')}/") for prefix in prefixes):
        raise DeploymentError(f"{source.name} lies in an object store that this deployment may not read any more")


@traced("restore")
def restore(
    layout: StorageLayout,
    order: SegmentOrder,
    restorer: Restorer,
    *,
    on_frames: Callable[[int], None] = lambda num_frames: None,
    check_cancelled: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Restore one segment and commit it; return its record.

    Raises:
        StalePlanError: the restorer is not the one that the segment was planned for.
        MediaError: the segment ended too many processes.
        Stopped: or whatever else ``check_cancelled`` raises.
    """
    store, segment = layout.store_of(order.source.content), order.segment
    found = _done_before(order, store)
    if found is not None:
        return found
    if restorer.identity != order.recipe.restorer:
        raise StalePlanError(
            f"segment {segment.index} was planned for another version of {order.recipe.restorer.name} than runs now"
        )
    kind = f"deaths/{digest_of(order.job_id)[:16]}"
    # Noted before the work: a segment that kills its process is known by what it leaves behind.
    deaths = store.record_attempt(kind, segment.address) - 1
    try:
        if deaths >= order.max_tries:
            raise MediaError(
                f"segment {segment.index} (frames {segment.span.start}..{segment.span.stop - 1}) ended the process "
                f"that restored it {deaths} times; convert the file, or cut these frames out"
            )
        with layout.workspace() as workspace, layout.opened(order.source) as path:
            return restore_segment(
                order.recipe,
                segment,
                restorer,
                store,
                source_path=str(path),
                workspace=workspace,
                on_frames=on_frames,
                check_cancelled=check_cancelled,
            )
    finally:
        # Whoever gets here did not die of it.
        with suppress(RetryableError):
            store.clear_attempts(kind, segment.address)


def _done_before(order: SegmentOrder, store: CommitStore) -> dict[str, Any] | None:
    """Return the record of a segment that another job restored, even if its intermediate has served and is gone."""
    found = store.find(RESTORED, order.segment.address)
    if found is None and has_served(order.segment, order.blended_part, store):
        found = (store.find(PARTS, order.segment.part_address) or {}).get("restored")
    return found


@traced("finish")
def finish(layout: StorageLayout, order: PartOrder) -> None:
    """Blend, encode and commit one part, and delete the intermediates that have served.

    Raises:
        StorageError: an intermediate is gone; the job must be planned again.
    """
    with layout.workspace() as workspace:
        finish_part(order.recipe, order.around, layout.store_of(order.content), workspace=workspace)


@traced("publish")
def publish_result(layout: StorageLayout, order: PublishOrder) -> ResultInfo:
    """Join a video's parts and publish the master with its sidecar, report page and stills."""
    results, plan, address = layout.results, order.plan, order.result_address
    published = results.find(address, name=order.name)
    if published is not None:
        return published
    target = target_name(plan.media, plan.recipe.settings, order.name)
    with layout.workspace() as workspace, layout.opened(order.source) as path:
        store = layout.store_of(order.source.content)
        joined = join(plan, store, target, source_path=str(path), workspace=workspace, timings={})
        _add_beside(results, address, plan, joined, path, workspace)
        master = _single_file(joined, workspace)
        info = _describe(plan, joined, master, address)
        results.publish(info, master)
    return results.find(address, name=order.name) or renamed(info, order.name)


def _add_beside(results: Results, address: str, plan: Plan, joined: Assembly, path: Path, workspace: Path) -> None:
    sidecar = workspace / "sidecar.json"
    sidecar.write_bytes(sidecar_bytes(joined))
    results.add("sidecar", address, sidecar)
    report = workspace / "report.html"
    records = [segment["restored"] for segment in joined.provenance["segments"]]
    write_run_report(
        str(report),
        plan,
        joined,
        source_path=str(path),
        elapsed_seconds=sum(record["seconds"] for record in records),
        restored_frames=plan.restored_frames,
    )
    results.add("report", address, report)
    if not results.has("after", address):
        _add_stills(results, address, picture_of(plan, joined, source_path=str(path)), workspace)


def _single_file(joined: Assembly, workspace: Path) -> Path:
    """Return the master as one file: the images of a sequence go into an archive, as they are."""
    if len(joined.local_paths) == 1:
        return Path(joined.local_paths[0])
    packed = workspace / "images.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for path in map(Path, joined.local_paths):
            # Without the time of day, so that the same images make the same archive.
            with archive.open(zipfile.ZipInfo(path.name), "w", force_zip64=True) as entry, path.open("rb") as image:
                shutil.copyfileobj(image, entry)
    return packed


def _describe(plan: Plan, joined: Assembly, master: Path, address: str) -> ResultInfo:
    geometry = plan.recipe.geometry
    container = master.suffix.removeprefix(".")
    return ResultInfo(
        address=address,
        name=f"restored{master.suffix}",
        media_type=MEDIA_TYPES[container],
        num_bytes=master.stat().st_size,
        sha256=fingerprint(master).text.removeprefix("sha256-"),
        width=geometry.width,
        height=geometry.height,
        num_frames=plan.media.video.num_frames,
    )


@traced("preview")
def preview(layout: StorageLayout, order: PreviewOrder) -> bool:
    """Publish before and after stills of a restored segment, while the rest of the video is still at work.

    Returns:
        Whether there are stills now. There are none yet if the segment's intermediate has served and is gone.
    """
    results, segment = layout.results, order.segment
    store = layout.store_of(order.source.content)
    if results.has("after", order.result_address):
        return True
    if store.find(RESTORED, segment.address) is None:
        return False
    with layout.workspace() as workspace, layout.opened(order.source) as path:
        restored = str(store.fetch_payload(RESTORED, segment.address, workspace))
        middle = segment.num_frames // 2
        media = probe(restored)
        after = read_frame(restored, media.video, middle, media.frame_pts[middle])
        number, recipe = segment.span.start + middle, order.recipe
        before = read_frame(str(path), recipe.video, number, segment.span.pts[middle], recipe.settings.deinterlace)
        _add_stills(results, order.result_address, compare_frames(before, after, ""), workspace)
    return True


def _add_stills(results: Results, address: str, picture: ComparisonPicture, workspace: Path) -> None:
    before, after = workspace / "before.jpeg", workspace / "after.jpeg"
    before.write_bytes(picture.before)
    after.write_bytes(picture.after)
    # "after" is what says that both are there.
    results.add("before", address, before)
    results.add("after", address, after)
