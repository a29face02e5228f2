"""Probing, planning and restoring one file: the command line's verbs with its defaults, as functions."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from seedvr2_ray.api.drawings import draw_plan
from seedvr2_ray.api.progress import ProgressBar
from seedvr2_ray.html import render_facts, render_grid
from seedvr2_ray.media.info import MediaInfo, Notice
from seedvr2_ray.media.probe import probe as probe_file
from seedvr2_ray.restoration.load import LoadOptions, find_model, local_device
from seedvr2_ray.restoration.one_file import Outlook, plan_one_file, restore_one_file
from seedvr2_ray.restoration.planning.device_memory import look_at_device
from seedvr2_ray.restoration.planning.forecast import MemoryForecast, forecast_memory
from seedvr2_ray.restoration.planning.plan import Plan, Segment
from seedvr2_ray.restoration.run import Finished, Progress
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.location import require_source

FileName = str | os.PathLike[str]
"""A path, or a URL that fsspec opens."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Probe(MediaInfo):
    """What a file is, and what would be kept, converted, left out or refused of it."""

    def __repr__(self) -> str:
        # Not the time of every frame, which may be a million numbers.
        return f"Probe({self.path!r}, {self.video.width}x{self.video.height}, {self.video.num_frames} frames)"

    def _repr_html_(self) -> str:
        video = self.video
        facts = [
            ("container", self.container),
            ("pictures", f"{video.codec}, {video.width}x{video.height}, {video.bit_depth} bits, {video.chroma}"),
            ("frames", f"{video.num_frames} at {float(video.frame_rate):.3f} per second"),
            ("duration", f"{float(self.duration_seconds):.2f} s"),
            ("colour", f"{video.colour.primaries} / {video.colour.transfer} / {video.colour.matrix}"),
            ("beside", "; ".join(f"{each.kind}: {each.description}" for each in self.streams) or "nothing"),
        ]
        return render_facts(Path(self.path).name, facts, below=_notices(self.preflight))


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class PlannedFile:
    """What `restore` would do with a file, and what is done of it already."""

    outlook: Outlook
    memory: MemoryForecast | None
    """On this machine; None where a few frames are all that is needed."""

    def __repr__(self) -> str:
        name = Path(str(self.summary()["source"])).name
        return f"PlannedFile({name!r}, {self.frames_to_restore} frames to restore in {len(self.segments)} segments)"

    @property
    def plan(self) -> Plan:
        """Shots, segments, sizes and how the master is written."""
        return self.outlook.plan

    @property
    def frames_to_restore(self) -> int:
        """Overlaps included; what an earlier run committed is not among them."""
        return self.outlook.frames_to_restore

    @property
    def shots(self) -> tuple[int, ...]:
        """Number of the first frame of every shot."""
        return self.plan.shots

    @property
    def segments(self) -> tuple[Segment, ...]:
        """What is restored, committed and resumed together."""
        return self.plan.segments

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the result in pixels."""
        return self.plan.recipe.geometry.width, self.plan.recipe.geometry.height

    def summary(self) -> dict[str, Any]:
        """Return the plan in a few plain values."""
        return self.outlook.summary()

    def _repr_html_(self) -> str:
        values = self.summary()
        facts: list[tuple[str, object]] = [
            ("size", f"{values['source_size']} to {values['size']}"),
            ("model", values["model"]),
            ("to restore", f"{self.frames_to_restore} frames, overlaps included"),
            ("master", f"{values['codec']} in {values['container']}"),
        ]
        if self.memory is not None:
            facts.append(("memory", self.memory))
        return render_facts(str(values["source"]), facts, below=draw_plan(self.plan) + _notices(self.plan.notices))


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class RestoredFile:
    """What a run left behind."""

    finished: Finished

    def __repr__(self) -> str:
        return f"RestoredFile({self.target!r})"

    @property
    def target(self) -> str:
        """Where the master lies."""
        return self.finished.assembly.target

    @property
    def report(self) -> str | None:
        """Where the report page lies, if one was asked for; see `open_report`."""
        return self.finished.report

    @property
    def plan(self) -> Plan:
        """What was done."""
        return self.finished.plan

    def summary(self) -> dict[str, Any]:
        """Return the outcome in a few plain values."""
        return self.finished.summary()

    def _repr_html_(self) -> str:
        values = self.summary()
        facts = [
            ("size", f"{values['source_size']} to {values['size']}"),
            ("model", values["model"]),
            ("restored now", f"{values['frames_restored_now']} frames in {values['seconds']:.1f} s"),
            ("segments", f"{values['segments']} of {values['shots']} shots"),
            ("report", values["report"] or "none was asked for"),
        ]
        return render_facts(
            str(values["target"]), facts, below=draw_plan(self.plan) + _notices(self.finished.assembly.notices)
        )


def probe(source: FileName, *, salvage: bool = False) -> Probe:
    """Say what a file holds; reads its packets and decodes a few frames.

    Args:
        source: a video or image; a path, or a URL that fsspec opens.
        salvage: describe a damaged file instead of refusing it.

    Raises:
        MediaError: it is no file that can be restored; DamagedMediaError where ``salvage`` would help.
    """
    require_source(str(source))
    media = probe_file(str(source), salvage=salvage)
    return Probe(**{each.name: getattr(media, each.name) for each in fields(media)})


def plan(
    source: FileName,
    target: FileName,
    settings: RestoreSettings | None = None,
    *,
    work_folder: FileName | None = None,
    options: LoadOptions | None = None,
    excerpt: str = "",
) -> PlannedFile:
    """Say what `restore` would do; finds the shots and spends nothing else.

    Args:
        target: chooses the container by its suffix, and where an earlier run's work is looked for. It may exist.
        excerpt: as in the settings, which it takes precedence over: ``"10-13.5"`` or ``"frames 250-324"``.

    Raises:
        InputError: the source, the settings or the target are refused.
    """
    chosen, options = _settings(settings, excerpt), options or LoadOptions(may_download=False)
    outlook = plan_one_file(
        str(source),
        str(target),
        chosen,
        options,
        work_folder=_text(work_folder),
        overwrite=True,
    )
    device = look_at_device(local_device(options.device)).shared_by(options.num_gpus)
    memory = forecast_memory(outlook.plan, find_model(chosen, options.device), device, gang_size=options.gpus)
    return PlannedFile(outlook=outlook, memory=memory)


def restore_file(
    source: FileName,
    target: FileName,
    settings: RestoreSettings | None = None,
    *,
    overwrite: bool = False,
    report: bool = True,
    work_folder: FileName | None = None,
    keep_work: bool = False,
    options: LoadOptions | None = None,
    progress: Progress | bool = False,
    check_cancelled: Callable[[], None] = lambda: None,
    excerpt: str = "",
) -> RestoredFile:
    """Restore a file; see :func:`seedvr2_ray.restore`, which is this where its source is a file."""
    with ExitStack() as stack:
        shown = stack.enter_context(ProgressBar()) if progress is True else progress or None
        finished, _ = restore_one_file(
            str(source),
            str(target),
            _settings(settings, excerpt),
            options or LoadOptions(),
            work_folder=_text(work_folder),
            keep_work=keep_work,
            overwrite=overwrite,
            report=report,
            progress=shown,
            check_cancelled=check_cancelled,
        )
    return RestoredFile(finished=finished)


def _settings(settings: RestoreSettings | None, excerpt: str) -> RestoreSettings:
    chosen = settings or RestoreSettings()
    return replace(chosen, excerpt=excerpt) if excerpt else chosen


def _text(name: FileName | None) -> str | None:
    return None if name is None else str(name)


def _notices(notices: tuple[Notice, ...]) -> str:
    rows = [(each.outcome, each.subject, each.reason) for each in notices]
    return render_grid(("outcome", "what", "why"), rows) if rows else ""
