"""What the documents tell readers to type: pages, and the commands and programs in them."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import seedvr2_ray as sv
from seedvr2_ray.settings import RestoreSettings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = ("", "sh", "bash")
"""Languages of blocks that are typed into a terminal; other blocks say another one."""

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def blocks(path: Path, *languages: str) -> list[str]:
    """The blocks of a page that are in one of these languages."""
    return [text for _, language, text in _BLOCK.findall(path.read_text()) if language in languages]


def languages(path: Path) -> set[str]:
    """The languages of a page's blocks."""
    return {language for _, language, _ in _BLOCK.findall(path.read_text())}


def commands(path: Path) -> list[str]:
    """The lines of a page's shell blocks, continued lines joined, comments and blanks left out."""
    lines = []
    for block in blocks(path, *SHELL):
        for line in block.replace("\\\n", " ").splitlines():
            said = re.sub(r"\s+", " ", re.sub(r"(^|\s+)#.*$", "", line)).strip()
            if said:
                lines.append(said)
    return lines


def commands_in_prose(path: Path) -> list[str]:
    """The commands of this package that stand in sentences and tables, whole as far as they go."""
    prose = _BLOCK.sub("", path.read_text())
    found = re.findall(r"`((?:seedvr2-ray|python -m|\.venv/bin/python -m) [^`]+)`", prose)
    return [re.sub(r"\s+", " ", each) for each in found]


def make_cheap(patch: pytest.MonkeyPatch) -> None:
    """Let programs of the documents restore without a model and at the source's size, unless they say otherwise."""
    cheap = partial(RestoreSettings, model="lanczos", resolution="x1", preset="ultrafast")
    restore = sv.restore

    def restored(source: Any, target: Any = None, settings: Any = None, **options: Any) -> Any:
        return restore(source, target, settings or cheap(), **options)

    patch.setattr(sv, "restore", restored)
    patch.setattr(sv, "RestoreSettings", cheap)
