"""Finishing segments, publishing results and stills. May be called again after any failure.

Pictures for people, in the report and as stills, are scaled in tensors: torch comes with the first of them, and not
where segments are finished.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from seedvr2_ray.media.probe import probe
from seedvr2_ray.restoration.planning.plan import Plan
from seedvr2_ray.restoration.work.assemble import Assembly, join, sidecar_bytes
from seedvr2_ray.restoration.work.encoded_segments import finish_part
from seedvr2_ray.restoration.work.pieces import extract_own_frames
from seedvr2_ray.restoration.work.remaining import RESTORED
from seedvr2_ray.serve.jobs import ResultInfo
from seedvr2_ray.serve.observability.tracing import traced
from seedvr2_ray.serve.results import MEDIA_TYPES, Results, renamed
from seedvr2_ray.serve.target_names import target_name
from seedvr2_ray.serve.workers.protocol import (
    PartOrder,
    PreviewOrder,
    PublishOrder,
)
from seedvr2_ray.serve.workers.storage_layout import StorageLayout
from seedvr2_ray.storage.address import fingerprint

if TYPE_CHECKING:
    from seedvr2_ray.restoration.report.comparison import ComparisonPicture


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
    from seedvr2_ray.restoration.outcome import picture_of, write_run_report

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
    from seedvr2_ray.restoration.outcome import read_frame
    from seedvr2_ray.restoration.report.comparison import compare_frames

    results, segment = layout.results, order.segment
    store = layout.store_of(order.source.content)
    if results.has("after", order.result_address):
        return True
    commit = store.look(RESTORED, segment.address)
    if commit is None:
        return False
    with layout.workspace() as workspace, layout.opened(order.source) as path:
        restored = str(extract_own_frames(segment, store, commit, workspace))
        middle = segment.part_frames // 2
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
