"""What is built can be used where nothing else of the project lies."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow

USER_PROGRAM = """
from pathlib import Path

import seedvr2_ray as sv

media: sv.Probe = sv.probe("a.mp4")
width: int = media.video.width
planned: sv.PlannedFile = sv.plan("a.mp4", Path("b.mp4"))
done: sv.RestoredFile = sv.restore("a.mp4", "b.mp4", sv.RestoreSettings(model="nano"), progress=True)
frames: sv.Frames = sv.restore(sv.read_frames("a.mp4", 0, 5), settings=sv.RestoreSettings(seed=1))
rows: list[dict[str, object]] = list(sv.open_report(done.target).segments)


def remote(client: sv.Client) -> Path:
    job: sv.Job = client.wait(client.submit("a.mp4"))
    return client.download(job, "b.mp4")


async def later(client: sv.AsyncClient) -> str:
    async for job in client.events("job"):
        return job.state
    return ""
"""
MISTAKES = {
    'sv.restore("a.mp4", "b.mp4").psnr': "attr-defined",
    'sv.RestoreSettings(modle="nano")': "call-arg",
    'sv.restore("a.mp4")': "call-overload",
    "sv.restor": "attr-defined",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the wheel and the source distribution, built without a network."""
    folder = tmp_path_factory.mktemp("dist")
    # The wheel is built from the source distribution, as an index would have it.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """An empty folder into which only the wheel was installed."""
    folder = tmp_path_factory.mktemp("installed")
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(folder), str(wheel)], check=True)
    return folder


def python(installed, cwd, *arguments):
    """Run Python where the installed package is found and the checkout is not."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


def test_everything_that_the_package_reads_is_in_the_wheel(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("seedvr2_ray/")}
    tracked = subprocess.run(
        ["git", "ls-files", "seedvr2_ray"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout.split()
    assert set(tracked) <= packed
    kinds = {Path(name).suffix for name in packed}
    assert {".py", ".html", ".css", ".js", ".json", ".safetensors"} <= kinds
    assert "seedvr2_ray/py.typed" in packed


def test_the_source_distribution_says_how_it_may_be_used(built):
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "NOTICE", "README.md", "pyproject.toml", "constraints.txt", "examples/demo.mp4"} <= names


def test_the_installed_package_restores_the_example_from_another_folder(installed, tmp_path):
    where = python(installed, tmp_path, "-c", "import seedvr2_ray; print(seedvr2_ray.__file__)")
    assert where.stdout.startswith(str(installed)), where.stdout + where.stderr
    done = python(
        installed, tmp_path, "-m", "seedvr2_ray", "restore", str(ROOT / "examples" / "demo.mp4"), "out.mp4",
        "--model", "lanczos", "--preset", "ultrafast", "--resolution", "x2",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"out.mp4", "out.mp4.html", "out.mp4.json"}


def test_the_installed_package_finds_its_weights_pages_and_tables(installed, tmp_path):
    code = """
from importlib.resources import files

import seedvr2_ray
from seedvr2_ray.models.weights.download import WeightsSource, verify_model
from seedvr2_ray.serve.db.database import open_database

assert {file.state for file in verify_model("nano", WeightsSource())} <= {"verified", "here", "built in"}, \\
    verify_model("nano", WeightsSource())
open_database("sqlite:///service.db").close()
assert (files("seedvr2_ray") / "serve/http/web/index.html").is_file()
"""
    done = python(installed, tmp_path, "-c", code)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_program_is_checked_strictly_against_the_installed_package(installed, tmp_path):
    (tmp_path / "right.py").write_text(USER_PROGRAM)
    (tmp_path / "wrong.py").write_text("\n".join(["import seedvr2_ray as sv", *MISTAKES]))
    # What others' libraries declare is theirs, and takes a minute to read.
    others = ",".join(
        f"{name}.*" for name in ("torch", "ray", "av", "numpy", "fastapi", "sqlalchemy", "PIL", "pyarrow")
    )
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nstrict = True\n[mypy-{others}]\nfollow_imports = skip\n")
    done = python(installed, tmp_path, "-m", "mypy", "right.py", "wrong.py")
    assert "right.py" not in done.stdout and not done.stderr, done.stdout + done.stderr
    for line, code in enumerate(MISTAKES.values(), start=2):
        assert f"wrong.py:{line}: error:" in done.stdout and f"[{code}]" in done.stdout, done.stdout
