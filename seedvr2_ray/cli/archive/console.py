"""What a person sees of a bulk job: one line of progress on a terminal, a line now and then in a log."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from seedvr2_ray.batch.execution.rows import SegmentResult
from seedvr2_ray.batch.execution.videos import VideoOutcome
from seedvr2_ray.batch.figures import cost_of
from seedvr2_ray.batch.manifest.normalise import Normalised
from seedvr2_ray.batch.report.losses import num_repeated
from seedvr2_ray.batch.report.outcomes import Totals
from seedvr2_ray.restoration.report.templates import format_duration

_LINE_SECONDS = 15.0


class BulkDisplay:
    """Files, segments, frames per second, time left and money; files that are set aside are named at once."""

    def __init__(self, *, quiet: bool) -> None:
        """Begin to show; nothing at all when quiet."""
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True) if self._is_live else None
        self._began = time.monotonic()
        self._last_line = 0.0
        self._num_files = 0
        self._num_settled = 0
        self._num_found = 0
        self._segments = 0
        self._frames = 0
        self._gpu_seconds = 0.0
        self._price = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def _is_live(self) -> bool:
        return self._console.is_terminal and not self._console.quiet

    def began(self, manifest: Normalised, price_per_gpu_hour: float) -> None:
        """Say how much there is."""
        self._num_files, self._price = manifest.num_rows, price_per_gpu_hour
        self._console.print(f"{manifest.num_rows} files, models: {', '.join(manifest.models())}", markup=False)
        passed_over = manifest.passed_over
        if passed_over.files:
            named = ", ".join(
                f"{suffix or 'no ending'} {number}" for suffix, number in passed_over.files.most_common(6)
            )
            self._console.print(f"{passed_over.files.total()} files are of no known kind: {named}", markup=False)
        if passed_over.columns:
            names = ", ".join(sorted(passed_over.columns))
            self._console.print(f"columns that are no settings and are passed over: {names}", markup=False)

    def received(self, result: SegmentResult) -> None:
        """Count a segment."""
        if result.state == "restored":
            self._segments += 1
            self._frames += result.num_frames
            self._gpu_seconds += result.seconds
        self._show()

    def finished(self, outcome: VideoOutcome, totals: Totals) -> None:
        """Count a file, and name it if it was set aside."""
        self._num_settled += 1
        self._num_found += outcome.state == "skipped"
        if outcome.failure is not None:
            failure = outcome.failure
            self._console.print(
                f"set aside: {outcome.source} ({failure.stage}): {failure.error}", style="yellow", markup=False
            )
        self._show(at_once=self._num_settled == self._num_files)

    def _show(self, *, at_once: bool = False) -> None:
        if self._live is not None:
            self._live.update(Text(self._line()))
        elif at_once or time.monotonic() - self._last_line > _LINE_SECONDS:
            self._last_line = time.monotonic()
            self._console.print(self._line(), markup=False)

    def _line(self) -> str:
        seconds = time.monotonic() - self._began
        words = [
            f"{self._num_settled} of {self._num_files} files",
            f"{self._segments} segments",
            f"{self._frames / seconds:.2f} frames/s" if seconds else "",
            self._time_left(seconds),
        ]
        if self._price:
            words.append(f"{cost_of(self._gpu_seconds, self._price):.2f} spent")
        return ", ".join(word for word in words if word)

    def _time_left(self, seconds: float) -> str:
        """Judge by files: what the rest holds is known only when it is planned."""
        done = self._num_settled - self._num_found
        left = self._num_files - self._num_settled
        if done <= 0 or left <= 0:
            return ""
        minutes = seconds / done * left / 60
        return f"about {minutes / 60:.1f} h left" if minutes > 90 else f"about {minutes:.0f} min left"


def show_report(summary: dict[str, Any], folder: str, console: Console) -> None:
    """Print what a job left behind."""
    files, now = summary["files"], summary["this_run"]
    console.print(
        f"{files['published']} files restored, {files['skipped']} were there from an earlier run, "
        f"{files['quarantined']} set aside; {now['frames']:.0f} frames in {now['wall_seconds']:.1f} s",
        markup=False,
    )
    if summary["price_per_gpu_hour"]:
        console.print(f"cost: {summary['cost']:.2f}, of which this run {now['cost']:.2f}")
    losses = now.get("losses", {})
    if lost := num_repeated(losses):
        price = f" or {losses['cost_at_most']:.2f}" if summary["price_per_gpu_hour"] else ""
        console.print(
            f"lost and done again: {lost} segments, {losses['machines']} machines; at most "
            f"{format_duration(losses['gpu_seconds_at_most'])} of devices{price}",
            markup=False,
        )
    console.print(f"report: {folder}/report.html", markup=False)
    if files["quarantined"]:
        console.print(f"set aside: {folder}/quarantine.jsonl", markup=False)


def show_estimate(summary: dict[str, Any], console: Console) -> None:
    """Print what a job would do."""
    for name, value in summary.items():
        if isinstance(value, (str, int, float)):
            console.print(f"{name.replace('_', ' ')}: {value}", markup=False)
    if summary["refusals"]:
        table = Table("refused", "why", box=None, header_style="dim")
        for line in summary["refusals"][:20]:
            table.add_row(Text(line["path"]), Text(line["error"]))
        console.print(table)
