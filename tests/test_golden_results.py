"""The same source and settings give the same bytes, addresses and words as in the last version; see golden_results."""

from pathlib import Path

import numpy as np
import pytest

from tests import golden_results as golden


@pytest.fixture(scope="module", autouse=True)
def _same_libraries() -> None:
    golden.require_same_libraries()


def test_segments_and_publications_have_the_addresses_that_they_had() -> None:
    assert golden.addresses() == golden.stored("results")["addresses"]


@pytest.mark.slow
def test_the_demo_is_restored_to_the_bytes_that_it_was(tmp_path: Path) -> None:
    assert golden.demo(tmp_path) == golden.stored("results")["demo"]


@pytest.mark.slow
def test_ten_small_items_are_restored_to_the_bytes_that_they_were(tmp_path: Path) -> None:
    assert golden.archive(tmp_path) == golden.stored("results")["archive"]


@pytest.mark.slow
def test_an_image_through_nano_looks_as_it_did_but_for_rounding(tmp_path: Path) -> None:
    # Its sums depend on how many threads add them up, so that no digest is the same on every machine.
    was, now = golden.stored_nano().astype(np.int16), golden.nano_picture(tmp_path).astype(np.int16)
    assert now.shape == was.shape
    difference = np.abs(now - was)
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= 0.01 * difference.size


@pytest.mark.slow
def test_a_caller_of_the_api_sees_what_he_saw(tmp_path: Path) -> None:
    assert golden.session(tmp_path) == golden.stored("session")
