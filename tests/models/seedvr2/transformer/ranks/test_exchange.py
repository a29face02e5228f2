"""A clip spread over ranks gives what one device gives, and sends the bytes that arithmetic says."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.models.parallel import SequenceParallel
from seedvr2_ray.models.seedvr2.config import SEEDVR2_3B, SEEDVR2_7B, WindowGrid
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.transformer.execution import Execution
from seedvr2_ray.models.seedvr2.transformer.ranks.assignment import assign_windows
from seedvr2_ray.models.seedvr2.transformer.ranks.by_heads import HeadShares
from seedvr2_ray.models.seedvr2.transformer.ranks.by_windows import WindowShares
from seedvr2_ray.models.seedvr2.transformer.ranks.choice import cheaper_strategy, share_tokens
from seedvr2_ray.models.seedvr2.transformer.ranks.traffic import head_bytes, window_bytes
from seedvr2_ray.models.seedvr2.transformer.windows import plan_windows
from tests.models.ranks import run_ranks
from tests.models.seedvr2.conftest import Golden, tiny_config

SIZES = [(5, 14, 18), (1, 2, 2), (1, 10, 6), (3, 10, 14)]
"""Latents: odd numbers of windows, a single token, a still image, fewer windows than ranks."""
FINE, COARSE = WindowGrid(counts=(4, 16, 16)), WindowGrid()
STRATEGIES = {"windows": (WindowShares, window_bytes), "ulysses": (HeadShares, head_bytes)}


def _network(variant: str, windows: WindowGrid = FINE) -> SeedVR2Transformer:
    torch.manual_seed(0)
    network = SeedVR2Transformer(replace(tiny_config(variant), num_heads=6, windows=windows)).requires_grad_(False)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    return network


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("windows", [FINE, COARSE], ids=["many windows", "few windows"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_clip_spread_over_ranks_is_that_of_one_device(
    variant: str, size: tuple[int, int, int], windows: WindowGrid, num_ranks: int, strategy: str
) -> None:
    network = _network(variant, windows)
    clip, text = torch.randn(*size, network.config.in_channels), torch.randn(7, network.config.text_dim)
    shares, count = STRATEGIES[strategy]

    def predict(parallel: SequenceParallel) -> tuple[Tensor, dict[str, int]]:
        execution = Execution(band_tokens=50, sharing=shares(parallel))
        return network(clip, text, 700.0, execution=execution), dict(parallel.sent)

    with torch.inference_mode():
        expected = network(clip, text, 700.0)
    scale = expected.abs().max()
    for rank, (found, sent) in enumerate(run_ranks(num_ranks, predict)):
        torch.testing.assert_close(found / scale, expected / scale, atol=1e-6, rtol=0)
        assert sent == dict(count(network.config, network.config.patched(size), 7, num_ranks, rank, 4))


@pytest.mark.parametrize("strategy", ["windows", "ulysses"])
@pytest.mark.parametrize("case", ["image", "video"])
def test_predictions_on_ranks_are_the_published_ones(
    tiny: SeedVR2Transformer, variant: str, golden: Golden, case: str, strategy: str
) -> None:
    given, num_ranks = golden(f"dit_{case}.in"), 2 if strategy == "windows" else 3
    clip = given["vid"].view(*given["vid_shape"][0].tolist(), -1)
    expected = golden(f"dit_{case}.{variant}")["out.vid_sample"]

    def predict(parallel: SequenceParallel) -> Tensor:
        execution = Execution(sharing=STRATEGIES[strategy][0](parallel))
        return tiny(clip, given["txt"], given["timestep"].item(), execution=execution)

    for found in run_ranks(num_ranks, predict):
        torch.testing.assert_close(found.flatten(0, 2), expected, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("grid", [(6, 45, 80), (6, 68, 120), (1, 1, 1), (2, 3, 40)], ids=str)
def test_every_window_has_one_rank_and_no_rank_much_more_than_its_share(
    grid: tuple[int, int, int], num_ranks: int
) -> None:
    for assignment, shifted in zip(assign_windows(grid, COARSE, num_ranks), (False, True), strict=True):
        assert sorted(map(str, assignment.spans)) == sorted(map(str, plan_windows(grid, COARSE, shifted=shifted).spans))
        total = grid[0] * grid[1] * grid[2]
        assert sum(assignment.loads) == total
        assert max(assignment.loads) <= total / num_ranks + max(
            len(t) * len(y) * len(x) for t, y, x in assignment.spans
        )
        assert assignment.owner_map(grid).bincount(minlength=num_ranks).tolist() == list(assignment.loads)


def test_windows_send_less_than_a_quarter_of_what_heads_do() -> None:
    for grid in ((6, 68, 120), (6, 136, 240)):
        by_windows, by_heads = (count(SEEDVR2_3B, grid, 58, 4, 1, 2).total() for count in (window_bytes, head_bytes))
        assert by_windows < by_heads / 4


def test_few_windows_go_by_heads_and_many_by_windows() -> None:
    assert cheaper_strategy(SEEDVR2_7B, (6, 136, 240), 58, 8) == "windows"
    assert cheaper_strategy(SEEDVR2_7B, (1, 45, 80), 58, 8) == "ulysses"
    assert cheaper_strategy(SEEDVR2_3B, (1, 45, 80), 58, 8) == "windows"  # 20 heads are not divisible by 8


def test_heads_that_ranks_do_not_divide_are_refused_with_the_numbers_that_do() -> None:
    with pytest.raises(SettingsError, match="20 heads out evenly to 8 ranks, only to 2, 4, 5, 10, 20; 'windows'"):
        share_tokens(SequenceParallel(0, 8), "ulysses", SEEDVR2_3B)
