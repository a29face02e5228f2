import hashlib

import pytest

from seedvr2_ray.errors import DeploymentError, SettingsError
from seedvr2_ray.models.seedvr2.config import SeedVR2Config
from seedvr2_ray.models.weights.catalogue import CATALOGUE, Component, ModelEntry, WeightFile
from seedvr2_ray.models.weights.download import WeightsSource
from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.load import LoadOptions, identify, load_restorer
from seedvr2_ray.settings import RestoreSettings
from tests.models.tiny import DIT, VAE

RELEASED, CONVERTED = b"released" * 100, b"converted" * 100
TINY = RestoreSettings(model="tiny")


def a_file(name, content):
    sha256 = hashlib.sha256(content).hexdigest()
    return WeightFile(name=name, repository="owner/tiny", licence="MIT", num_gigabytes=0.1, sha256=sha256)


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *names, **options: None)
    files = (a_file("released.bin", RELEASED), a_file("converted.bin", CONVERTED))
    networks = SeedVR2Config(transformer=DIT, vae=VAE)
    components = (Component(role="vae", files=files),)
    entry = ModelEntry(name="tiny", summary="", licence="MIT", networks=networks, components=components)
    monkeypatch.setitem(CATALOGUE, "tiny", entry)
    return LoadOptions(weights=WeightsSource(weights_dir=tmp_path), may_download=False)


def test_a_model_is_the_same_before_and_after_its_weights_arrive(options, tmp_path):
    planned = identify(TINY, options)
    (tmp_path / "released.bin").write_bytes(RELEASED)
    assert identify(TINY, options) == planned


def test_other_files_with_the_same_part_are_another_model(options, tmp_path):
    planned = identify(TINY, options)
    (tmp_path / "converted.bin").write_bytes(CONVERTED)
    assert identify(TINY, options) != planned


def test_damaged_weights_are_refused_when_planning(options, tmp_path):
    (tmp_path / "released.bin").write_bytes(b"something else")
    with pytest.raises(DeploymentError, match="not the released"):
        identify(TINY, options)


def test_loading_without_weights_says_how_to_get_them(options):
    with pytest.raises(DeploymentError, match="models pull tiny"):
        load_restorer(TINY, options)


def test_the_filter_needs_nothing(options):
    settings = RestoreSettings(model="lanczos")
    assert identify(settings, options) == LANCZOS
    assert isinstance(load_restorer(settings, options), LanczosRestorer)


def test_an_unknown_model_is_refused(options):
    with pytest.raises(SettingsError, match="unknown model"):
        identify(RestoreSettings(model="seedvr9"), options)
