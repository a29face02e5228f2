import re

import pytest

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.models.weights.catalogue import CATALOGUE, default_model, find_entry

FILES = [file for entry in CATALOGUE.values() for component in entry.components for file in component.files]


def test_every_released_model_is_listed_with_all_its_parts():
    for name in ("seedvr2-3b", "seedvr2-7b", "seedvr2-7b-sharp"):
        assert [part.role for part in CATALOGUE[name].components] == ["transformer", "vae", "positive", "negative"]


def test_what_is_downloaded_by_default_has_a_published_hash():
    for entry in CATALOGUE.values():
        for component in entry.components:
            assert re.fullmatch(r"[0-9a-f]{64}", component.files[0].sha256 or ""), component.files[0].name


def test_no_two_different_files_share_a_name_or_a_hash():
    assert len({file.name for file in FILES}) == len(set(FILES))
    hashed = {file for file in FILES if file.sha256}
    assert len({file.sha256 for file in hashed}) == len(hashed)


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
