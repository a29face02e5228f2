"""Laws of the documentation site: it builds without a warning, no link leads nowhere, nothing is out of date."""

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from docs import build, generate


class _Page(HTMLParser):
    """Where a page leads, and what in it can be led to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("href", "src"):
                self.targets.append(value)
            elif value and name in ("id", "name"):
                self.anchors.add(value)


@pytest.fixture(scope="module")
def pages() -> dict[Path, _Page]:
    """The site as it is built now."""
    assert build.build("--strict") == 0
    return {path: _Page(path) for path in sorted(build.SITE.rglob("*.html"))}


@pytest.mark.slow
def test_every_link_of_the_site_leads_to_a_page_and_a_place_in_it(pages: dict[Path, _Page]) -> None:
    assert len(pages) > 50
    lost = []
    for path, page in pages.items():
        if path.name == "404.html":  # Its links begin at the site's address, which is the host's affair.
            continue
        for target in page.targets:
            if re.match(r"[a-z]+:", target):
                continue
            place, _, anchor = unquote(target).partition("#")
            found = Path(os.path.normpath(path.parent / place)) if place else path
            if found.is_dir():
                found /= "index.html"
            if not found.exists() or (anchor and found in pages and anchor not in pages[found].anchors):
                lost.append(f"{path.relative_to(build.SITE)}: {target}")
    assert lost == []


@pytest.mark.slow
def test_every_page_is_in_the_navigation_and_reads_as_prose(pages: dict[Path, _Page]) -> None:
    listed = set(re.findall(r'"([\w/-]+)\.md"', (build.ROOT / "zensical.toml").read_text()))
    written = {path.relative_to(build.PAGES).with_suffix("").as_posix() for path in build.PAGES.rglob("*.md")}
    assert {name for name in written if not name.startswith(("decisions/0", "notebooks/"))} == listed
    reference = (build.SITE / "reference" / "python.html").read_text()
    assert ":::" not in reference and "required" in reference
    assert (build.SITE / "notebooks" / "01_first_restoration.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("path", generate.pages(), ids=lambda path: path.relative_to(generate.DOCS).as_posix())
def test_generated_pages_say_what_the_code_says_now(path: Path) -> None:
    assert path.read_text() == generate.pages()[path], "run: python -m docs.generate"
