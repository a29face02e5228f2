"""Run a notebook as a person would, from its first cell to its last: ``python -m notebooks.execute [NAME ...]``.

Run so, it writes the outputs back; continuous integration runs the notebooks without writing.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
MOST_BYTES = 400_000
"""Of a notebook with its outputs: pictures are small on purpose, for they stay in the history for good."""
_TIMEOUT_SECONDS = 300


def execute(path: Path) -> Any:
    """Return the notebook with the outputs of a run in a process of its own; a cell that fails raises."""
    book = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    client = NotebookClient(
        book,
        timeout=_TIMEOUT_SECONDS,
        kernel_name="python3",
        # What a cell prints in ten lines is one output, not ten.
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    python_path = os.pathsep.join(filter(None, (str(FOLDER.parent), os.environ.get("PYTHONPATH"))))
    client.execute(env={**os.environ, "PYTHONPATH": python_path, "PYTHONWARNINGS": "ignore"})
    return book


def outputs(book: Any) -> Iterator[Any]:
    """Iterate over the outputs of all cells."""
    for cell in book.cells:
        yield from cell.get("outputs", ())


def save(book: Any, path: Path) -> None:
    """Write a notebook without what changes from run to run and tells nobody anything.

    Raises:
        ValueError: its outputs are too large to be kept.
    """
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        # Where somebody's temporary folder was, or a warning of a library, is of no interest.
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    text: str = nbformat.writes(book)  # type: ignore[no-untyped-call]
    if len(text) > MOST_BYTES:
        raise ValueError(f"{path.name} would have {len(text)} bytes and {MOST_BYTES} are the most; show less in it")
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    names = sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    for name in names:
        save(execute(FOLDER / f"{name}.ipynb"), FOLDER / f"{name}.ipynb")
