"""Documents for readers: their links lead somewhere, and the Python in them is right."""

import re
from pathlib import Path

import pytest

import seedvr2_ray as sv

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
DOCUMENTS += sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_files_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if not target.startswith(("http://", "https://", "#", "mailto:")):
            assert (path.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_python_in_documents_compiles_and_names_what_is_there(path):
    for block in re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL):
        compile(block, str(path), "exec")
    for name in re.findall(r"\bsv\.(\w+)", path.read_text()):
        assert name in sv.__all__, name


def test_the_page_on_python_has_every_function():
    text = (ROOT / "docs" / "python.md").read_text()
    functions = [name for name in sv.__all__ if name.islower() and not name.startswith("__")]
    assert [name for name in functions if f"sv.{name}(" not in text] == []
