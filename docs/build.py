"""Build the documentation site: ``python -m docs.build [--strict]``, into build/site.

The pages are those of this folder, with what a reader of the site would miss: CONTRIBUTING, CHANGELOG and the notebooks
with their pictures. Links to files that are no pages become the files' names.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parent.parent
PAGES, SITE = ROOT / "build" / "pages", ROOT / "build" / "site"
_FROM_THE_ROOT = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_FIGURE = re.compile(r"\]\((?:\.\./)+(benchmarks/results/[^)\s]+\.png)\)")
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def lay_out() -> None:
    """Put every page into build/pages."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PAGES, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for name, page in _FROM_THE_ROOT.items():
        text = _LINK.sub(lambda link: _from_the_root(link[1], link[2]), (ROOT / name).read_text())
        (PAGES / page).write_text(text)
    _lay_out_notebooks(PAGES / "notebooks")
    for path in PAGES.rglob("*.md"):
        path.write_text(_with_links_of_the_site(path))


def _with_links_of_the_site(page: Path) -> str:
    text = _FIGURE.sub(lambda link: f"]({_take_figure(link[1], page)})", page.read_text())
    return _LINK.sub(lambda link: _on_the_site(link[1], link[2], page), text)


def _lay_out_notebooks(folder: Path) -> None:
    folder.mkdir()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
        text, resources = MarkdownExporter().from_notebook_node(notebook)  # type: ignore[no-untyped-call]
        for name, data in resources.get("outputs", {}).items():
            (folder / f"{path.stem}-{name}").write_bytes(data)
            text = text.replace(f"({name})", f"({path.stem}-{name})")
        # Seen from the notebooks, the pages lie in a folder beside them.
        (folder / f"{path.stem}.md").write_text(text.replace("](../docs/", "](../"))


def _take_figure(name: str, page: Path) -> str:
    """Copy a benchmark's picture beside the pages; return where it lies, seen from a page."""
    figure = PAGES / "figures" / Path(name).name
    figure.parent.mkdir(exist_ok=True)
    shutil.copyfile(ROOT / name, figure)
    return os.path.relpath(figure, page.parent)


def _from_the_root(words: str, target: str) -> str:
    return f"[{words}]({target.removeprefix('docs/') if target.startswith('docs/') else _outside(target)})"


def _outside(target: str) -> str:
    return target if "://" in target or target.startswith("#") else f"../{target}"


def _on_the_site(words: str, target: str, page: Path) -> str:
    """Return a link as it is, to the page that stands for a file, or only its words where there is none."""
    if "://" in target or target.startswith(("#", "mailto:")):
        return f"[{words}]({target})"
    place, mark, anchor = target.partition("#")
    if place.endswith(".ipynb"):
        place = f"notebooks/{Path(place).stem}.md"
    elif Path(place).name in _FROM_THE_ROOT:
        place = _FROM_THE_ROOT[Path(place).name]
    elif place.rstrip("/").endswith("decisions"):
        place = f"{place.rstrip('/')}/index.md"
    if not (page.parent / place).is_file():
        return words
    return f"[{words}]({place}{mark}{anchor})"


def build(*arguments: str) -> int:
    """Lay the pages out and let the site's builder make HTML of them; returns its exit code."""
    lay_out()
    shutil.rmtree(SITE, ignore_errors=True)
    return subprocess.run(
        [str(Path(sys.executable).parent / "zensical"), "build", "-c", *arguments], cwd=ROOT
    ).returncode


if __name__ == "__main__":
    sys.exit(build(*sys.argv[1:]))
