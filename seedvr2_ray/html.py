"""Small pieces of HTML that notebooks show in the place of values. Everything that is shown is escaped."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

_CELL = "style='text-align:left;vertical-align:top;padding:2px 12px 2px 0'"


def render_facts(title: str, facts: Iterable[tuple[str, object]], *, below: str = "") -> str:
    """Return a heading, a table of names and values, and markup that stands below as it is."""
    rows = "".join(f"<tr><th {_CELL}>{escape(name)}</th><td {_CELL}>{escape(str(v))}</td></tr>" for name, v in facts)
    return f"<div><strong>{escape(title)}</strong><table>{rows}</table>{below}</div>"


def render_grid(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table with a line of headings."""
    head = "".join(f"<th {_CELL}>{escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td {_CELL}>{escape(str(value))}</td>" for value in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def render_bar(share: float, label: str) -> str:
    """Return a bar that is filled up to ``share``, with words beside it that say the same."""
    percent = round(100 * min(1.0, max(0.0, share)))
    return f"<div><progress max='100' value='{percent}'></progress> {escape(label)}</div>"


def render_picture(data: bytes, media_type: str, alt: str, *, width: int) -> str:
    """Return a picture with its bytes inside, ``width`` pixels of the page wide."""
    source = f"data:{escape(media_type)};base64,{base64.b64encode(data).decode()}"
    return f"<img src='{source}' alt='{escape(alt)}' style='width:{width}px;max-width:100%'>"
