"""Windows: what the released grids look like, and that nothing is lost or seen twice."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from seedvr2_ray.models.seedvr2.config import WindowGrid
from seedvr2_ray.models.seedvr2.transformer.windows import plan_windows, window_size

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[3] / "data" / "golden" / "dit_windows.json").read_text()
)["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['size']}-{case['num_windows']}-{case['method'][4]}")
def test_windows_are_the_published_ones(case: dict[str, Any]) -> None:
    grid = WindowGrid(counts=tuple(case["num_windows"]))
    shifted = case["method"] == "720pswin_by_size_bysize"
    spans = plan_windows(tuple(case["size"]), grid, shifted=shifted).spans
    corners = [[edge for axis in span for edge in (axis.start, axis.stop)] for span in spans]
    assert len(corners) == case["count"]
    if "windows_t0t1h0h1w0w1" in case:
        assert corners == case["windows_t0t1h0h1w0w1"]
    else:
        assert hashlib.sha256(json.dumps(corners).encode()).hexdigest() == case["sha256_of_json_list"]


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("grid", [WindowGrid(), WindowGrid(counts=(1, 5, 2), reference_tokens=640)])
def test_windows_cover_every_token_exactly_once(grid: WindowGrid, shifted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.stack([torch.randint(1, limit, (15,), generator=generator) for limit in (40, 60, 60)], dim=1)
    for t, y, x in [(1, 1, 1), (1, 1, 200), (64, 1, 1), *map(tuple, sizes.tolist())]:
        visits = torch.zeros(t, y, x, dtype=torch.int)
        for span_t, span_y, span_x in plan_windows((t, y, x), grid, shifted=shifted).spans:
            visits[span_t.start : span_t.stop, span_y.start : span_y.stop, span_x.start : span_x.stop] += 1
        assert (visits == 1).all()


def test_window_size_follows_the_shape_and_not_the_resolution() -> None:
    for scale in (1, 2, 3, 4):
        assert window_size((6, 45 * scale, 80 * scale), WindowGrid()) == (2, 15, 27)


def test_windows_stop_growing_in_time() -> None:
    assert window_size((30, 45, 80), WindowGrid())[0] == window_size((500, 45, 80), WindowGrid())[0] == 8


def test_a_shift_leaves_an_axis_of_one_window_whole() -> None:
    spans = plan_windows((1, 45, 80), WindowGrid(), shifted=True).spans
    assert {t for t, _, _ in spans} == {range(1)}


def test_a_smaller_reference_makes_smaller_windows() -> None:
    assert window_size((2, 40, 40), WindowGrid(counts=(2, 4, 4), reference_tokens=32 * 32)) == (1, 8, 8)
