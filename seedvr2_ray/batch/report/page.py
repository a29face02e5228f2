"""What a job did, for a program (JSON), for analysis (Parquet, one row per file) and for a person (HTML)."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

import seedvr2_ray
from seedvr2_ray.batch.execution.videos import VideoOutcome
from seedvr2_ray.batch.figures import cost_of
from seedvr2_ray.batch.report.losses import num_repeated
from seedvr2_ray.batch.report.outcomes import QUALITIES, SUMMED, Totals
from seedvr2_ray.restoration.report.page import Fact
from seedvr2_ray.restoration.report.templates import format_duration, render_page
from seedvr2_ray.storage.location import publish, publish_bytes, read_bytes

_LISTED_FILES = 1000
"""Rows in the page's tables; the Parquet file has them all."""
_PICTURED_FILES = 100
"""Rows of the page with a picture; of the others the Parquet file says where it lies."""
_ROWS_AT_A_TIME = 4096
_INTEGERS = {"frames", "restored_frames", "segments", "missing_frames"}
_SCHEMA = pyarrow.schema(
    [(name, pyarrow.string()) for name in ("source", "target", "row", "state", "model", "size")]
    + [(name, pyarrow.int64() if name in _INTEGERS else pyarrow.float64()) for name in SUMMED]
    + [(name, pyarrow.float64()) for name in (*QUALITIES, "idle_share", "cost")]
    + [(name, pyarrow.string()) for name in ("stage", "error", "remedy")]
    + [(name, pyarrow.string()) for name in ("published_at", "settings", "converted", "losses", "sha256", "picture")]
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
    losses: Mapping[str, Any] = field(default_factory=dict)
    """What was begun in this run and went with a machine or a process."""
    was_stopped: bool = False
    ignored_files: Mapping[str, int] = field(default_factory=dict)
    """Files of the manifest's folder that are of no known kind, by ending."""
    extra_columns: Sequence[str] = ()
    """Of the manifest's table, that are no settings."""


def summarise(totals: Totals, facts: RunFacts) -> dict[str, Any]:
    """Return the report in plain values."""
    sums = {name: round(value, 3) for name, value in totals.sums.items()}
    gpu_seconds = sums.get("gpu_seconds", 0.0)
    now = facts.restored_now
    return {
        "version": seedvr2_ray.__version__,
        "manifest": facts.manifest,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "stopped": facts.was_stopped,
        "ignored_files": dict(facts.ignored_files),
        "extra_columns": list(facts.extra_columns),
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
            "losses": dict(facts.losses),
        },
    }


def write_job_report(
    folder: str,
    outcomes: Iterable[VideoOutcome],
    totals: Totals,
    facts: RunFacts,
    scratch: Path,
    *,
    job_folder: str | None = None,
) -> None:
    """Publish ``report.parquet``, ``report.json`` and ``report.html`` in a folder.

    Args:
        job_folder: where pictures of files lie; by default the same folder.
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
    pictures = _read_pictures(job_folder or folder, listed)
    publish_bytes(_render(summary, listed, failed, pictures).encode(), f"{folder}/report.html", overwrite=True)


def _read_pictures(folder: str, listed: Sequence[VideoOutcome]) -> dict[int, bytes]:
    """Return the pictures of the files that come first, by their rows' numbers; those that are gone are left out."""
    named = [(each.number, name) for each in listed if (name := each.figures.get("picture"))][:_PICTURED_FILES]
    with ThreadPoolExecutor(8) as threads:  # A store takes its time for each.
        found = threads.map(lambda each: (each[0], read_bytes(f"{folder}/{each[1]}")), named)
        return {number: data for number, data in found if data is not None}


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
        "published_at": figures.get("published_at"),
        "settings": figures.get("settings"),
        "converted": "\n".join(figures.get("converted", ())),
        "losses": "\n".join(figures.get("losses", ())),
        "sha256": next((each["sha256"] for each in figures.get("outputs", ())), None),
        "picture": figures.get("picture"),
    }


def _render(
    summary: Mapping[str, Any],
    listed: Sequence[VideoOutcome],
    failed: Sequence[VideoOutcome],
    pictures: Mapping[int, bytes],
) -> str:
    """Return the page: one file that needs nothing else and runs nothing."""
    files = summary["files"]
    values = {
        "summary": summary,
        "facts": list(_facts(summary)),
        "failed": failed,
        "num_more_failed": files["quarantined"] - len(failed),
        "listed": listed,
        "pictures": pictures,
        "num_more_listed": files["published"] + files["skipped"] - len(listed),
        "as_json": json.dumps(summary, indent=1, ensure_ascii=False),
    }
    return render_page("seedvr2_ray.batch.report", "report.html", values)


def _facts(summary: Mapping[str, Any]) -> Iterator[Fact]:
    files, now = summary["files"], summary["this_run"]
    done = files["published"] + files["skipped"]
    yield Fact(
        "Files", f"{done:,} restored", f"{files['skipped']:,} of them earlier; {files['quarantined']:,} set aside"
    )
    yield Fact(
        "Frames",
        f"{summary.get('frames', 0):,}",
        f"{summary.get('restored_megapixels', 0) / 1000:,.2f} gigapixels restored",
    )
    yield Fact(
        "Device time",
        format_duration(summary.get("gpu_seconds", 0.0)),
        f"{summary['decode_wait_share']:.1%} of it waiting for frames",
    )
    if summary["price_per_gpu_hour"]:
        yield Fact("Cost", f"{summary['cost']:,.2f}", f"at {summary['price_per_gpu_hour']:g} per GPU hour")
    if summary["ignored_files"]:
        kinds = sorted(summary["ignored_files"].items(), key=lambda each: -each[1])
        named = ", ".join(f"{suffix or 'no ending'} {number:,}" for suffix, number in kinds[:6])
        yield Fact("Not taken", f"{sum(summary['ignored_files'].values()):,} files", f"of no known kind: {named}")
    idle = now.get("idle_share", 0.0)
    yield Fact(
        "This run",
        format_duration(now["wall_seconds"]),
        f"{now['frames_per_second']:,.2f} frames/s on {now['workers']} workers, idle {idle:.1%}",
    )
    yield from _losses(now["losses"], summary["price_per_gpu_hour"])
    quality = summary["quality"]
    if quality["psnr"] is not None:
        yield Fact(
            "Closeness",
            f"{quality['psnr']:.2f} dB",
            f"SSIM {quality['ssim']:.4f} against the sources, scaled back down",
        )


def _losses(losses: Mapping[str, Any], price_per_gpu_hour: float) -> Iterator[Fact]:
    begun_again = num_repeated(losses)
    if not begun_again:
        return
    price = f", at most {losses['cost_at_most']:,.2f}" if price_per_gpu_hour else ""
    yield Fact(
        "Lost and done again",
        f"{begun_again:,} segments",
        f"{losses['segments_lost_with_their_machine']:,} with {losses['machines']:,} lost machines, "
        f"{losses['segments_lost_with_their_process']:,} with their process: at most "
        f"{format_duration(losses['gpu_seconds_at_most'])} of devices{price}",
    )


def _share(part: float, whole: float | None) -> float:
    return round(part / whole, 4) if whole else 0.0
