"""Every notebook runs from top to bottom, and is kept with small outputs of such a run."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from notebooks.execute import FOLDER, MOST_BYTES, execute, outputs, save
from tests.serve.http.v1.ingress import serving

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LOCAL = [path for path in NOTEBOOKS if path.stem[:2] in ("01", "02", "05")]
ON_RAY = [path for path in NOTEBOOKS if path.stem[:2] in ("03", "06")]
BELOW_PUBLIC_NAMES = ("05_inside_the_model",)
"""It draws what is inside."""


def name_of(path):
    return path.stem


def require_no_error(book):
    assert [each for each in outputs(book) if each.output_type == "error"] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", LOCAL, ids=name_of)
def test_a_notebook_runs(path):
    require_no_error(execute(path))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("path", ON_RAY, ids=name_of)
def test_a_notebook_that_starts_ray_runs(path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    require_no_error(execute(path))


@pytest.mark.slow
def test_the_notebook_of_the_client_runs_against_a_service(tmp_path, monkeypatch):
    with serving(tmp_path, runs_jobs=True) as ingress:
        monkeypatch.setenv("SEEDVR2_SERVICE", ingress.url)
        require_no_error(execute(FOLDER / "04_service_client.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_a_notebook_is_kept_with_small_outputs_of_a_run_without_errors(path):
    book = nbformat.read(path, as_version=4)
    assert path.stat().st_size <= MOST_BYTES
    require_no_error(book)
    codes = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in codes] == list(range(1, len(codes) + 1))
    assert any(cell.outputs for cell in codes)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_a_notebook_uses_public_names_where_it_can(path):
    book = nbformat.read(path, as_version=4)
    code = "\n".join(cell.source for cell in book.cells if cell.cell_type == "code")
    imported = {
        node.module for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom) and node.module
    } | {alias.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import) for alias in node.names}
    inside = {name for name in imported if name.startswith("seedvr2_ray.")}
    assert not inside or path.stem in BELOW_PUBLIC_NAMES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_links_between_notebooks_lead_somewhere(path):
    book = nbformat.read(path, as_version=4)
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (FOLDER / target).is_file(), target


def test_outputs_that_are_too_large_are_not_kept(tmp_path):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("x" * MOST_BYTES)])
    with pytest.raises(ValueError, match="show less in it"):
        save(book, Path(tmp_path, "large.ipynb"))
    assert list(tmp_path.iterdir()) == []
