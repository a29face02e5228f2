"""The page that shows versions of one video over each other: two files, or one excerpt under several settings.

How it looks is ``versions.html``, with the report's slider.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import seedvr2_ray
from seedvr2_ray.restoration.report.comparison import ComparisonPicture
from seedvr2_ray.restoration.report.templates import render_page


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionsPage:
    """Everything the page says, in plain values."""

    title: str
    kicker: str
    """What sort of page it is."""
    lead: str
    """Which versions of what, in a line."""
    heading: str
    """Above the pictures."""
    pictures: Sequence[ComparisonPicture]
    before: str
    """What lies on the left of every slider, in a word or two; ``after`` on the right."""
    after: str
    even: bool
    """Whether all pictures are of one size, side by side, instead of the first one large."""
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    hint: str
    """What the figures mean."""


def render_versions(page: VersionsPage) -> str:
    """Return the whole page."""
    values = {"page": page, "version": seedvr2_ray.__version__}
    return render_page("seedvr2_ray.restoration.report", "versions.html", values)
