"""Drawings of plans as SVG: shots as blocks, segments below them, overlaps darker."""

from html import escape

from seedvr2_ray.restoration.planning.plan import Plan

_WIDTH = 720
_ROW = 26
_SHADES = ("#7aa6d8", "#4f7fb5")
_SEGMENT, _OVERLAP, _TEXT = "#c9d7a0", "#7f9440", "#333"
_EXCERPT = "#f3e3b3"


def draw_plan(plan: Plan) -> str:
    """Return an SVG of a whole video from left to right: its shots, and the segments that restore them."""
    total = plan.media.video.num_frames if plan.excerpt is None else plan.excerpt.of_frames
    scale = _WIDTH / total
    shapes: list[str] = []
    if plan.excerpt is not None:
        left, right = plan.excerpt.start * scale, plan.excerpt.stop * scale
        title = f"the excerpt: frames {plan.excerpt.start} to {plan.excerpt.stop - 1} of {total}"
        frame = f"x='{left:.2f}' y='0' width='{max(1.0, right - left):.2f}' height='{3 * _ROW + 10}'"
        shapes.append(f"<g><title>{escape(title)}</title><rect {frame} fill='{_EXCERPT}'/></g>")
    for index, (start, stop) in enumerate(zip(plan.shots, (*plan.shots[1:], total), strict=True)):
        title = f"shot {index}: frames {start} to {stop - 1}"
        shapes.append(_block(start * scale, 0, (stop - start) * scale, _SHADES[index % 2], str(index), title))
    for segment in plan.segments:
        # Neighbours of one shot stand on two lines, so that the frames they share are seen twice.
        top = _ROW + 6 + (segment.index % 2) * (_ROW + 2)
        span = segment.span
        title = f"segment {segment.index}: frames {span.start} to {span.stop - 1}, {segment.overlap} shared"
        shapes.append(_block(span.start * scale, top, len(span) * scale, _SEGMENT, str(segment.index), title))
        if segment.overlap:
            shapes.append(_block(span.start * scale, top, segment.overlap * scale, _OVERLAP, "", title))
    height = 3 * _ROW + 10
    words = (
        f"{len(plan.shots)} shots above, {len(plan.segments)} segments below; frames that two segments share are dark"
    )
    return (
        f"<svg viewBox='0 0 {_WIDTH} {height}' width='{_WIDTH}' style='max-width:100%' role='img' "
        f"aria-label='{escape(words)}'>{''.join(shapes)}</svg><div><small>{escape(words)}</small></div>"
    )


def _block(left: float, top: float, width: float, colour: str, label: str, title: str) -> str:
    text = ""
    if width > 9 * len(label):
        text = f"<text x='{left + 4:.1f}' y='{top + 17:.1f}' font-size='12' fill='{_TEXT}'>{escape(label)}</text>"
    return (
        f"<g><title>{escape(title)}</title><rect x='{left:.2f}' y='{top}' width='{max(0.5, width - 1):.2f}' "
        f"height='{_ROW}' rx='3' fill='{colour}'/>{text}</g>"
    )
