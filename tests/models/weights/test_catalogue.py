import re

import pytest

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.models.weights.catalogue import CATALOGUE, default_model, find_entry, models_with

FILES = [file for entry in CATALOGUE.values() for component in entry.components for file in component.files]


def test_every_released_model_is_listed_with_all_its_parts():
    for name in ("seedvr2-3b", "seedvr2-3b-20250622", "seedvr2-7b", "seedvr2-7b-sharp"):
        assert [part.role for part in CATALOGUE[name].components] == ["transformer", "vae", "positive", "negative"]


def test_every_file_says_its_size_and_its_hash():
    for file in FILES:
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256 or ""), file.name
        assert file.size_bytes, file.name
        assert file.num_gigabytes == pytest.approx(file.size_bytes / 1e9, rel=0.1, abs=0.001), file.name


def test_of_two_files_with_one_name_each_says_which_release_it_is_and_their_hashes_differ():
    distinct = set(FILES)
    assert len({file.sha256 for file in distinct}) == len(distinct)
    shared = [file for file in distinct if sum(other.name == file.name for other in distinct) > 1]
    assert {file.name for file in shared} == {"seedvr2_ema_3b.pth"}
    assert all(file.release for file in shared)


def test_the_two_releases_of_the_3b_are_two_models_that_share_no_transformer():
    first, replaced = (CATALOGUE[name].component("transformer") for name in ("seedvr2-3b", "seedvr2-3b-20250622"))
    assert not set(first.files) & set(replaced.files)
    # What the converted file was made from is the first release; the one that is published now is another model.
    assert [file.sha256[:8] for file in first.files] == ["2fd0e03a", "91627bba"]
    assert [file.sha256[:8] for file in replaced.files] == ["6bcc5ac5"]


def test_a_model_is_found_by_the_content_of_its_files():
    for entry in CATALOGUE.values():
        for component in entry.components:
            assert all(entry.name in models_with(file.sha256) for file in component.files)


def test_files_outside_the_package_name_their_repository_and_licence():
    for file in FILES:
        assert file.licence
        assert (file.repository is None) == file.name.startswith("nano/")


def test_an_unknown_model_is_refused_with_the_nearest_name():
    with pytest.raises(SettingsError, match="did you mean seedvr2-7b"):
        find_entry("seedvr-7b")


@pytest.mark.parametrize("cuda_available", [True, False])
def test_the_default_model_is_in_the_catalogue(cuda_available):
    assert find_entry(default_model(cuda_available=cuda_available))
