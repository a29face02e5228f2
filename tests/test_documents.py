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


CLAIMS = {
    "Models": "models/weights/test_catalogue.py",
    "Quantised weights (fp8, GGUF)": "models/weights/test_checkpoint.py",
    "Resume after a crash": "test_stopping.py",
    "One video over many GPUs": "restoration/diffusion/test_gang_world.py",
    "Many machines": "batch/test_bulk.py",
    "Shots": "media/test_shots.py",
    "Memory": "restoration/planning/test_memory.py",
    "More than 8 bits, to the end": "test_pipeline.py",
    "Sound": "media/tracks/test_sound.py",
    "Subtitles, chapters, attachments, metadata": "media/tracks/test_streams.py",
    "Variable frame rates": "test_pipeline.py",
    "Colour tags on the output": "media/output/test_encode.py",
    "Interlaced, telecined, damaged sources": "media/picture/test_fields.py",
    "Service": "serve/test_life.py",
    "Archives": "batch/test_bulk.py",
    "Kubernetes": "cluster/test_operator_rules.py",
}
"""What the comparison says of this project, and the tests that show it."""


def test_what_the_comparison_says_of_us_is_shown_by_tests():
    rows = re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|", (ROOT / "docs" / "comparison.md").read_text(), re.MULTILINE)
    claims = {name for name, said in rows if not said.startswith("**not yet**")}
    assert claims == CLAIMS.keys()
    for name, test in CLAIMS.items():
        assert (ROOT / "tests" / test).is_file(), f"{name}: {test}"


def test_no_public_name_is_described_in_another_markup_than_the_site_reads():
    marked = [name for name in sv.__all__ if re.search(r":\w+:`", getattr(getattr(sv, name), "__doc__", "") or "")]
    assert marked == []
