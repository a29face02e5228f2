"""Counted arithmetic equals the published table and what torch counts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from seedvr2_ray.models.seedvr2.config import SEEDVR2_3B, SEEDVR2_7B
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.transformer.execution import Execution
from seedvr2_ray.models.seedvr2.transformer.flops import count_flops

STATS: dict[str, Any] = json.loads((Path(__file__).parents[3] / "data" / "dit_stats.json").read_text())
RELEASED = {"3b": SEEDVR2_3B, "7b": SEEDVR2_7B}


def test_flops_of_the_released_models_are_the_published_ones(variant: str) -> None:
    for row in STATS[variant]["flops_table_text58"]:
        t, y, x = row["patched_thw"]
        assert count_flops(RELEASED[variant], ((t, 2 * y, 2 * x),), (58,)) == row["total"]


@pytest.mark.slow
def test_flops_are_what_torch_counts(tiny: SeedVR2Transformer) -> None:
    size_THW, num_words = (5, 10, 14), 6
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        tiny(
            torch.randn(*size_THW, 33), torch.randn(num_words, 40), 1000.0, execution=Execution(skip_unused_text=False)
        )
    assert count_flops(tiny.config, (size_THW,), (num_words,)) == counter.get_total_flops()


def test_flops_need_a_grid_of_whole_patches() -> None:
    with pytest.raises(ValueError, match="multiples of the patch"):
        count_flops(SEEDVR2_3B, ((1, 45, 80),), (58,))
