"""Whatever the documents tell readers to type is understood as it stands, and what can run here is run."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from seedvr2_ray.cli.main import app, main
from tests.media.clips import make_clip, make_image

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN_IN = (ROOT / "README.md", ROOT / "docs" / "start.md", ROOT / "docs" / "files.md")
NOT_RUN = {
    "serve": "runs until it is stopped; the service's tests start it",
    "models pull": "fetches gigabytes",
    "batch": "starts Ray; tests/batch runs it",
    "live": "runs until its input ends; tests/live runs it",
    "cluster": "speaks to a cluster; tests/cluster runs it",
}


def commands(path: Path) -> list[str]:
    """The lines of a page's shell blocks, continued lines joined, comments and blanks left out."""
    lines: list[str] = []
    for block in re.findall(r"```(?:sh|shell|bash)?\n(.*?)```", path.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            said = re.sub(r"\s+#.*$", "", line).strip()
            if said and not said.startswith("#") and " IN OUT" not in said:
                lines.append(said)
    return lines


def ours(path: Path) -> list[list[str]]:
    """Its commands of this package, as words without the program's name."""
    found = []
    for line in commands(path):
        if not line.startswith("git ") and (match := re.search(r"(?:^|[\s/;&|(])seedvr2-ray(?=\s)(.*)", line)):
            found.append(shlex.split(re.split(r"\s[|&;>]", match[1])[0]))
    return found


def parse(words: list[str]) -> None:
    """Let the command line take the words apart, and do nothing."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("seedvr2-ray", list(words))
    rest = [*context.args] if not hasattr(context, "_protected_args") else [*context._protected_args, *context.args]
    while hasattr(command, "commands") and rest:
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
        rest = [*getattr(context, "_protected_args", ()), *context.args]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_of_this_package_are_understood(path: Path) -> None:
    for words in ours(path):
        parse(words)


def test_a_command_that_does_not_exist_is_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse(["restore", "a.mp4", "b.mp4", "--no-such-option"])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_targets_of_make_modules_and_scripts_are_there(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in commands(path):
        for module in re.findall(r"python -m ([\w.]+)", line):
            place = ROOT.joinpath(*module.split("."))
            assert place.with_suffix(".py").exists() or place.is_dir() or module in {"pytest", "pip"}, line
        for script in re.findall(r"python ([\w/]+\.py)", line):
            assert (ROOT / script).exists(), line
        if match := re.search(r"(?:^|\s)make ([a-z-]+)", line):
            assert match[1] in targets, line


@pytest.mark.slow
@pytest.mark.parametrize("path", RUN_IN, ids=lambda path: path.name)
def test_commands_that_need_neither_gpu_nor_cluster_run_as_they_stand(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_clip(tmp_path / "holiday.mov", num_frames=2)
    make_image(tmp_path / "photo.jpg", pixel_format="yuvj420p", codec="mjpeg", number=3)
    monkeypatch.setenv("SEEDVR2_WEIGHTS_DIR", str(tmp_path / "weights"))
    num_run = 0
    for words in ours(path):
        if any(" ".join(words).startswith(name) for name in NOT_RUN):
            continue
        if words[0] == "restore" and "--model" not in words:
            words = [*words, "--model", "lanczos"]  # nano would take minutes for pictures of this size.
        assert main([*words, *(["--overwrite"] if words[0] == "restore" else [])]) == 0, words
        num_run += 1
    assert num_run > 0


@pytest.mark.slow
def test_make_lists_what_people_type() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, env={**os.environ}, check=True)
    for target in ("demo", "serve", "test", "docs"):
        assert re.search(rf"^{target}\s", listed.stdout, re.MULTILINE), listed.stdout
