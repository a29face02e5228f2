"""An archive on a real local Ray: whole, killed in every way, and run again."""

import contextlib
import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet
import pytest
import ray
import torch

from seedvr2_ray.batch.bulk import BulkRequest, estimate_bulk, run_bulk
from seedvr2_ray.batch.execution.cluster import Pool
from seedvr2_ray.batch.execution.feed import Events, Feed, FeedOver, Restraint
from seedvr2_ray.batch.execution.heartbeats import at_work, watch_run
from seedvr2_ray.batch.execution.rows import VideosRow, to_columns
from seedvr2_ray.batch.manifest.manifest import ManifestSource
from seedvr2_ray.cli.main import main
from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.restoration.load import LoadOptions, load_restorer
from seedvr2_ray.restoration.run import restore_video
from seedvr2_ray.settings import RestoreSettings
from tests.batch.archives import (
    Archive,
    Quiet,
    begun_more_than_once,
    committed_keys,
    digests,
    make_archive,
    quarantined,
    request_for,
    restore_one_by_one,
)
from tests.batch.drive import HALF_OF_SMALL_RAY
from tests.batch.machines import PATIENCE_SECONDS, run_and_lose_machine
from tests.batch.restorers import TracingRestorers
from tests.documents import PAGES, commands
from tests.media.clips import make_clip, make_image
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.ray,
    # Half a minute each on an idle machine. What hangs is to be known as such, and soon.
    # Ray leaves its log files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return make_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def undisturbed(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each file becomes when it is restored by itself and nothing happens."""
    found = restore_one_by_one(archive, tmp_path_factory.mktemp("undisturbed"))
    assert len(found) == len(archive.good)
    return found


@pytest.fixture(scope="module", autouse=True)
def ray_environment() -> Iterator[None]:
    """Let workers import the tests, and leave no Ray behind."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(ROOT))
        environment.setenv("OMP_NUM_THREADS", "1")
        yield
        ray.shutdown()


@pytest.fixture
def small_ray() -> None:
    """Two cores; tests share them for as long as none of them needs other ones."""
    if not ray.is_initialized():
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, object_store_memory=150 << 20, log_to_driver=False
        )


def tracing(tmp_path: Path, **options: float) -> TracingRestorers:
    folder = tmp_path / "traces"
    folder.mkdir(exist_ok=True)
    return TracingRestorers(str(folder), **options)  # type: ignore[arg-type]


def job_folder(output: Path) -> Path:
    return output / ".seedvr2-ray"


def require_whole(archive: Archive, output: Path, undisturbed: dict[str, str]) -> None:
    """Every good file is there with the right bytes and its provenance; every bad one is in the quarantine."""
    assert digests(output, archive.targets()) == undisturbed
    visible = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    visible = {name for name in visible if not name.startswith(".seedvr2-ray/")}
    assert visible == {f"{name}{suffix}" for name in archive.good for suffix in ("", ".json")}
    lines = quarantined(job_folder(output))
    assert set(lines) == {str(archive.folder / name) for name in archive.bad}
    assert all(line["stage"] and line["error"] and line["remedy"] for line in lines.values())


@pytest.mark.usefixtures("small_ray")
def test_an_archive_is_restored_and_reported_and_a_second_run_restores_nothing(
    archive: Archive, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    restorers = tracing(tmp_path)
    request = request_for(str(archive.folder), str(output), restorers, tmp_path / "scratch")
    summary = run_bulk(request, Quiet())
    require_whole(archive, output, undisturbed)
    assert summary["files"] == {"published": 25, "skipped": 0, "quarantined": 5}
    assert begun_more_than_once(restorers.traces()) == {}
    assert not (job_folder(output) / "work").exists() or not list((job_folder(output) / "work").rglob("*.mkv"))

    rows = pyarrow.parquet.read_table(job_folder(output) / "report.parquet").to_pylist()
    assert sorted(row["state"] for row in rows) == ["published"] * 25 + ["quarantined"] * 5
    done = [row for row in rows if row["state"] == "published"]
    assert sum(row["frames"] for row in done) == summary["frames"]
    assert sum(row["gpu_seconds"] for row in done) == pytest.approx(summary["gpu_seconds"], abs=0.01)
    assert all(row["psnr"] > 20 and row["size"] == "192x128" for row in done)
    assert summary["cost"] == pytest.approx(summary["gpu_seconds"] / 3600 * 3.0, abs=1e-4)
    assert json.loads((job_folder(output) / "report.json").read_text()) == summary
    page = (job_folder(output) / "report.html").read_text()
    assert all(name.rpartition("/")[2] in page for name in (*archive.good, *archive.bad))

    num_traces = len(restorers.traces())
    again = run_bulk(request, Quiet())
    assert again["files"] == {"published": 0, "skipped": 25, "quarantined": 5}
    assert len(restorers.traces()) == num_traces
    assert {name: again[name] for name in ("frames", "gpu_seconds", "quality", "cost")} == {
        name: summary[name] for name in ("frames", "gpu_seconds", "quality", "cost")
    }
    require_whole(archive, output, undisturbed)


@pytest.mark.usefixtures("small_ray")
def test_a_killed_restorer_costs_the_segment_it_was_at_and_a_deadly_segment_is_set_aside(
    archive: Archive, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    deadly = archive.good[7]
    restorers = tracing(tmp_path, pause_seconds=0.1, deadly_number=200 + 40 * 7)
    killed: list[int] = []

    def kill_one() -> None:
        wait_for(lambda: len(restorers.traces()) >= 4, "some segments")
        killed.append(restorers.traces()[-1].pid)
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    summary = run_bulk(request_for(str(archive.folder), str(output), restorers, tmp_path / "scratch"), Quiet())
    killer.join()
    assert summary["files"] == {"published": 24, "skipped": 0, "quarantined": 6}
    lines = quarantined(job_folder(output))
    assert "died 3 times" in lines[str(archive.folder / deadly)]["error"]
    assert digests(output, archive.targets()) == {name: undisturbed[name] for name in archive.good if name != deadly}
    traces = restorers.traces()
    repeated = begun_more_than_once(traces)
    (deadly_key,) = (key for key in repeated if key[0] == 200 + 40 * 7)
    assert repeated.pop(deadly_key) == 3
    # Begun once more is what was in work or was being committed at the blow, or when the deadly one was met first.
    assert len(repeated) <= 3 and set(repeated.values()) <= {2}


@pytest.mark.usefixtures("small_ray")
def test_restorers_that_leave_no_core_for_tasks_are_made_fewer_instead_of_waiting_for_ever(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "in", num_good=4)
    request = request_for(
        str(archive.folder),
        str(tmp_path / "out"),
        tracing(tmp_path),
        tmp_path / "scratch",
        pool=Pool(num_gpus=0, min_size=2, max_size=2),
        timeout_seconds=PATIENCE_SECONDS,
    )
    summary = run_bulk(request, Quiet())
    assert summary["files"] == {"published": 4, "skipped": 0, "quarantined": 5}


@pytest.mark.usefixtures("small_ray")
def test_two_drivers_of_one_archive_at_once_spoil_nothing_and_set_nothing_aside(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "in", num_good=3)
    output = tmp_path / "out"
    restorers = tracing(tmp_path, pause_seconds=0.1, num_together=2)
    command = [sys.executable, "-m", "tests.batch.drive", str(archive.folder), str(output), restorers.folder]
    address = ray.get_runtime_context().gcs_address
    command += [str(tmp_path / "other-scratch"), "0.1", address]
    with (tmp_path / "said").open("w") as said:
        other = subprocess.Popen(command, cwd=ROOT, stderr=said)
    try:
        request = request_for(str(archive.folder), str(output), restorers, tmp_path / "scratch", pool=HALF_OF_SMALL_RAY)
        summary = run_bulk(request, Quiet())
        assert other.wait(timeout=240) == 0, (tmp_path / "said").read_text()
    finally:
        other.kill()
        other.wait()
    assert summary["files"]["published"] + summary["files"]["skipped"] == 3
    assert len({trace.pid for trace in restorers.traces()}) == 2
    require_whole(archive, output, restore_one_by_one(archive, tmp_path / "one-by-one"))
    assert not list((job_folder(output) / "manifests").glob("*")), "whoever ends says so"
    assert not list((job_folder(output) / "work").rglob("payloads/*"))


@pytest.mark.usefixtures("small_ray")
def test_a_network_makes_of_an_archive_what_it_makes_of_each_file_alone(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    make_clip(tmp_path / "in/a.mp4", num_frames=6)
    make_image(tmp_path / "in/b.png", pixel_format="rgb24", codec="png", number=7)
    settings = RestoreSettings(model="nano", resolution="x2", detect_shots=False)
    request = BulkRequest(
        manifest=ManifestSource(url=str(tmp_path / "in"), output=str(tmp_path / "out"), defaults=settings),
        pool=Pool(num_gpus=0),
        scratch=str(tmp_path / "scratch"),
    )
    summary = run_bulk(request, Quiet())
    assert summary["files"] == {"published": 2, "skipped": 0, "quarantined": 0}
    assert json.loads((tmp_path / "out/a.mp4.json").read_text())["settings"]["model"] == "nano"

    (tmp_path / "alone").mkdir()
    options, names = LoadOptions(), ("a.mp4", "b.png")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # As the workers: sums of floats depend on how they are split.
    try:
        restorer = load_restorer(settings, options)
        for name in names:
            source, target = str(tmp_path / "in" / name), str(tmp_path / "alone" / name)
            restore_video(source, target, settings, restorer.identity, lambda: restorer, report=False)
    finally:
        torch.set_num_threads(threads)
    assert digests(tmp_path / "out", names) == digests(tmp_path / "alone", names)


@pytest.mark.usefixtures("small_ray")
def test_who_is_at_work_on_a_cluster_is_known_to_its_driver() -> None:
    def toil_until_known(seconds: float) -> dict[str, float]:
        limit = time.monotonic() + seconds
        with at_work("a-run", "restore", 0.2):
            while time.monotonic() < limit:
                quiet: dict[str, float] = ray.get(ray.get_actor("seedvr2-ray-heartbeats-a-run").quiet_seconds.remote())
                if quiet:
                    break
                time.sleep(0.1)
        return quiet

    with watch_run("a-run", timeout_seconds=60):
        assert set(ray.get(ray.remote(num_cpus=1)(toil_until_known).remote(60))) == {"restore"}


class NotedBlocks:
    """How many blocks Ray's operators hold notes of, as its executor is told at every step after the feed was."""

    seen: ClassVar[list[int]] = []

    def before_execution_starts(self, executor: object) -> None: ...

    def on_execution_step(self, executor: Any) -> None:
        noted = [blocks for operator in executor._topology for blocks in operator.get_stats().values()]
        self.seen.append(sum(map(len, noted)))

    def after_execution_succeeds(self, executor: object) -> None: ...

    def after_execution_fails(self, executor: object, error: Exception) -> None: ...


@pytest.mark.usefixtures("small_ray")
def test_ray_keeps_no_notes_of_rows_that_are_done() -> None:
    def described(batch: object) -> dict[str, list[object]]:
        return {name: [value] for name, value in to_columns(VideosRow(outcomes=(), videos=())).items()}

    dataset = ray.data.range(30, override_num_blocks=30).map_batches(described, batch_size=1)
    events: Events = queue.SimpleQueue()
    NotedBlocks.seen.clear()
    feed = Feed(dataset, events.put, Restraint(100))
    dataset.context.custom_execution_callback_classes.append(NotedBlocks)  # Called after the feed's own.
    received = 0
    with feed:
        while not isinstance(event := events.get(timeout=240), FeedOver):
            feed.read(event)
            received += 1
    assert event.error is None and received == 30
    assert NotedBlocks.seen and set(NotedBlocks.seen) == {0}


@pytest.mark.usefixtures("small_ray")
def test_the_commands_of_the_documents_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """README's restores; those of models that need a GPU are planned."""
    (tmp_path / "videos").mkdir()
    make_clip(tmp_path / "videos" / "a.mp4", num_frames=2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # The Ray that runs already.
    lines = {line for page in PAGES for line in commands(page) if line.startswith("seedvr2-ray batch ")}
    assert len(lines) == 2
    for line in sorted(lines, key=len):
        words = shlex.split(line)[1:]
        assert main([*words, "--preset", "ultrafast", *(["--dry-run"] if "seedvr2-3b" in words else [])]) == 0
    assert main(["batch", "status", "restored/.seedvr2-ray"]) == 0
    assert Path("restored/a.mp4").exists()


@pytest.mark.usefixtures("small_ray")
def test_a_dry_run_says_what_would_be_done_and_restores_nothing(archive: Archive, tmp_path: Path) -> None:
    restorers = tracing(tmp_path)
    request: BulkRequest = request_for(str(archive.folder), str(tmp_path / "out"), restorers, tmp_path / "scratch")
    estimate = estimate_bulk(replace(request, price_per_gpu_hour=2.0), megapixels_per_second=0.5).summary()
    assert (estimate["files"], estimate["refused"], estimate["already_done"]) == (30, 5, 0)
    assert estimate["segments_to_restore"] == estimate["segments"] > 25
    assert estimate["megapixels_to_restore"] == pytest.approx(estimate["frames_to_restore"] * 192 * 128 / 1e6, abs=1e-3)
    assert estimate["gpu_hours"] == pytest.approx(estimate["megapixels_to_restore"] / 0.5 / 3600, abs=1e-4)
    assert estimate["cost"] == pytest.approx(estimate["gpu_hours"] * 2.0, abs=1e-3)
    assert (estimate["memory_per_restorer_gib"], estimate["restorers_run_on"][:5]) == (0, "cpu (")  # A filter.
    assert {line["path"] for line in estimate["refusals"]} == {str(archive.folder / name) for name in archive.bad}
    assert restorers.traces() == []
    assert digests(tmp_path / "out", archive.targets()) == {}


def test_a_driver_whose_head_is_killed_says_so_and_the_same_command_goes_on(
    archive: Archive, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    ray.shutdown()  # The driver has a Ray of its own.
    output = tmp_path / "out"
    restorers = tracing(tmp_path)
    command = [sys.executable, "-m", "tests.batch.drive", str(archive.folder), str(output), restorers.folder]
    command.append(str(tmp_path / "scratch"))
    impatient = {**os.environ, "RAY_gcs_rpc_server_reconnect_timeout_s": "20"}
    with (tmp_path / "said").open("w") as said:
        driver = subprocess.Popen([*command, "0.3"], cwd=ROOT, start_new_session=True, stderr=said, env=impatient)
    wait_for(lambda: len(restorers.traces()) >= 8 or driver.poll() is not None, "eight segments")
    assert driver.poll() is None
    os.kill(_head_of(driver.pid), signal.SIGKILL)
    try:
        assert driver.wait(timeout=240) == DeploymentError.exit_code, (tmp_path / "said").read_text()
        assert "run the same command again once the head runs" in (tmp_path / "said").read_text()
        assert json.loads((job_folder(output) / "report.json").read_text())["stopped"] is True
    finally:
        os.killpg(driver.pid, signal.SIGKILL)  # What is left of its Ray, which is of no use to anybody.
    time.sleep(1)  # A killed process may have one last rename in the kernel.

    done = committed_keys(archive, job_folder(output))
    begun = restorers.traces()
    assert done
    assert len(digests(output, archive.targets())) < len(archive.good)
    subprocess.run([*command, "0"], cwd=ROOT, check=True, stderr=subprocess.DEVNULL, timeout=400)
    require_whole(archive, output, undisturbed)
    assert not done & {trace.key for trace in restorers.traces()[len(begun) :]}


def _head_of(session: int) -> int:
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text().strip() == "gcs_server" and os.getsid(int(path.parent.name)) == session:
                return int(path.parent.name)
    raise AssertionError("the driver's Ray has no head")


def test_a_lost_machine_is_made_up_for_by_the_others(
    archive: Archive, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    ray.shutdown()
    output = tmp_path / "out"
    restorers = tracing(tmp_path, pause_seconds=0.5, num_together=2)
    request = request_for(str(archive.folder), str(output), restorers, tmp_path / "scratch")
    summary, _ = run_and_lose_machine(request, restorers)
    require_whole(archive, output, undisturbed)
    losses = summary["this_run"]["losses"]
    assert losses["machines"] <= 1 and losses["segments_lost_with_their_process"] == 0, losses
    assert sum(begun_more_than_once(restorers.traces()).values()) <= 2 * 3
