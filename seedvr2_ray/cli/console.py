"""What a person sees in the terminal: progress on stderr, results as short tables on stdout."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from seedvr2_ray.api.variants import Variants
    from seedvr2_ray.cli.doctor import Finding
    from seedvr2_ray.media.info import MediaInfo, Notice
    from seedvr2_ray.models.weights.download import FileRecord, ModelRecord
    from seedvr2_ray.restoration.planning.estimate import Estimate
    from seedvr2_ray.restoration.planning.forecast import MemoryForecast
    from seedvr2_ray.restoration.planning.plan import Plan
    from seedvr2_ray.restoration.run import Finished

_STAGES = {
    "probe": "reading the source",
    "shots": "finding shots",
    "load": "loading the model",
    "restore": "restoring",
    "assemble": "joining",
}
_LINE_SECONDS = 30.0
_PIPE_WIDTH = 200


class RunDisplay:
    """Progress of one run: a bar on a terminal, a line now and then elsewhere, nothing when quiet."""

    def __init__(self, *, quiet: bool) -> None:
        console = Console(stderr=True)
        self._live = not quiet and console.is_terminal
        self._plain = not quiet and not console.is_terminal
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("frames"),
            _Rate(),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
            transient=True,
        )
        self._task = self._bars.add_task("starting", total=None)
        self._done = 0
        self._total = 0
        self._last_line = time.monotonic()
        self.current_stage = ""

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def stage(self, name: str) -> None:
        """Name the stage that begins."""
        self.current_stage = name
        self._bars.update(self._task, description=_STAGES[name])

    def planned(self, plan: Plan, frames_to_restore: int) -> None:
        """Set the length of the bar, and say what is coming."""
        self._total = frames_to_restore
        self._bars.reset(self._task, total=frames_to_restore or None)
        geometry, done = plan.recipe.geometry, plan.restored_frames - frames_to_restore
        line = (
            f"{_counted(plan.media.video.num_frames, 'frame')}, {geometry.source_width}x{geometry.source_height} to "
            f"{geometry.width}x{geometry.height}, {_counted(len(plan.shots), 'shot')}, "
            f"{_counted(len(plan.segments), 'segment')}, {plan.recipe.restorer.name}"
        )
        if done:
            line += f"; {done} frames were restored earlier"
        if self._live:
            self._bars.console.print(line, highlight=False)
        elif self._plain:
            print(line, file=sys.stderr, flush=True)

    def restored(self, num_frames: int) -> None:
        """Move the bar."""
        self._done += num_frames
        self._bars.update(self._task, advance=num_frames)
        if self._plain and time.monotonic() - self._last_line > _LINE_SECONDS:
            self._last_line = time.monotonic()
            print(f"{self._done} of {self._total} frames restored", file=sys.stderr, flush=True)


class StopSignals:
    """Ctrl-C and SIGTERM during a run.

    While frames are restored, threads decode and encode: then a signal is obeyed between two batches,
    and at once only when it comes again. In the other stages it is obeyed at once.
    """

    def __init__(self, display: RunDisplay) -> None:
        self._display = display
        self._asked = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # No other may set what signals do.
            for each in (signal.SIGINT, signal.SIGTERM):
                # What a shell has switched off for its background jobs stays off.
                if signal.getsignal(each) is not signal.SIG_IGN:
                    self._previous[each] = signal.signal(each, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, previous in self._previous.items():
            signal.signal(each, previous)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has come."""
        if self._asked:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked or self._display.current_stage != "restore":
            raise KeyboardInterrupt
        self._asked = True


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} frames/s" if speed else "", style="progress.data.speed")


def show_media(media: MediaInfo, console: Console) -> None:
    """Print what was found in a source and what will happen to it."""
    video = media.video
    console.print(f"{media.path}: {media.container}, {media.size_bytes / 1e6:.1f} MB", markup=False)
    rate = f"{float(video.frame_rate):.3f} frames/s" + (" on average (variable)" if video.is_variable_rate else "")
    console.print(
        f"{video.codec} {video.width}x{video.height} {video.pixel_format}, "
        f"{_counted(video.num_frames, 'frame')}, {rate}, {float(media.duration_seconds):.2f} s"
    )
    colour = video.colour
    console.print(
        f"colour: primaries {colour.primaries}, transfer {colour.transfer}, matrix {colour.matrix}, "
        f"{'full' if colour.full_range else 'limited'} range{' (guessed)' if video.guessed_colour else ''}"
    )
    for stream in media.streams:
        named = " ".join(word for word in (stream.language, stream.title) if word)
        console.print(
            f"{stream.kind} {stream.index}: {stream.description}{f' ({named})' if named else ''}", markup=False
        )
    if media.chapters:
        console.print(f"{len(media.chapters)} chapters")
    _show_notices(media.preflight, console)


def show_plan(
    plan: Plan, frames_to_restore: int, memory: MemoryForecast | None, duration: Estimate | None, console: Console
) -> None:
    """Print what a run would do."""
    values = plan.summary()
    lines = {
        "source": values["source"],
        "frames": f"{values['frames']} at {values['frame_rate']} per second, {values['duration_seconds']:.2f} s",
        "size": f"{values['source_size']} becomes {values['size']}",
        "model": values["model"],
        "segments": f"{values['segments']} in {_counted(values['shots'], 'shot')}",
        "to restore": f"{frames_to_restore} frames, overlaps included",
        "master": f"{values['codec']}, {values['pixel_format']}, {values['container']}",
        "memory": str(memory) if memory else "a few frames at a time",
        "time": str(duration) if duration else "not measured on this machine yet",
    }
    earlier = plan.restored_frames - frames_to_restore
    if earlier:
        lines["to restore"] += f"; {earlier} were restored earlier"
    for name, value in lines.items():
        console.print(f"{name + ':':<12}{value}", markup=False)
    _show_notices(plan.notices, console)
    table = _table("segment", "shot", "frames", "overlap")
    for segment in plan.segments[:20]:
        frames = f"{segment.span.start}..{segment.span.stop - 1}"
        table.add_row(str(segment.index), str(segment.shot), frames, str(segment.overlap or ""))
    _show_table(table, console)
    if len(plan.segments) > 20:
        console.print(f"... and {len(plan.segments) - 20} more")


def show_finished(finished: Finished, console: Console) -> None:
    """Print what a run left behind."""
    summary = finished.summary()
    console.print(
        f"{summary['target']}: {_counted(summary['frames'], 'frame')}, {summary['size']}, {summary['codec']}, "
        f"in {summary['seconds']:.1f} s",
        markup=False,
    )
    _show_notices([notice for notice in finished.assembly.notices if notice.outcome != "kept"], console)
    for name in ("sidecar", "report"):
        if summary.get(name):
            console.print(f"{name}: {summary[name]}", markup=False)


def show_variants(found: Variants, page: str, console: Console) -> None:
    """Print what the variants of an excerpt took, and where their page lies."""
    columns, rows = found.table()
    table = _table(*columns)
    for row in rows:
        table.add_row(*row)
    console.print(f"{found.source}: {found.excerpt}", markup=False)
    _show_table(table, console)
    console.print(f"page: {page}", markup=False)


def show_doctor(findings: Sequence[Finding], console: Console) -> None:
    """Print what this machine can do."""
    marks = {"good": "[green]ok[/green]", "missing": "[yellow]--[/yellow]", "bad": "[red]!![/red]"}
    table = _table()
    for finding in findings:
        table.add_row(marks[finding.state], finding.subject, Text(finding.detail))
    _show_table(table, console)


def show_models(models: Sequence[ModelRecord], console: Console) -> None:
    """Print every model and whether its weights are here."""
    table = _table("model", "size", "state", "licence")
    for model in models:
        gigabytes = model.num_gigabytes
        size = f"{gigabytes:.1f} GB" if gigabytes >= 0.1 else f"{gigabytes * 1000:.1f} MB" if gigabytes else ""
        table.add_row(model.name, size, model.state, model.licence)
    _show_table(table, console)
    console.print()
    for model in models:
        console.print(f"{model.name}: {model.summary}", markup=False)


def show_files(files: Sequence[FileRecord], console: Console) -> None:
    """Print every file of a model and whether it is what was published."""
    if not files:
        console.print("this model needs no weights")
    for file in files:
        console.print(f"{file.state}: {file.path or file.name}", markup=False)
        if file.state in ("damaged", "unpublished hash"):
            console.print(f"  {file.detail}", markup=False)


class PullDisplay:
    """Progress of downloads: a bar on a terminal, nothing elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        console = Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def downloaded(self, name: str, num_bytes: int, total_bytes: int | None) -> None:
        """Move the bar of one file; may be called from any thread."""
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total_bytes)
        self._bars.update(self._tasks[name], completed=num_bytes, total=total_bytes)


def _show_notices(notices: Sequence[Notice], console: Console) -> None:
    words = {"kept": "kept", "converted": "converted", "left_out": "left out", "refused": "refused"}
    for notice in notices:
        console.print(f"  {words[notice.outcome]}: {notice.subject}: {notice.reason}", markup=False)


def _table(*headers: str) -> Table:
    return Table(*headers, box=None, header_style="dim", show_header=bool(headers), pad_edge=False)


def _show_table(table: Table, console: Console) -> None:
    # A file or a pipe has no width to wrap to; a terminal's is what it says.
    console.print(table, width=None if console.is_terminal else _PIPE_WIDTH, soft_wrap=False)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
