"""What a job did, for a program (JSON), for analysis (Parquet, one row per file) and for a person (HTML)."""

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from string import Template
from typing import Any

import pyarrow
import pyarrow.parquet

import seedvr2_ray
from seedvr2_ray.batch.execution.videos import VideoOutcome
from seedvr2_ray.batch.report.outcomes import QUALITIES, SUMMED, Totals
from seedvr2_ray.storage.location import publish, publish_bytes

_LISTED_FILES = 1000
"""Rows in the page's tables; the Parquet file has them all."""
_ROWS_AT_A_TIME = 4096
_INTEGERS = {"frames", "restored_frames", "segments", "missing_frames"}
_SCHEMA = pyarrow.schema(
    [(name, pyarrow.string()) for name in ("source", "target", "row", "state", "model", "size")]
    + [(name, pyarrow.int64() if name in _INTEGERS else pyarrow.float64()) for name in SUMMED]
    + [(name, pyarrow.float64()) for name in (*QUALITIES, "idle_share", "cost")]
    + [(name, pyarrow.string()) for name in ("stage", "error", "remedy")]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """What the outcomes do not say."""

    manifest: str
    wall_seconds: float
    price_per_gpu_hour: float
    """In whatever currency; 0 leaves money out."""
    restored_now: Mapping[str, float]
    """Of this run alone: segments, frames, gpu_seconds, and the share of time its restorers had nothing to do."""
    num_workers: int
    """Processes that restored."""
    was_stopped: bool = False


def cost_of(gpu_seconds: float, price_per_gpu_hour: float) -> float:
    """Return what so many seconds cost."""
    return round(gpu_seconds / 3600 * price_per_gpu_hour, 4)


def summarise(totals: Totals, facts: RunFacts) -> dict[str, Any]:
    """Return the report in plain values."""
    sums = {name: round(value, 3) for name, value in totals.sums.items()}
    gpu_seconds = sums.get("gpu_seconds", 0.0)
    now = facts.restored_now
    return {
        "version": seedvr2_ray.__version__,
        "manifest": facts.manifest,
        "stopped": facts.was_stopped,
        "files": dict(totals.files),
        **{name: int(value) if name in _INTEGERS else value for name, value in sums.items()},
        "decode_wait_share": _share(sums.get("idle_seconds", 0.0), gpu_seconds),
        "quality": totals.means(),
        "cost": cost_of(gpu_seconds, facts.price_per_gpu_hour),
        "price_per_gpu_hour": facts.price_per_gpu_hour,
        "this_run": {
            "wall_seconds": round(facts.wall_seconds, 3),
            "workers": facts.num_workers,
            **{name: round(value, 4) for name, value in now.items()},
            "frames_per_second": round(now.get("frames", 0.0) / facts.wall_seconds, 3) if facts.wall_seconds else 0.0,
            "cost": cost_of(now.get("gpu_seconds", 0.0), facts.price_per_gpu_hour),
        },
    }


def write_job_report(
    folder: str, outcomes: Iterable[VideoOutcome], totals: Totals, facts: RunFacts, scratch: Path
) -> None:
    """Publish ``report.parquet``, ``report.json`` and ``report.html`` in a folder.

    Args:
        outcomes: read once; only the first thousand and those that failed first are kept in memory.
        scratch: a local folder for the file being written.
    """
    listed: list[VideoOutcome] = []
    failed: list[VideoOutcome] = []

    def noted() -> Iterator[VideoOutcome]:
        for outcome in outcomes:
            pile = failed if outcome.failure is not None else listed
            if len(pile) < _LISTED_FILES:
                pile.append(outcome)
            yield outcome

    local = scratch / "report.parquet"
    write_parquet(local, noted(), facts.price_per_gpu_hour)
    publish(local, f"{folder}/report.parquet", overwrite=True)
    local.unlink()
    summary = summarise(totals, facts)
    publish_bytes(
        (json.dumps(summary, indent=1, ensure_ascii=False) + "\n").encode(), f"{folder}/report.json", overwrite=True
    )
    publish_bytes(render_page(summary, listed, failed).encode(), f"{folder}/report.html", overwrite=True)


def write_parquet(path: Path, outcomes: Iterable[VideoOutcome], price_per_gpu_hour: float) -> None:
    """Write one row per file."""
    stream = iter(outcomes)
    with pyarrow.parquet.ParquetWriter(path, _SCHEMA) as writer:
        while rows := [_columns(outcome, price_per_gpu_hour) for outcome in islice(stream, _ROWS_AT_A_TIME)]:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=_SCHEMA))


def _columns(outcome: VideoOutcome, price_per_gpu_hour: float) -> dict[str, Any]:
    figures, failure = outcome.figures, outcome.failure
    gpu_seconds = figures.get("gpu_seconds")
    return {
        "source": outcome.source,
        "target": outcome.target,
        "row": outcome.where,
        "state": outcome.state,
        "model": figures.get("model"),
        "size": figures.get("size"),
        **{name: figures.get(name) for name in (*SUMMED, *QUALITIES)},
        "idle_share": _share(figures["idle_seconds"], gpu_seconds) if gpu_seconds else None,
        "cost": None if gpu_seconds is None else cost_of(gpu_seconds, price_per_gpu_hour),
        "stage": failure and failure.stage,
        "error": failure and failure.error,
        "remedy": failure and failure.remedy,
    }


def render_page(summary: Mapping[str, Any], listed: Sequence[VideoOutcome], failed: Sequence[VideoOutcome]) -> str:
    """Return the page: one file that needs nothing else and runs nothing."""
    style = (resources.files("seedvr2_ray.restoration.report") / "report.css").read_text(encoding="utf-8")
    return Template(
        (resources.files("seedvr2_ray.batch.report") / "report.html").read_text(encoding="utf-8")
    ).substitute(
        style=style,
        style_hash=f"sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}",
        manifest=_text(summary["manifest"]),
        facts="\n".join(_fact(*fact) for fact in _facts(summary)),
        failures=_failures(failed, summary["files"]["quarantined"]),
        files="\n".join(_file_row(outcome) for outcome in listed),
        more=_more(len(listed), summary["files"]["published"] + summary["files"]["skipped"]),
        summary=_text(json.dumps(summary, indent=1, ensure_ascii=False)),
        version=_text(summary["version"]),
    )


def _facts(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    files, now = summary["files"], summary["this_run"]
    done = files["published"] + files["skipped"]
    yield "Files", f"{done:,} restored", f"{files['skipped']:,} of them earlier; {files['quarantined']:,} set aside"
    yield (
        "Frames",
        f"{summary.get('frames', 0):,}",
        f"{summary.get('restored_megapixels', 0) / 1000:,.2f} gigapixels restored",
    )
    yield (
        "Device time",
        _duration(summary.get("gpu_seconds", 0.0)),
        f"{summary['decode_wait_share']:.1%} of it waiting for frames",
    )
    if summary["price_per_gpu_hour"]:
        yield "Cost", f"{summary['cost']:,.2f}", f"at {summary['price_per_gpu_hour']:g} per GPU hour"
    idle = now.get("idle_share", 0.0)
    yield (
        "This run",
        _duration(now["wall_seconds"]),
        f"{now['frames_per_second']:,.2f} frames/s on {now['workers']} workers, idle {idle:.1%}",
    )
    quality = summary["quality"]
    if quality["psnr"] is not None:
        yield (
            "Closeness",
            f"{quality['psnr']:.2f} dB",
            f"SSIM {quality['ssim']:.4f} against the sources, scaled back down",
        )


def _fact(name: str, value: str, detail: str) -> str:
    return f"<div><dt>{_text(name)}</dt><dd>{_text(value)}<small>{_text(detail)}</small></dd></div>"


def _failures(failed: Sequence[VideoOutcome], num_failed: int) -> str:
    if not failed:
        return "<p>No file was set aside.</p>"
    items = "\n".join(
        f'<li><span class="badge refused">{_text(outcome.failure.stage)}</span><div><strong>{_text(outcome.source)}'
        f"</strong> {_text(outcome.failure.error)}<br>{_text(outcome.failure.remedy)}</div></li>"
        for outcome in failed
        if outcome.failure is not None
    )
    return f'<ul class="notices">\n{items}\n</ul>{_more(len(failed), num_failed)}'


def _file_row(outcome: VideoOutcome) -> str:
    figures = outcome.figures
    cells = (
        outcome.state,
        figures.get("size", ""),
        f"{figures.get('frames', 0):,}",
        f"{figures.get('segments', 0):,}",
        f"{figures.get('gpu_seconds', 0.0):,.1f}",
        "–" if figures.get("psnr") is None else f"{figures['psnr']:.2f}",
    )
    return (
        f'<tr><th scope="row">{_text(outcome.target)}</th>'
        + "".join(f"<td>{_text(cell)}</td>" for cell in cells)
        + "</tr>"
    )


def _more(num_listed: int, num_all: int) -> str:
    if num_all <= num_listed:
        return ""
    return f'<p class="hint">{num_all - num_listed:,} more are in report.parquet.</p>'


def _share(part: float, whole: float | None) -> float:
    return round(part / whole, 4) if whole else 0.0


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours:,} h {minutes:02} min" if hours else f"{minutes} min {whole % 60:02} s"


def _text(value: str) -> str:
    """Escape what came from outside; control characters become visible marks."""
    marked = "".join(
        letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in value
    )
    return html.escape(marked.encode("utf-8", "replace").decode(), quote=True)
