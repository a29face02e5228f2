"""One video or image on this machine: plan, restore, finish, assemble; safe to stop and to run again."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from seedvr2_ray.errors import InputError, TargetError
from seedvr2_ray.media.info import merge_notices
from seedvr2_ray.media.output.master import is_sequence, sequence_name
from seedvr2_ray.media.output.rehearsal import rehearse
from seedvr2_ray.media.probe import ProbeLimits, probe
from seedvr2_ray.restoration.outcome import write_run_report
from seedvr2_ray.restoration.planning.geometry import DEFAULT_MAX_PIXELS
from seedvr2_ray.restoration.planning.plan import Plan, plan_video
from seedvr2_ray.restoration.restorer import Restorer, RestorerIdentity, close_restorer
from seedvr2_ray.restoration.work.assemble import Assembly, assemble, beside, folder_of, require_free_names
from seedvr2_ray.restoration.work.earlier import EarlierWork
from seedvr2_ray.restoration.work.encoded_segments import finish_part, neighbourhood_of
from seedvr2_ray.restoration.work.first_pass import look_through
from seedvr2_ray.restoration.work.remaining import PARTS, RESTORED, Work, plan_work
from seedvr2_ray.restoration.work.segment import restore_segment
from seedvr2_ray.restoration.work.work_folder import excerpts_folder_of, open_work, remove_excerpts
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.address import Fingerprint, fingerprint, has_changed
from seedvr2_ray.storage.commits import CommitStore
from seedvr2_ray.storage.faults import printable
from seedvr2_ray.storage.location import fetch, is_local, require_source, require_writable

_MAX_WAITING_PARTS = 2


class Progress(Protocol):
    """Told what happens during a run. Every method may be called from the thread that runs it only."""

    def stage(self, name: str) -> None:
        """A stage begins: ``probe``, ``shots``, ``load``, ``restore``, ``assemble``."""

    def planned(self, plan: Plan, frames_to_restore: int) -> None:
        """The plan is made; so many frames are still to be restored."""

    def restored(self, num_frames: int) -> None:
        """So many more frames are restored."""


class NullProgress:
    """A :class:`Progress` that nobody looks at."""

    def stage(self, name: str) -> None: ...

    def planned(self, plan: Plan, frames_to_restore: int) -> None: ...

    def restored(self, num_frames: int) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A source that is probed and planned, and where its bytes and its work lie."""

    plan: Plan
    source_path: str
    fingerprint: Fingerprint
    """Of the bytes at ``source_path``."""
    store: CommitStore
    workspace: Path
    earlier: EarlierWork | None = None
    """What excerpts have left for the whole."""

    @property
    def work(self) -> Work:
        """What is not committed yet."""
        restored, parts = self.store.addresses(RESTORED), self.store.addresses(PARTS)
        if self.earlier is not None:
            restored |= self.earlier.store.addresses(RESTORED)
            parts |= self.earlier.store.addresses(PARTS)
        return plan_work(self.plan.segments, set(restored), set(parts))

    def take_over(self) -> None:
        """Take what excerpts have left into the store of the whole."""
        if self.earlier is not None:
            self.earlier.take_over(self.plan.segments, self.store, self.workspace)

    @property
    def frames_to_restore(self) -> int:
        """Frames, overlaps included, that no earlier run has restored."""
        return sum(self.plan.segments[index].num_frames for index in self.work.to_restore)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """What a run leaves behind."""

    plan: Plan
    assembly: Assembly
    seconds: float
    restored_frames: int
    """Frames restored by this run; those of earlier runs were not done again."""
    stages: dict[str, float]
    """Seconds spent in each stage."""
    report: str | None = None
    """Where the report page lies, if one was asked for."""

    def summary(self) -> dict[str, Any]:
        """Return the outcome in a few plain values, for a person or a program."""
        return {
            **self.plan.summary(),
            "target": printable(self.assembly.target),
            "sidecar": printable(self.assembly.sidecar),
            "report": self.report and printable(self.report),
            "seconds": round(self.seconds, 3),
            "frames_restored_now": self.restored_frames,
            "stages": {name: round(seconds, 3) for name, seconds in self.stages.items()},
            "notices": [asdict(notice) for notice in self.assembly.notices],
        }


def prepare(
    source: str,
    target: str,
    settings: RestoreSettings,
    identity: RestorerIdentity,
    *,
    store: CommitStore,
    workspace: Path,
    limits: ProbeLimits | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    overwrite: bool = True,
    earlier: EarlierWork | None = None,
    progress: Progress | None = None,
    accept: Callable[[Plan], None] = lambda plan: None,
) -> Prepared:
    """Probe a source, look through it for shots and pictures (once per source), and plan.

    Args:
        store: where work is committed; remembers the shots and the pictures' check values.
        workspace: a local folder; a remote source is fetched into it.
        overwrite: whether images of a sequence may be there already.
        earlier: what excerpts of the source have left for the whole.
        accept: raises to refuse what the restorer cannot do, before the source is looked through.

    Raises:
        InputError: the source, the settings or the target are refused.
    """
    progress = progress or NullProgress()
    progress.stage("probe")
    source_path = str(fetch(source, workspace))
    mark = fingerprint(source_path)
    media = probe(source_path, limits=limits or ProbeLimits(), salvage=settings.salvage)
    plan_with = partial(
        plan_video,
        media,
        settings,
        source=source,
        fingerprint=mark.text,
        restorer=identity,
        target=target,
        max_pixels=max_pixels,
    )
    # Whatever can be refused is refused before minutes are spent on looking through the source.
    plan = plan_with(shots=(0,))
    accept(plan)
    outlook = rehearse(source_path, media, plan.recipe.master)
    if not overwrite:
        require_free_names(plan, target)
    progress.stage("shots")
    if earlier is not None:
        earlier.share_first_pass(store)
    seen = look_through(source_path, media, mark.text, store, salvage=settings.salvage)
    plan = plan_with(shots=seen.shots if settings.detect_shots else (0,), proof=seen.proof)
    plan = replace(plan, notices=merge_notices(plan.notices, outlook))
    return Prepared(
        plan=plan, source_path=source_path, fingerprint=mark, store=store, workspace=workspace, earlier=earlier
    )


def run(
    prepared: Prepared,
    load_restorer: Callable[[], Restorer],
    target: str,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    check_cancelled: Callable[[], None] = lambda: None,
) -> Finished:
    """Restore what is not committed yet, finish, and assemble.

    Finishing runs in a thread beside restoring and is at most a few segments behind; an intermediate
    is deleted as soon as no missing part needs it. Stopping at any point loses at most the segments
    in flight.

    Args:
        load_restorer: called only if something is left to restore.

    Returns:
        What was done, after the master is published.
    """
    progress = progress or NullProgress()
    began = time.perf_counter()
    plan, store = prepared.plan, prepared.store
    work, frames_to_restore = prepared.work, prepared.frames_to_restore
    progress.planned(plan, frames_to_restore)
    prepared.take_over()
    restorer: Restorer | None = None
    if work.to_restore:
        progress.stage("load")
        restorer = load_restorer()
    restore_began = time.perf_counter()
    progress.stage("restore")
    try:
        _restore_and_finish(prepared, work, restorer, progress, check_cancelled)
    finally:
        close_restorer(restorer)
    check_cancelled()
    assemble_began = time.perf_counter()
    progress.stage("assemble")
    _require_unchanged(prepared)
    stages = {"load": restore_began - began, "restore": assemble_began - restore_began}
    assembly = assemble(
        plan,
        store,
        target,
        source_path=prepared.source_path,
        workspace=prepared.workspace,
        overwrite=overwrite,
        timings=stages,
    )
    ended = time.perf_counter()
    return Finished(
        plan=plan,
        assembly=assembly,
        seconds=ended - began,
        restored_frames=frames_to_restore,
        stages={**stages, "assemble": ended - assemble_began},
    )


def _restore_and_finish(
    prepared: Prepared,
    work: Work,
    restorer: Restorer | None,
    progress: Progress,
    check_cancelled: Callable[[], None],
) -> None:
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="finish") as finisher:
        waiting: list[Future[None]] = []
        try:
            for segment in prepared.plan.segments:
                check_cancelled()
                if segment.index in work.to_restore and restorer is not None:
                    restore_segment(
                        prepared.plan.recipe,
                        segment,
                        restorer,
                        prepared.store,
                        source_path=prepared.source_path,
                        workspace=prepared.workspace,
                        on_frames=progress.restored,
                        check_cancelled=check_cancelled,
                    )
                if segment.has_part:
                    waiting.append(finisher.submit(_finish, prepared, segment.index, check_cancelled))
                while len(waiting) > _MAX_WAITING_PARTS:
                    waiting.pop(0).result()
            for future in waiting:
                future.result()
        except BaseException:
            finisher.shutdown(wait=False, cancel_futures=True)
            raise


def restore_video(
    source: str,
    target: str,
    settings: RestoreSettings,
    identity: RestorerIdentity,
    load_restorer: Callable[[], Restorer],
    *,
    work_folder: str | None = None,
    keep_work: bool = False,
    overwrite: bool = False,
    limits: ProbeLimits | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    report: bool = True,
    progress: Progress | None = None,
    check_cancelled: Callable[[], None] = lambda: None,
    accept: Callable[[Plan], None] = lambda plan: None,
) -> Finished:
    """Restore one file; if a run was cut off, the same call goes on from its last committed segment.

    Args:
        work_folder: where intermediates are kept; by default a hidden folder beside the target.
        keep_work: leave it in place after success.
        report: publish a page with figures and pictures beside the target.
        accept: see :func:`prepare`.

    Raises:
        InputError: the source, the settings or the target are refused; nothing was written.
    """
    require_source(source)
    require_target(source, target, overwrite=overwrite)
    excerpt_of, earlier = excerpt_work(source, target, work_folder, settings)
    with open_work(target, work_folder, keep=keep_work, excerpt_of=excerpt_of) as (store, workspace):
        prepared = prepare(
            source,
            target,
            settings,
            identity,
            store=store,
            workspace=workspace,
            limits=limits,
            max_pixels=max_pixels,
            overwrite=overwrite,
            earlier=earlier,
            progress=progress,
            accept=accept,
        )
        finished = run(
            prepared,
            load_restorer,
            target,
            overwrite=overwrite,
            progress=progress,
            check_cancelled=check_cancelled,
        )
        if report:
            url = beside(target, ".html")
            write_run_report(
                url,
                finished.plan,
                finished.assembly,
                source_path=prepared.source_path,
                elapsed_seconds=finished.seconds,
                restored_frames=finished.restored_frames,
            )
            finished = replace(finished, report=url)
    if earlier is not None and not keep_work:
        remove_excerpts(Path(earlier.store.root_url))
    return finished


def excerpt_work(
    source: str, target: str, work_folder: str | None, settings: RestoreSettings
) -> tuple[str | None, EarlierWork | None]:
    """Say whose excerpt a target is, and what excerpts have left for one that is the whole."""
    if settings.excerpt:
        return source, None
    root = excerpts_folder_of(source, target, work_folder)
    return None, EarlierWork(CommitStore(str(root))) if root.exists() else None


def require_target(source: str, target: str, *, overwrite: bool) -> None:
    """Refuse a target that cannot be written, before anything is read.

    Raises:
        TargetError: it exists and may not be overwritten, is the source itself, or cannot be written.
    """
    if is_local(source) and is_local(target) and Path(source).resolve() == Path(target).resolve():
        raise TargetError(f"{printable(target)} is the source itself; choose another name for the output")
    # Of a sequence the folder is proved here, by its first image; the plan knows how many there will be. It also
    # knows whether the source is one picture, whose target's name is a name whatever it looks like.
    if is_sequence(target):
        require_writable(f"{folder_of(target)}{sequence_name(target, 'png', 1)}", overwrite=overwrite)
    if not target.endswith("/"):
        require_writable(target, overwrite=overwrite)


def _finish(prepared: Prepared, index: int, check_cancelled: Callable[[], None]) -> None:
    finish_part(
        prepared.plan.recipe,
        neighbourhood_of(prepared.plan.segments, index),
        prepared.store,
        workspace=prepared.workspace,
        check_cancelled=check_cancelled,
    )


def _require_unchanged(prepared: Prepared) -> None:
    if has_changed(prepared.source_path, prepared.fingerprint):
        raise InputError(
            f"{printable(prepared.plan.recipe.source)} changed while it was being restored; "
            "run the same command again to restore its new content"
        )
