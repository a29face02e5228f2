"""Real processes that talk by gloo give what one process gives: networks by part, and whole segments."""

from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from torch import Tensor

from tests.restoration.diffusion.gang_world import run_cases, run_rank

ONE_CODE = 1.01 / 65535


@pytest.fixture(scope="module")
def alone() -> dict[str, Tensor]:
    return run_cases()


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_processes_that_talk_by_gloo_give_what_one_gives(size: int, alone: dict[str, Tensor], tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_rank, (size, str(tmp_path)), size)
    found = torch.load(tmp_path / "results.pt")
    assert found.keys() == alone.keys()
    for name, expected in alone.items():
        scale = expected.abs().max().clamp_min(1.0)
        close = 1e-5
        if name.startswith("segment"):
            # Codes of 16 bits; alpha is divided by small variances on the way.
            close = 32 * ONE_CODE if "alpha" in name else ONE_CODE
        torch.testing.assert_close(found[name] / scale, expected / scale, atol=close, rtol=0, msg=name)
