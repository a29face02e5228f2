"""Windows are the published ones, cover every token, and give each token one owner."""

import re

import pytest
import torch

from seedvr2_ray.models.swiftvr.windows import make_tables, plan_grid, window_owners, window_starts
from tests.models.swiftvr.tiny import CASES, CONFIG, golden

PARITIES = [("even", False), ("odd", True)]


@pytest.mark.parametrize(("parity", "shifted"), PARITIES)
def test_starts_and_owners_are_the_published_ones(parity, shifted):
    for case in CASES["windows"]:
        published = case[parity]
        for axis, size, window in zip("hw", (case["H"], case["W"]), case["effective_window"], strict=True):
            starts = window_starts(size, window, shifted=shifted)
            assert list(starts) == published[f"{axis}_starts"]
            assert list(window_owners(starts, size, window, shifted=shifted)) == published[f"owner_{axis}"]


def test_index_tables_are_the_published_ones():
    published = golden("window_index")
    assert len(published) == 16
    for name, expected in published.items():
        numbers = re.fullmatch(r"T(\d+)_H(\d+)_W(\d+)_win(\d+)x(\d+)\.(even|odd)\.(\w+)", name)
        assert numbers is not None
        *sizes, parity, kind = numbers.groups()
        frames, height, width, rows, columns = map(int, sizes)
        tables = make_tables((frames, height, width), (rows, columns), shifted=parity == "odd")
        found = tables.gather_L.view(tables.num_windows, -1) if kind == "gather" else tables.owner_L
        assert torch.equal(found, expected.long()), name


@pytest.mark.parametrize("shifted", [False, True])
def test_windows_have_full_size_and_cover_every_position(shifted):
    for size in range(1, 70):
        for window in range(1, 18):
            starts = window_starts(size, window, shifted=shifted)
            covered = {p for start in starts for p in range(start, start + min(window, size))}
            assert covered == set(range(size)), (size, window)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("grid", [(1, 3, 11), (3, 10, 7), (2, 17, 33)])
def test_what_is_gathered_comes_back_to_its_own_place(grid, shifted):
    tables = make_tables(grid, (4, 4), shifted=shifted)
    assert torch.equal(tables.gather_L[tables.owner_L], torch.arange(grid[0] * grid[1] * grid[2]))


def test_a_plan_is_made_once_per_grid_and_can_be_used_outside_inference_mode():
    with torch.inference_mode():
        plan = plan_grid(CONFIG.transformer, (2, 5, 7), torch.device("cpu"))
    assert plan_grid(CONFIG.transformer, (2, 5, 7), torch.device("cpu")) is plan
    assert not plan.rotations_LP2.is_inference()
    assert plan.rotations_LP2.dtype == torch.float32
