"""``ray job submit`` to a local cluster, as its users do it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.batch.archives import digests, make_archive, quarantined, restore_one_by_one
from tests.browsers import open_browser
from tests.ports import free_port, is_listening
from tests.processes import kill_family
from tests.waiting import wait_for

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).parent / "ray")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """The address of the dashboard of a cluster of its own."""
    gcs, dashboard = free_port(), free_port()
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats", f"--port={gcs}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--node-ip-address=127.0.0.1"]
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # A path of a socket may have 107 characters.
    command += [f"--object-store-memory={150 << 20}", f"--temp-dir={folder}"]
    # Another Ray on the same machine has the usual one, and without its agent a cluster takes no jobs.
    command += [f"--dashboard-agent-listen-port={free_port()}"]
    head = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment()
    )
    try:
        wait_for(lambda: head.poll() is not None or is_listening(dashboard), "the cluster")
        assert head.poll() is None, "the cluster did not start"
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        # Ray itself waits half a minute for its own parts.
        kill_family(head)
        shutil.rmtree(folder, ignore_errors=True)


def _environment() -> dict[str, str]:
    return {**os.environ, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([RAY, *words], env=_environment(), capture_output=True, text=True, timeout=400, check=False)


def _submit(cluster: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Submit a job and return when it has ended. A dashboard answers some seconds before it takes one."""

    def taken() -> subprocess.CompletedProcess[str] | None:
        done = _run("job", "submit", "--address", cluster, *words)
        said = done.stdout + done.stderr
        return None if "No available agent" in said or "Failed to connect to Ray" in said else done

    return wait_for(taken, "the cluster to take a job")


def _require_tasks_named_after_what_they_do(cluster: str) -> None:
    """What the dashboard and ``ray list tasks`` show is the job's own work, and hardly any of it signs of life."""
    listed = _run("list", "tasks", "--address", cluster, "--limit", "10000", "--format", "json")
    names = Counter(task["name"] for task in json.loads(listed.stdout))
    told = dict(names.most_common())
    assert names["finishing"] >= 4 and names["publishing"] == 4, told
    for operator in ("planning", "Restoring"):
        assert sum(number for name, number in names.items() if operator in name) >= 1, told
    assert sum(number for name, number in names.items() if "eartbeat" in name) <= names.total() / 20, told


def _require_dashboard_to_show_them(cluster: str, chromium: Path) -> None:
    """Ray's own page of the job, opened as its operator opens it, has a line for each kind of work."""
    expect.set_options(timeout=240_000)
    with open_browser(chromium) as browser:
        page = browser.new_page()
        page.goto(f"{cluster}/#/jobs/archive-1")
        page.get_by_text("Ray Data Overview", exact=True).click()
        page.get_by_role("row", name="dataset_").locator("svg").first.click()
        for operator in ("FlatMap(planning)", "MapBatches(Restoring)"):
            expect(page.get_by_text(operator, exact=True)).to_be_visible()
        page.get_by_test_id("progress-bar-segment").last.locator("xpath=preceding::*[local-name()='svg'][1]").click()
        for task in ("FlatMap(planning)", "finishing", "publishing", "cleaning"):
            # Each with how often it was done.
            expect(page.locator("body")).to_contain_text(re.compile(rf"{re.escape(task)}\s*\(\s*\d+\s*\)"))


def test_a_submitted_job_restores_an_archive_and_its_log_can_be_read(
    cluster: str, chromium: Path, tmp_path: Path
) -> None:
    archive = make_archive(tmp_path / "in", num_good=4)
    expected = restore_one_by_one(archive, tmp_path / "one-by-one")
    working_dir = tmp_path / "project"
    for name in ("jobs", "seedvr2_ray"):
        shutil.copytree(ROOT / name, working_dir / name, ignore=shutil.ignore_patterns("__pycache__"))
    submitted = _submit(
        cluster,
        *("--submission-id", "archive-1", "--working-dir", str(working_dir)),
        *("--", sys.executable, "jobs/restore_archive.py", "--manifest", str(archive.folder)),
        *("--output", str(tmp_path / "out"), "--model", "lanczos", "--resolution", "x2"),
        *("--segment-seconds", "0.5", "--segment-overlap", "4", "--scratch", str(tmp_path / "scratch")),
    )
    log = _run("job", "logs", "--address", cluster, "archive-1").stdout
    assert digests(tmp_path / "out", archive.targets()) == expected, submitted.stdout[-3000:] + submitted.stderr[-2000:]
    assert set(quarantined(tmp_path / "out/.seedvr2-ray")) == {str(archive.folder / name) for name in archive.bad}
    assert "9 files, models: lanczos" in log
    assert "9 of 9 files" in log
    assert "set aside: " in log and "notes.mp4 (plan): MediaError: " in log
    assert "4 files restored, 0 were there from an earlier run, 5 set aside" in log
    assert "Traceback" not in log
    _require_tasks_named_after_what_they_do(cluster)
    _require_dashboard_to_show_them(cluster, chromium)
    assert "exit code 3" in _run("job", "status", "--address", cluster, "archive-1").stdout + submitted.stdout
