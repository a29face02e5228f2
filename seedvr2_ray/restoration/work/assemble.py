"""``assemble``: join the finished parts, copy what is not video, verify, publish, and say what was done."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import seedvr2_ray
from seedvr2_ray.errors import TargetError
from seedvr2_ray.media.info import Notice, merge_notices
from seedvr2_ray.media.output.join import join_parts
from seedvr2_ray.media.output.libraries import library_versions
from seedvr2_ray.media.output.master import sequence_name
from seedvr2_ray.restoration.planning.plan import PIPELINE_VERSION, Plan, Segment
from seedvr2_ray.restoration.work.remaining import PARTS
from seedvr2_ray.storage.address import jsonable
from seedvr2_ray.storage.commits import CommitStore
from seedvr2_ray.storage.faults import printable
from seedvr2_ray.storage.local_backend import LocalBackend
from seedvr2_ray.storage.location import exists, publish, publish_bytes
from seedvr2_ray.storage.records import Commit, LostWorkError


@dataclass(frozen=True, kw_only=True, slots=True)
class Assembly:
    """A joined master, and what there is to say about it."""

    target: str
    local_paths: tuple[str, ...]
    """In the workspace: one file, or every image of a sequence."""
    sidecar: str
    """Where the provenance belongs: beside the target, with ``.json`` after its name."""
    provenance: Mapping[str, Any]
    notices: tuple[Notice, ...]
    """Everything that was kept, converted or left out, by the plan and by the join."""


def assemble(
    plan: Plan,
    store: CommitStore,
    target: str,
    *,
    source_path: str,
    workspace: Path,
    overwrite: bool,
    timings: Mapping[str, float],
    known: Mapping[str, Commit] = MappingProxyType({}),
) -> Assembly:
    """Join all parts of a plan into the master and publish it with its provenance beside it.

    Args:
        known: commits of parts, by address, as far as the caller has them; others are asked for.

    Raises:
        StorageError: a part is not committed, or is not what its record says.
        TargetError: the target exists, or cannot be written.
    """
    joined = join(plan, store, target, source_path=source_path, workspace=workspace, timings=timings, known=known)
    for output in joined.local_paths:
        publish(output, _published_name(plan, target, output), overwrite=overwrite)
    publish_bytes(sidecar_bytes(joined), joined.sidecar, overwrite=True)
    return joined


def join(
    plan: Plan,
    store: CommitStore,
    target: str,
    *,
    source_path: str,
    workspace: Path,
    timings: Mapping[str, float],
    known: Mapping[str, Commit] = MappingProxyType({}),
) -> Assembly:
    """Join all parts of a plan in the workspace; whoever called publishes what came of it.

    The join copies packets, so it takes seconds and its bytes depend on the parts alone.

    Args:
        target: what the provenance calls the master; its last component may name the images of a sequence.

    Raises:
        StorageError: a part is not committed, or is not what its record says.
    """
    with_parts = [segment for segment in plan.segments if segment.has_part]
    commits = [known.get(each.part_address) or _require_part(store, each) for each in with_parts]
    parts = [
        str(store.fetch_payload(PARTS, segment.part_address, workspace, known=commit))
        for segment, commit in zip(with_parts, commits, strict=True)
    ]
    report = join_parts(
        parts,
        master=plan.recipe.master,
        source_path=source_path,
        media=plan.media,
        frame_pts=plan.media.frame_pts,
        first_frame=None if plan.excerpt is None else plan.excerpt.start,
        target_path=_joined_path(plan, target, workspace),
    )
    # What the rehearsal foretold and the join confirms is said once.
    notices = merge_notices(plan.notices, report.notices)
    return Assembly(
        target=target,
        local_paths=report.outputs,
        sidecar=beside(target, ".json"),
        provenance=_provenance(plan, commits, target, report.outputs, notices, timings),
        notices=notices,
    )


def sidecar_bytes(assembly: Assembly) -> bytes:
    """Return the file that says how a master was made."""
    return (json.dumps(assembly.provenance, indent=1, ensure_ascii=False) + "\n").encode("utf-8")


def beside(target: str, suffix: str) -> str:
    """Name a file that goes with a target: ``out.mp4.json``, or ``frames.json`` beside a folder ``frames/``."""
    return f"{target.rstrip('/')}{suffix}"


def folder_of(target: str) -> str:
    """Return everything before a target's last component, slash included; nothing where there is none."""
    folder, slash, _ = target.rpartition("/")
    return folder + slash


def require_free_names(plan: Plan, target: str) -> None:
    """Refuse a sequence of which an image exists already, before the first of them is restored.

    Raises:
        TargetError: it exists.
    """
    if plan.recipe.master.kind != "image_sequence":
        return
    for index in range(1, plan.media.video.num_frames + 1):
        name = f"{folder_of(target)}{sequence_name(target, plan.recipe.master.container, index)}"
        if exists(name):
            raise TargetError(f"{printable(name)} exists; choose another name or allow overwriting it (--overwrite)")


def _joined_path(plan: Plan, target: str, workspace: Path) -> str:
    if plan.recipe.master.kind != "image_sequence":
        return str(workspace / f"joined.{plan.recipe.master.container}")
    folder = workspace / "joined"
    folder.mkdir(exist_ok=True)
    # The last component of the target: a pattern for the names, or nothing when it is a folder.
    return str(folder / target.rpartition("/")[2]) if not target.endswith("/") else f"{folder}/"


def _published_name(plan: Plan, target: str, output: str) -> str:
    if plan.recipe.master.kind != "image_sequence":
        return target
    return f"{folder_of(target)}{Path(output).name}"


def _provenance(
    plan: Plan,
    commits: Sequence[Commit],
    target: str,
    local_paths: Sequence[str],
    notices: Sequence[Notice],
    timings: Mapping[str, float],
) -> dict[str, Any]:
    recipe, video = plan.recipe, plan.media.video
    return {
        "software": {
            "seedvr2_ray": seedvr2_ray.__version__,
            "pipeline": PIPELINE_VERSION,
            "python": platform.python_version(),
            "torch": version("torch"),
            **library_versions(),
        },
        "source": {
            "url": printable(recipe.source),
            "fingerprint": recipe.fingerprint,
            "size_bytes": plan.media.size_bytes,
            "video": jsonable(video),
        },
        "target": {
            "url": printable(target),
            "master": jsonable(recipe.master),
            "outputs": [_output_record(plan, target, path) for path in local_paths],
        },
        "restorer": jsonable(recipe.restorer),
        "settings": recipe.settings.to_mapping(),
        "frames": video.num_frames,
        "excerpt": None if plan.excerpt is None else plan.excerpt.summary(),
        "shots": list(plan.shots),
        "segments": [
            {
                "address": segment.address,
                "part_address": segment.part_address,
                **commit.record,
                # Whoever made the part may have counted otherwise: an excerpt, or a plan with other cuts before it.
                "segment": segment.index,
            }
            for segment, commit in zip((segment for segment in plan.segments if segment.has_part), commits, strict=True)
        ],
        "preflight": [asdict(notice) for notice in notices],
        "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {name: round(seconds, 3) for name, seconds in timings.items()},
    }


def _output_record(plan: Plan, target: str, path: str) -> dict[str, Any]:
    """Say what a file of the master is to look like for as long as it counts as done."""
    return {
        "name": _published_name(plan, target, path).rpartition("/")[2],
        "size_bytes": Path(path).stat().st_size,
        "sha256": LocalBackend().sha256(path),
    }


def _require_part(store: CommitStore, segment: Segment) -> Commit:
    commit = store.look(PARTS, segment.part_address)
    if commit is None:
        raise LostWorkError(f"the finished part of segment {segment.index} is not committed; run the command again")
    return commit
