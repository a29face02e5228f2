from dataclasses import replace
from pathlib import Path

import pytest
import torch

from seedvr2_ray.batch.job import Job
from seedvr2_ray.batch.manifest.manifest import ManifestSource
from seedvr2_ray.batch.manifest.normalise import Shard, normalise
from seedvr2_ray.batch.report.estimate import Estimate, estimates_of
from seedvr2_ray.restoration.lanczos import LANCZOS
from seedvr2_ray.restoration.planning.device_memory import DeviceMemory
from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.settings import RestoreSettings
from tests.media.clips import make_clip

NANO = RestorerIdentity("nano", "0")


def a_device(free_bytes: int) -> DeviceMemory:
    return DeviceMemory(name="cpu", kind="cpu", dtype=torch.float32, free_bytes=free_bytes)


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    (tmp_path / "in").mkdir()
    make_clip(tmp_path / "in/a.mp4", num_frames=9)
    settings = RestoreSettings(model="nano", resolution="x2", detect_shots=False)
    source = ManifestSource(url=str(tmp_path / "in"), output=str(tmp_path / "out"), defaults=settings)
    (only,) = normalise(source, str(tmp_path / "shards")).shards
    return only


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(folder=str(tmp_path / "job"), run="estimate", scratch=str(tmp_path / "scratch"))


@pytest.mark.slow
def test_an_estimate_says_how_much_memory_a_file_needs_and_what_does_not_fit(shard: Shard, job: Job) -> None:
    (fits,) = estimates_of(shard, job, NANO, a_device(64 << 30))
    assert fits["state"] == "planned"
    assert 1 << 20 < fits["memory_bytes"] < 64 << 30
    (refused,) = estimates_of(shard, job, NANO, a_device(1 << 20))
    assert (refused["state"], refused["stage"]) == ("refused", "restore")
    assert "GiB can be used" in refused["error"] and "more memory" in refused["remedy"]
    assert refused["path"].endswith("a.mp4") and refused["to_restore"] == 0


@pytest.mark.slow
def test_a_file_is_planned_for_the_gangs_that_the_job_will_have(shard: Shard, job: Job) -> None:
    machine = replace(a_device(64 << 30), kind="cuda", dtype=torch.bfloat16, num_devices=2)
    (alone,) = estimates_of(shard, job, NANO, machine)
    (shared,) = estimates_of(shard, job, NANO, machine, 2)
    assert shared["memory_bytes"] < 0.9 * alone["memory_bytes"]
    # Processes of a CPU have a part of its memory each.
    (cramped,) = estimates_of(shard, job, NANO, a_device(300 << 20).shared_by(2), 2)
    assert cramped["state"] == "refused" and "GiB can be used" in cramped["error"], cramped
    (roomy,) = estimates_of(shard, job, NANO, a_device(300 << 20), 1)
    assert roomy["state"] == "planned", roomy
    (absent,) = estimates_of(shard, job, NANO, machine, 4)
    assert "there are 2" in absent["error"]


def test_a_filter_asks_for_no_memory_of_note(shard: Shard, job: Job) -> None:
    (row,) = estimates_of(shard, job, LANCZOS, a_device(1 << 20))
    assert (row["state"], row["memory_bytes"], row["to_restore"]) == ("planned", 0, 1)


def test_a_summary_names_what_restorers_run_on() -> None:
    estimate = Estimate(megapixels_per_second=1.0, price_per_gpu_hour=0.0, devices={"NVIDIA H200": 139.8})
    estimate.memory_gib = 41.256
    estimate.gang_size, estimate.megapixels_to_restore = 2, 3600.0
    summary = estimate.summary()
    assert summary["gpus_per_restorer"] == 2
    assert summary["gpu_hours"] == 2.0
    assert summary["restorers_run_on"] == "NVIDIA H200 (139.8 GiB free)"
    assert summary["memory_per_restorer_gib"] == 41.26
