"""Whatever the documents tell readers to type is understood as it stands, and run, except what is listed here."""

import base64
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from seedvr2_ray.cli.main import app, main
from seedvr2_ray.cluster.platform_rules import required_secrets
from tests.cluster.api_server import api_server
from tests.cluster.rendered import manifests
from tests.documents import PAGES, ROOT, SHELL, blocks, commands, commands_in_prose, languages, make_cheap
from tests.live.senders import make_stream
from tests.media.clips import make_clip, make_image

RUN_AS_SCRIPTS = {"api.md", "clients.md"}
"""Scripts from the first line to the last, which tests/serve/http/v1/test_examples.py runs against a service."""
RUN_ON_RAY = "seedvr2-ray batch "
"""tests/batch/test_bulk.py runs these."""
NOT_RUN = {
    "git clone": "the address is the reader's",
    "source .venv/bin/activate": "for the reader's shell; make has made it",
    "make": "installs, or runs these very tests; recipes are taken apart below",
    "seedvr2-ray serve": "runs until it is stopped; tests/serve starts the service in every way",
    "seedvr2-ray models pull": "fetches gigabytes",
    "cat camera.ts | seedvr2-ray live": "tests/cli/test_live.py has a process between two pipes",
    "seedvr2-ray live udp:": "waits for a sender; tests/live/test_network.py sends",
    "seedvr2-ray live rtmp:": "waits for a sender; tests/live/test_network.py sends",
    "seedvr2-ray live rtsp:": "a camera, and a model that needs a GPU",
    "ray job submit": "needs a cluster's dashboard; tests/batch/test_submit.py starts one",
    "kubectl": "there is no Kubernetes here",
    ".venv/bin/pip": "asks a package index",
    ".venv/bin/jupyter": "runs until it is stopped; tests/test_notebooks.py runs the notebooks",
    "SEEDVR2_REQUIRE_GPU=1": "there is no GPU here",
    "python -m benchmarks": "hours, or a GPU; their options are looked for below",
    "python -m training": "half an hour; their options are looked for below",
}
"""How a command begins that no test runs as it stands, and why."""
MOST_NOT_RUN = 40
"""Lines of all pages together. Whoever writes one more asks first whether it could not be run."""


def reason_against(line: str) -> str | None:
    """The entry of the list above that a command falls under, if any."""
    return next((start for start in NOT_RUN if line == start or line.startswith((f"{start} ", start))), None)


def ours(line: str) -> list[str] | None:
    """A command of this package, as words without the program's name, up to a pipe or a redirection."""
    if line.startswith("git ") or not (match := re.search(r"(?:^|[\s/;&|(])seedvr2-ray(?=\s)(.*)", line)):
        return None
    return shlex.split(re.split(r"\s[|&;>]", match[1])[0])


@cache
def _command_line() -> Any:
    return typer.main.get_command(app)


def parse(words: list[str]) -> None:
    """Let the command line take the words apart, and do nothing."""
    command: Any = _command_line()
    context = command.make_context("seedvr2-ray", list(words))
    rest = [*context.args] if not hasattr(context, "_protected_args") else [*context._protected_args, *context.args]
    while hasattr(command, "commands") and rest:
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
        rest = [*getattr(context, "_protected_args", ()), *context.args]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_of_this_package_are_understood(path: Path) -> None:
    for line in commands(path):
        if (words := ours(line)) is not None:
            parse(words)
    for line in commands_in_prose(path):
        # Sentences name commands without all that they need.
        wants_more = (typer._click.exceptions.MissingParameter, typer._click.exceptions.NoArgsIsHelpError)
        with suppress(*wants_more, typer.Exit):
            parse(ours(line) or [])


def test_a_command_that_does_not_exist_is_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse(["restore", "a.mp4", "b.mp4", "--no-such-option"])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_options_of_benchmarks_and_of_training_are_known_to_them(path: Path) -> None:
    for line in [*commands(path), *commands_in_prose(path)]:
        if match := re.search(r"python -m ((?:benchmarks|training)\.\w+)(.*)", line):
            program = ROOT.joinpath(*match[1].split(".")).with_suffix(".py").read_text()
            for option in re.findall(r"--[\w-]+", match[2]):
                assert f'"{option}"' in program, line


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_targets_of_make_modules_scripts_and_extras_are_there(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert languages(path) <= {*SHELL, "text", "python", "json", "yaml"}
    for line in [*commands(path), *commands_in_prose(path)]:
        for module in re.findall(r"python -m ([\w.]+)", line):
            place = ROOT.joinpath(*module.split("."))
            assert place.with_suffix(".py").exists() or place.is_dir() or module in {"pytest", "pip"}, line
        for script in re.findall(r"python ([\w/]+\.py)", line):
            assert (ROOT / script).exists(), line
        if match := re.search(r"(?:^|\s)make ([a-z-]+)", line):
            assert match[1] in targets, line
    for extra in re.findall(r"(?:seedvr2-ray|'\.)\[(\w+)\]", path.read_text()):
        assert extra in extras, extra


def test_what_is_not_run_is_listed_with_a_reason_and_the_list_does_not_grow_by_itself() -> None:
    lines = [line for path in PAGES if path.name not in RUN_AS_SCRIPTS for line in commands(path)]
    reasons = [reason for line in lines if (reason := reason_against(line)) is not None]
    assert NOT_RUN.keys() == set(reasons), "what is listed stands in no page any more"
    assert len(reasons) <= MOST_NOT_RUN
    for line in lines:
        assert reason_against(line) or ours(line), f"nothing runs {line!r}: run it, or list it with the reason"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What commands name: a video of more than a minute in few frames, a photo, a stream, and the manifests."""
    folder = tmp_path_factory.mktemp("inputs")
    make_clip(folder / "holiday.mov", num_frames=70, rate=Fraction(1), cuts=(61, 66))
    make_image(folder / "photo.jpg", pixel_format="yuvj420p", codec="mjpeg", number=3)
    make_stream(str(folder / "camera.ts"), 8)
    return folder


@pytest.fixture
def here(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the inputs, in front of a cluster that has the platform's secrets and one archive's logs."""
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    (tmp_path / "cluster").symlink_to(ROOT / "cluster")
    (tmp_path / "kube").mkdir()
    with api_server(tmp_path / "kube") as (store, kubeconfig):
        for name, keys in required_secrets([*manifests("h100"), *manifests("h100-bulk")]).items():
            data = {key: base64.b64encode(b"x").decode() for key in keys}
            store.put("secrets", {"metadata": {"name": name}, "data": data})
        labels = {"labels": {"job-name": "archive-7"}, "creationTimestamp": "2026-01-01T00:00:00Z"}
        store.put("pods", {"metadata": {"name": "archive-7-x", **labels}, "status": {}})
        store.logs["archive-7-x"] = "restoring\n"
        monkeypatch.chdir(tmp_path)
        for name, value in {
            "KUBECONFIG": str(kubeconfig),
            "SEEDVR2_WEIGHTS_DIR": str(tmp_path / "weights"),
            "SEEDVR2_DATABASE_URL": f"sqlite:///{tmp_path}/service.db",
        }.items():
            monkeypatch.setenv(name, value)
        yield tmp_path


def cheaply(words: list[str]) -> list[str]:
    """A command with what makes it take no time: a model that only enlarges, the source's size, a quick encoder."""
    if words[0] not in ("restore", "variants"):
        return words
    cheap = {"--resolution": "x1", "--preset": "auto" if words[2].endswith(".png") else "ultrafast"}
    if words[0] == "restore":
        cheap["--model"] = "lanczos"
    added = [part for name, value in cheap.items() if name not in words for part in (name, value)]
    return [*words, *added, *(["--overwrite"] if words[0] == "restore" else [])]


def runnable(path: Path) -> list[str]:
    """The commands of a page that a test of this module runs."""
    if path.name in RUN_AS_SCRIPTS:
        return []
    return [line for line in commands(path) if not line.startswith(RUN_ON_RAY) and reason_against(line) is None]


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in PAGES if runnable(path)], ids=lambda path: path.name)
def test_commands_that_need_neither_gpu_nor_cluster_run_as_they_stand(path: Path, here: Path) -> None:
    for line in runnable(path):
        words = ours(line)
        assert words and main([os.path.expandvars(word) for word in cheaply(words)]) == 0, line


@pytest.mark.slow
def test_programs_about_excerpts_run_as_they_stand(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cheap(monkeypatch)
    for program in blocks(ROOT / "docs" / "excerpts.md", "python"):
        exec(compile(program, "excerpts.md", "exec"), {})
    assert (here / "holiday-1080p.mp4").exists() and (here / "variants.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["demo", "serve", "test", "docs"])
def test_recipes_of_make_are_understood_and_listed(target: str) -> None:
    """The recipes are printed and not run."""
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(rf"^{target}\s", listed.stdout, re.MULTILINE), listed.stdout
    recipe = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True)
    found = [words for line in recipe.stdout.splitlines() if (words := ours(line)) is not None and "echo" not in line]
    assert bool(found) == (target in ("demo", "serve")), recipe.stdout
    for words in found:
        parse(words)
