"""What is cheap to import stays cheap: who only plans, probes or asks for help loads neither torch nor Ray."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "pyarrow", "kubernetes", "PIL")


@pytest.mark.parametrize(
    "module",
    [
        "seedvr2_ray",
        "seedvr2_ray.settings",
        "seedvr2_ray.client",
        "seedvr2_ray.cli.main",
        "seedvr2_ray.media.container.probe",
        "seedvr2_ray.restoration.planning.plan",
        "seedvr2_ray.restoration.planning.geometry",
    ],
)
def test_a_cheap_module_loads_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
