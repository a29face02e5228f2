"""The page a person sees first: what was done to one file, how good it is, and what it looks like.

What stands here are values; how they look is ``report.html``.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from seedvr2_ray.media.info import Notice
from seedvr2_ray.restoration.report.comparison import ComparisonPicture
from seedvr2_ray.restoration.report.templates import format_duration, format_number, render_page
from seedvr2_ray.storage.location import publish_bytes

_OUTCOMES: dict[str, str] = {
    "refused": "Refused",
    "left_out": "Left out",
    "converted": "Converted",
    "kept": "Kept",
}
"""In the order a reader wants them: losses first."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One card of a page: what it is, how much, and a word on it."""

    name: str
    value: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentFigures:
    """One row of the report's table. A figure that was not measured is None."""

    index: int
    shot: int
    first_frame: int
    num_frames: int
    seconds: float
    """Time that restoring it took."""
    psnr: float | None = None
    """Decibels between the source and the result scaled down to its size."""
    ssim: float | None = None
    colour_error: float | None = None
    """Mean difference of the low frequencies in codes of 8 bits: a cast over the whole picture."""
    boundary_step: float | None = None
    """How much more the picture changes where this segment joins its predecessor than the source does there."""
    num_missing: int = 0
    """Frames that the source no longer had."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportData:
    """Everything the page says, in plain values."""

    source: str
    target: str
    kind: Literal["video", "image"]
    model: str
    source_size: tuple[int, int]
    """Width and height in pixels."""
    target_size: tuple[int, int]
    source_codec: str
    target_codec: str
    num_frames: int
    duration_seconds: float
    frame_rate: str
    """As people say it: ``23.976``, ``25``, ``about 30 (variable)``."""
    elapsed_seconds: float
    restored_frames: int
    """Frames restored by this run; the others were there from an earlier one."""
    segments: tuple[SegmentFigures, ...]
    notices: tuple[Notice, ...]
    version: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON, shown as it is."""

    @property
    def frames_per_second(self) -> float | None:
        """Speed of this run, or None when nothing was left to restore."""
        if not self.restored_frames or self.elapsed_seconds <= 0:
            return None
        return self.restored_frames / self.elapsed_seconds


def write_report(url: str, data: ReportData, pictures: Sequence[ComparisonPicture]) -> None:
    """Publish the page at a path or URL; readers see all of it or nothing.

    Raises:
        TargetError: it may not be written there.
        RetryableError: the disk is full, or the store did not answer.
    """
    publish_bytes(render_report(data, pictures).encode(), url, overwrite=True)


def render_report(data: ReportData, pictures: Sequence[ComparisonPicture]) -> str:
    """Return the whole page."""
    values = {
        "data": data,
        "title": data.target.rstrip("/").rsplit("/", 1)[-1],
        "facts": list(_facts(data)),
        "pictures": pictures,
        "figures": list(_figures(data.segments)),
        "outcomes": _OUTCOMES,
        "notices": sorted(data.notices, key=lambda notice: list(_OUTCOMES).index(notice.outcome)),
        "starts": [_start_of(row, data) for row in data.segments],
        "provenance": json.dumps(data.provenance, indent=2, ensure_ascii=False),
    }
    return render_page("seedvr2_ray.restoration.report", "report.html", values)


def _facts(data: ReportData) -> Iterator[Fact]:
    factor = data.target_size[1] / data.source_size[1]
    yield Fact(
        "Size",
        f"{_size(data.source_size)} → {_size(data.target_size)}",
        f"{factor:.3g} times as high" if factor != 1 else "same height",
    )
    yield Fact("Model", data.model, f"{data.source_codec} → {data.target_codec}")
    if data.kind == "video":
        frames = f"{data.num_frames:,} frame{'s' if data.num_frames != 1 else ''}"
        yield Fact("Length", format_duration(data.duration_seconds), f"{frames} at {data.frame_rate} per second")
    yield Fact("Time taken", format_duration(data.elapsed_seconds), _pace(data))


def _pace(data: ReportData) -> str:
    speed = data.frames_per_second
    if speed is None:
        return "everything was there from an earlier run"
    if data.kind == "image":
        return "for one picture" if data.num_frames == 1 else f"{speed:.3g} pictures per second"
    pace = f"{speed:.3g} frames per second"
    earlier = data.num_frames - data.restored_frames
    return f"{pace}; {earlier:,} were there from an earlier run" if earlier > 0 else pace


def _figures(segments: Sequence[SegmentFigures]) -> Iterator[Fact]:
    psnr = _mean([(row.psnr, row.num_frames) for row in segments])
    if psnr is not None:
        yield Fact("PSNR", format_number(psnr, "{:.2f} dB"), "against the source, higher is closer")
    ssim = _mean([(row.ssim, row.num_frames) for row in segments])
    if ssim is not None:
        yield Fact("SSIM", format_number(ssim, "{:.4f}"), "against the source, 1 is identical")
    colour_error = _mean([(row.colour_error, row.num_frames) for row in segments])
    if colour_error is not None:
        yield Fact("Colour error", format_number(colour_error, "{:.2f}"), "of 255, low frequencies only")
    steps = [row.boundary_step for row in segments if row.boundary_step is not None]
    if steps:
        yield Fact("Boundary step", format_number(max(steps, key=abs), "{:.2f}"), "of 255, the worst join")


def _mean(figures: Sequence[tuple[float | None, int]]) -> float | None:
    """Return the mean per frame of what was measured."""
    measured = [(value, num_frames) for value, num_frames in figures if value is not None]
    total = sum(num_frames for _, num_frames in measured)
    return sum(value * num_frames for value, num_frames in measured) / total if total else None


def _start_of(row: SegmentFigures, data: ReportData) -> str:
    seconds = data.duration_seconds * row.first_frame / data.num_frames if data.num_frames else 0.0
    whole = int(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}.{int(seconds * 10) % 10}"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
