"""Pages made from templates: one HTML file each, which needs nothing else and trusts nothing that is put into it.

Styles, scripts and pictures stand in the page; its content security policy allows these very texts and nothing else.
Whatever a file's name or metadata holds stays text: every value is escaped, and what no reader can see is marked.
"""

import base64
import hashlib
import math
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

_MISSING = "–"
_MARK = "\N{REPLACEMENT CHARACTER}"
_ROOM = "seedvr2_ray.restoration.report"


def render_page(package: str, template: str, values: Mapping[str, Any]) -> str:
    """Fill a template of a package with values.

    Args:
        package: dotted name of the package that holds the template.
        template: name of the file.
        values: what it names; a name without a value is a mistake of ours and raises.
    """
    return _environment(package).get_template(template).render(values)


@lru_cache
def _environment(package: str) -> Environment:
    environment = Environment(
        loader=FunctionLoader(lambda name: _read(package, name)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters.update(number=format_number, duration=format_duration, data_uri=_data_uri)
    environment.globals.update(
        style=_verbatim("report.css"),
        style_hash=_content_hash("report.css"),
        script=_verbatim("report.js"),
        script_hash=_content_hash("report.js"),
    )
    return environment


def format_number(value: float | None, layout: str) -> str:
    """Return a figure as people write it; a dash for one that was not measured."""
    if value is None or math.isnan(value):
        return _MISSING
    return layout.format(value).replace("inf", "∞").replace("-", "−")


def format_duration(seconds: float) -> str:
    """Return ``12.3 s``, ``4 min 05 s`` or ``1,234 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours:,} h {minutes:02} min" if hours else f"{minutes} min {whole % 60:02} s"


def _visible(value: object) -> object:
    """Turn control characters, and what is no Unicode, into marks that can be seen."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in value
    )


def _data_uri(picture: bytes) -> Markup:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return Markup(f"data:image/{kind};base64,{base64.b64encode(picture).decode()}")  # Letters of base64.


def _verbatim(name: str) -> Markup:
    return Markup(_read(_ROOM, name))  # Our own file; its hash is what the policy allows.


def _content_hash(name: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(_read(_ROOM, name).encode()).digest()).decode()}"


def _read(package: str, name: str) -> str:
    return (resources.files(package) / name).read_text(encoding="utf-8")
