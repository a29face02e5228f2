"""The package's own names: what they cost, and what a type checker makes of them."""

import subprocess
import sys
from pathlib import Path

import pytest

import seedvr2_ray as sv

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


def test_importing_the_package_loads_nothing_that_takes_time():
    heavy = ("torch", "ray", "av", "numpy", "httpx", "pydantic", "PIL", "fastapi")
    code = f"import sys, seedvr2_ray; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there_and_says_what_it_is():
    for name in sv.__all__:
        found = getattr(sv, name)
        assert name == "__version__" or (found.__doc__ or "").strip(), f"{name} has no docstring"
        assert name in dir(sv)


def test_a_name_that_is_none_is_said_as_python_says_it():
    with pytest.raises(AttributeError, match="module 'seedvr2_ray' has no attribute 'restor'"):
        _ = sv.restor


@pytest.mark.slow
def test_a_program_that_uses_the_public_names_is_checked_strictly(tmp_path):
    root = Path(__file__).parent.parent

    def check(*lines):
        program = tmp_path / "program.py"
        program.write_text("\n".join(lines))
        command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(program)]
        environment = {"MYPYPATH": str(root), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    right = check(USER_PROGRAM)
    assert right.returncode == 0, right.stdout
    wrong = check("import seedvr2_ray as sv", *MISTAKES)
    for line, code in enumerate(MISTAKES.values(), start=2):
        assert f"program.py:{line}: error:" in wrong.stdout and f"[{code}]" in wrong.stdout, wrong.stdout
