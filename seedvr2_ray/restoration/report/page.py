"""The page a person sees first: what was done to one file, how good it is, and what it looks like.

One HTML file that needs nothing else: styles, script and pictures stand in it, and its content security
policy forbids everything that does not.
"""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from string import Template
from typing import Any, Literal

from seedvr2_ray.media.container.info import Notice
from seedvr2_ray.restoration.report.comparison import ComparisonPicture
from seedvr2_ray.storage.location import publish_bytes

_OUTCOMES: dict[str, str] = {
    "refused": "Refused",
    "left_out": "Left out",
    "converted": "Converted",
    "kept": "Kept",
}
"""In the order a reader wants them: losses first."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_MISSING = "–"


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
    style, script = _part("report.css"), _part("report.js")
    return Template(_part("report.html")).substitute(
        style=style,
        script=script,
        # Only these very texts may run, so that nothing in a file's name or metadata ever can.
        style_hash=_content_hash(style),
        script_hash=_content_hash(script),
        title=_text(_file_name(data.target)),
        source=_text(data.source),
        target=_text(data.target),
        facts=_facts(data),
        comparison=_comparison(pictures),
        figures=_figures(data.segments),
        notices=_notices(data.notices),
        segments=_segments(data),
        provenance=_text(json.dumps(data.provenance, indent=2, ensure_ascii=False)),
        version=_text(data.version),
    )


def _facts(data: ReportData) -> str:
    frames = f"{data.num_frames:,} frame{'s' if data.num_frames != 1 else ''}"
    facts = [
        ("Size", f"{_size(data.source_size)} → {_size(data.target_size)}", _enlargement(data)),
        ("Model", data.model, f"{data.source_codec} → {data.target_codec}"),
    ]
    if data.kind == "video":
        facts.append(("Length", _duration(data.duration_seconds), f"{frames} at {data.frame_rate} per second"))
    speed = data.frames_per_second
    if speed is None:
        pace = "everything was there from an earlier run"
    elif data.kind == "image":
        pace = "for one picture" if data.num_frames == 1 else f"{speed:.3g} pictures per second"
    else:
        pace = f"{speed:.3g} frames per second"
        if data.restored_frames < data.num_frames:
            pace += f"; {data.num_frames - data.restored_frames:,} were there from an earlier run"
    facts.append(("Time taken", _duration(data.elapsed_seconds), pace))
    return "\n".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}<small>{_text(detail)}</small></dd></div>"
        for name, value, detail in facts
    )


def _comparison(pictures: Sequence[ComparisonPicture]) -> str:
    if not pictures:
        return ""
    figures = "\n".join(_figure(picture, number) for number, picture in enumerate(pictures, start=1))
    return f"""<section aria-labelledby="comparison">
<h2 id="comparison">Before and after</h2>
<p class="hint">Drag across a picture, or focus it and use the arrow keys.</p>
<noscript><p class="hint">The slider needs JavaScript; without it, half of each picture is before and half after.</p>
</noscript>
<div class="gallery">
{figures}
</div>
</section>"""


def _figure(picture: ComparisonPicture, number: int) -> str:
    caption = _text(picture.caption) or "Picture"
    size = f'width="{picture.width}" height="{picture.height}"'
    return f"""<figure class="compare">
<div class="viewport" tabindex="-1"><div class="stack">
<img class="after" src="{_data_uri(picture.after)}" alt="{caption}, after" {size}>
<img class="before" src="{_data_uri(picture.before)}" alt="{caption}, before" {size}>
<span class="label label-before" aria-hidden="true">Before</span>
<span class="label label-after" aria-hidden="true">After</span>
<span class="divider" aria-hidden="true"></span>
<input type="range" id="split-{number}" min="0" max="100" step="0.5" value="50" aria-label="{caption}: how much of the
 width shows the picture before restoration">
</div></div>
<figcaption><label for="split-{number}">{caption}</label>
<button type="button" aria-pressed="false">Actual pixels</button></figcaption>
</figure>"""


def _figures(segments: Sequence[SegmentFigures]) -> str:
    cards = [
        ("PSNR", _mean(segments, lambda row: row.psnr), "{:.2f} dB", "against the source, higher is closer"),
        ("SSIM", _mean(segments, lambda row: row.ssim), "{:.4f}", "against the source, 1 is identical"),
        ("Colour error", _mean(segments, lambda row: row.colour_error), "{:.2f}", "of 255, low frequencies only"),
        ("Boundary step", _worst_step(segments), "{:.2f}", "of 255, the worst join"),
    ]
    items = "\n".join(
        f"<div><dt>{name}</dt><dd>{_number(value, layout)}<small>{detail}</small></dd></div>"
        for name, value, layout, detail in cards
        if value is not None
    )
    if not items:
        return "<p>Nothing was measured.</p>"
    return f"""<dl class="facts">
{items}
</dl>
<p class="hint">They compare the result, scaled back down, with the source: they show that nothing was lost or tinted,
not how much was gained.</p>"""


def _notices(notices: Sequence[Notice]) -> str:
    if not notices:
        return "<p>Nothing in the source needed a decision.</p>"
    order = list(_OUTCOMES)
    rows = sorted(notices, key=lambda notice: order.index(notice.outcome))
    items = "\n".join(
        f'<li><span class="badge {notice.outcome}">{_OUTCOMES[notice.outcome]}</span>'
        f"<div><strong>{_text(notice.subject)}</strong> {_text(notice.reason)}</div></li>"
        for notice in rows
    )
    return f'<ul class="notices">\n{items}\n</ul>'


def _segments(data: ReportData) -> str:
    rows = []
    for row in data.segments:
        start = data.duration_seconds * row.first_frame / data.num_frames if data.num_frames else 0.0
        frames = f"{row.first_frame:,}–{row.first_frame + row.num_frames - 1:,}"
        missing = f' <span class="badge left_out">{row.num_missing:,} missing</span>' if row.num_missing else ""
        figures = (
            _number(row.psnr, "{:.2f}"),
            _number(row.ssim, "{:.4f}"),
            _number(row.colour_error, "{:.2f}"),
            _number(row.boundary_step, "{:.2f}"),
            _number(row.seconds, "{:.1f}"),
        )
        rows.append(
            f'<tr><th scope="row">{row.index + 1}</th><td>{row.shot + 1}</td><td>{_clock(start)}</td>'
            f"<td>{frames}{missing}</td>" + "".join(f"<td>{figure}</td>" for figure in figures) + "</tr>"
        )
    return "\n".join(rows)


def _mean(segments: Sequence[SegmentFigures], figure: Callable[[SegmentFigures], float | None]) -> float | None:
    """Return the mean per frame of what was measured."""
    measured = [(value, row.num_frames) for row in segments if (value := figure(row)) is not None]
    total = sum(weight for _, weight in measured)
    return sum(value * weight for value, weight in measured) / total if total else None


def _worst_step(segments: Sequence[SegmentFigures]) -> float | None:
    steps = [row.boundary_step for row in segments if row.boundary_step is not None]
    return max(steps, key=abs, default=None)


def _number(value: float | None, layout: str) -> str:
    if value is None or math.isnan(value):
        return _MISSING
    return layout.format(value).replace("inf", "∞").replace("-", "−")


def _enlargement(data: ReportData) -> str:
    factor = data.target_size[1] / data.source_size[1]
    return f"{factor:.3g} times as high" if factor != 1 else "same height"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {whole % 60:02} s"


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}.{int(seconds * 10) % 10}"


def _file_name(url: str) -> str:
    return url.rstrip("/").rsplit("/", 1)[-1]


def _text(value: str) -> str:
    """Escape what came from outside; control characters and broken encodings become visible marks."""
    return html.escape(_CONTROLS.sub("\N{REPLACEMENT CHARACTER}", value), quote=True)


def _data_uri(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _content_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _part(name: str) -> str:
    return (resources.files("seedvr2_ray.restoration.report") / name).read_text(encoding="utf-8")
