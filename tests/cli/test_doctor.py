import importlib.util

import pytest

from seedvr2_ray.cli import doctor
from seedvr2_ray.cli.doctor import examine
from seedvr2_ray.models.weights.catalogue import CATALOGUE
from seedvr2_ray.models.weights.download import WeightsSource


def by_subject(findings):
    return {finding.subject: finding for finding in findings}


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *names, **options: None)
    return WeightsSource(weights_dir=tmp_path)


@pytest.mark.slow
def test_every_model_is_accounted_for_with_the_command_that_brings_it(nowhere):
    found = by_subject(examine(nowhere))
    for name, entry in CATALOGUE.items():
        finding = found[f"model {name}"]
        if any(file.repository for part in entry.components for file in part.files):
            assert finding.state == "missing"
            assert finding.detail.endswith(f"models pull {name}")
        else:
            assert finding.state == "good"


def test_a_machine_without_a_gpu_is_told_what_it_can_do(nowhere, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    finding = by_subject(examine(nowhere))["gpu"]
    assert finding.state == "missing"
    assert "run here" in finding.detail


def test_a_machine_without_ray_still_restores_single_files(nowhere, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find_spec(name))
    assert by_subject(examine(nowhere))["ray"].state == "missing"


def test_a_disk_that_is_nearly_full_is_bad(nowhere, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**30})())
    assert by_subject(examine(nowhere))["disk here"].state == "bad"


def test_encoders_and_attention_kernels_are_named(nowhere):
    found = by_subject(examine(nowhere))
    assert "h264" in found["encoders"].detail
    assert "sdpa" in found["attention"].detail
