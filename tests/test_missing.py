"""The tests of the tests: nothing that a missing package causes is passed over in silence."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.missing import in_ci, is_excused, missing, require_programs

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "apt_install.sh"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An apt-get that does what a file of the test's says, and notes how it is called."""
    fake = tmp_path / "bin" / "apt-get"
    fake.parent.mkdir()
    script = f"""#!/bin/sh
echo "$@" >> {tmp_path}/calls
line=$(head -n 1 {tmp_path}/answers)
sed -i 1d {tmp_path}/answers
test -z "$line" && exit 0
echo "$line" >&2
exit 100
"""
    fake.write_text(script)
    fake.chmod(0o755)
    (tmp_path / "answers").touch()
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("APT_WAIT_SECONDS", "0")
    monkeypatch.setenv("APT_TRIES", "3")
    return tmp_path


BUSY = "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7 (apt)\n"


def install() -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", str(SCRIPT), "jq", "curl"], capture_output=True, text=True, timeout=120, check=False)


def test_a_busy_package_manager_is_waited_for(packages: Path) -> None:
    (packages / "answers").write_text(BUSY * 2)
    done = install()
    assert done.returncode == 0 and done.stderr.count("trying again") == 2
    last = (packages / "calls").read_text().splitlines()[-1]
    assert "DPkg::Lock::Timeout=300" in last and last.endswith("install --no-install-recommends jq curl")


def test_one_that_stays_busy_is_a_failure_with_a_sentence(packages: Path) -> None:
    (packages / "answers").write_text(BUSY * 9)
    done = install()
    assert done.returncode == 1
    assert "could not install jq curl: another package manager has held its lock for 3 tries" in done.stderr


def test_what_waiting_does_not_cure_fails_at_once_and_is_shown(packages: Path) -> None:
    (packages / "answers").write_text("E: Unable to locate package jq\n")
    done = install()
    assert done.returncode == 1 and "Unable to locate package jq" in done.stderr
    assert len((packages / "calls").read_text().splitlines()) == 1


@pytest.mark.parametrize(("ci", "code"), [("true", 2), ("", 0)])
def test_make_fails_in_ci_and_only_warns_elsewhere_when_packages_cannot_be_installed(
    packages: Path, monkeypatch: pytest.MonkeyPatch, ci: str, code: int
) -> None:
    # Nothing but the fakes and what make's shell needs: every package is missing, and whoever asks is root.
    for name, script in {"id": "echo 0", "ls": "exit 2"}.items():
        (packages / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (packages / "bin" / name).chmod(0o755)
    (packages / "answers").write_text("E: no network\n")
    monkeypatch.setenv("CI", ci)
    done = subprocess.run(
        ["make", "-s", "system-packages"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, done.stderr
    assert "the tests that need" in done.stderr and "postgresql" in done.stderr


@pytest.mark.parametrize("value", ["true", "1", "True"])
def test_in_ci_a_missing_package_is_a_failure_and_says_why(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CI", value)
    assert in_ci()
    with pytest.raises(pytest.fail.Exception, match="postgresql is not installed; `make system-packages`"):
        missing("postgresql")
    with pytest.raises(pytest.fail.Exception, match="no-such-program is not installed"):
        require_programs("sh", "no-such-program")


def test_elsewhere_it_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="postgresql is not installed; `make system-packages`"):
        missing("postgresql")


def test_only_what_the_machine_cannot_do_excuses_a_skip_in_ci() -> None:
    assert is_excused("Skipped: no CUDA device; SEEDVR2_REQUIRE_GPU=1 makes this a failure")
    assert not is_excused("Skipped: could not import 'moto'")


@pytest.mark.slow
@pytest.mark.parametrize(("ci", "outcome"), [("true", "1 failed, 1 skipped"), ("", "2 skipped")])
def test_a_skip_for_another_reason_is_turned_into_a_failure_in_ci(tmp_path: Path, ci: str, outcome: str) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_package(): pytest.skip('some package is missing')\n"
        "@pytest.mark.skipif(True, reason='root may write everywhere')\n"
        "def test_machine(): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", str(tmp_path)]
    environ = {**os.environ, "CI": ci, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=240, check=False)
    assert outcome in done.stdout, done.stdout + done.stderr


def test_no_module_of_the_tests_is_skipped_as_a_whole() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        if path != Path(__file__):
            assert not re.search(r"^pytest\.importorskip|allow_module_level", path.read_text(), re.MULTILINE), path
