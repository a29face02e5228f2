"""Plans of a clip's attention: index tensors that follow from integers alone."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from seedvr2_ray.models.seedvr2.config import SEEDVR2_3B, SEEDVR2_7B, WindowGrid
from seedvr2_ray.models.seedvr2.transformer.packing import PackingPlan, plan_packing
from seedvr2_ray.models.seedvr2.transformer.windows import plan_windows

CPU = torch.device("cpu")
GRID = (3, 21, 37)
TEXT = 4


def _plan(band_tokens: int = 10**6, *, shifted: bool = True) -> PackingPlan:
    return plan_packing(SEEDVR2_3B, GRID, TEXT, shifted=shifted, band_tokens=band_tokens, device=CPU)


@pytest.mark.parametrize("shifted", [False, True])
def test_reference_order_is_windows_of_one_sample_after_another(
    golden: Callable[[str], dict[str, Tensor]], shifted: bool
) -> None:
    vectors = golden("na_index")
    expected = golden(f"na_index.{'shifted' if shifted else 'regular'}")
    grid = WindowGrid(counts=(4, 16, 16))
    rows, shapes, joint, start = [], [], [0], 0
    for size, text_length in zip(vectors["vid_shape"].tolist(), vectors["txt_len"].tolist(), strict=True):
        numbers = torch.arange(start, start + size[0] * size[1] * size[2]).view(*size)
        start += numbers.numel()
        for t, y, x in plan_windows(tuple(size), grid, shifted=shifted).spans:
            window = numbers[t.start : t.stop, y.start : y.stop, x.start : x.stop]
            rows.append(window.flatten())
            shapes.append(list(window.shape))
            joint.append(joint[-1] + window.numel() + text_length)
    assert torch.equal(torch.cat(rows), expected["perm"])
    assert shapes == expected["window_shapes"].tolist()
    assert joint == expected["cu_seqlens"].tolist()


@pytest.mark.parametrize("band_tokens", [1, 40, 500, 10**6])
@pytest.mark.parametrize("shifted", [False, True])
def test_bands_hold_every_token_once_and_the_inverse_undoes_them(band_tokens: int, shifted: bool) -> None:
    plan = _plan(band_tokens, shifted=shifted)
    rows = torch.cat([band.rows_L for band in plan.bands])
    num_tokens = 3 * 21 * 37
    assert rows.sort().values.tolist() == list(range(num_tokens))
    assert rows[plan.inverse_L].tolist() == list(range(num_tokens))


def test_bands_cut_between_windows_only_and_stay_within_their_size() -> None:
    for limit in (1, 40, 500):
        for band in _plan(limit).bands:
            num_windows = sum(batch.num_windows for batch in band.windows.batches)
            assert len(band.rows_L) <= limit or num_windows == 1
            assert band.windows.video_ends_W.tolist()[-1] == len(band.rows_L)


def test_every_text_token_knows_the_number_of_windows() -> None:
    num_windows = len(plan_windows(GRID, SEEDVR2_3B.windows, shifted=True).spans)
    assert _plan(500).text_windows_L.tolist() == [num_windows] * TEXT


def test_tokens_at_one_place_of_equal_windows_are_turned_alike() -> None:
    plan = _plan(10**6, shifted=False)
    (band,) = plan.bands
    start = 0
    for batch in band.windows.batches:
        rows = band.rotation_rows_L[start : start + batch.video_tokens].view(batch.num_windows, -1)
        assert (rows == rows[0]).all()
        start += batch.video_tokens
    assert len(plan.video_rotations_LP2) <= start


def test_a_plan_is_made_once_for_equal_sizes_and_the_cache_is_bounded() -> None:
    assert _plan(500) is _plan(500)
    assert _plan(500) is not _plan(501)
    other = plan_packing(SEEDVR2_7B, GRID, TEXT, shifted=True, band_tokens=500, device=CPU)
    assert other is not _plan(500)
    assert plan_packing.cache_info().maxsize is not None


def test_a_plan_made_under_inference_mode_still_serves_training() -> None:
    config = replace(SEEDVR2_3B, head_dim=32)
    with torch.inference_mode():
        plan = plan_packing(config, (1, 3, 3), 2, shifted=False, band_tokens=9, device=CPU)
    assert not plan.video_rotations_LP2.is_inference()
    assert not plan.inverse_L.is_inference()


def test_seven_b_gives_text_no_position() -> None:
    plan = plan_packing(SEEDVR2_7B, GRID, TEXT, shifted=False, band_tokens=500, device=CPU)
    assert plan.text_rotations_LP2 is None
    assert _plan(500).text_rotations_LP2 is not None
