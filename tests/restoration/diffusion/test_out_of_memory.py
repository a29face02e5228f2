"""Memory that runs out at any allocation: the segment ends right, or is refused with one sentence."""

import os
from contextlib import contextmanager
from fractions import Fraction

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from seedvr2_ray.errors import CapacityError, DeviceMemoryError
from seedvr2_ray.frames import Frames, to_unit_range
from seedvr2_ray.models.seedvr2.config import DiTConfig
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.vae.config import FAST, VAEConfig
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE
from seedvr2_ray.restoration.diffusion.restorer import DiffusionRestorer
from seedvr2_ray.restoration.diffusion.stages import DiffusionModel
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.restoration.planning.memory import LADDER, MemoryLesson
from seedvr2_ray.restoration.restorer import RestorerIdentity, SegmentTask
from seedvr2_ray.settings import RestoreSettings

ORDER = {"encode": 0, "transform": 1, "decode": 2, "finish": 2}
"""Of a segment of one chunk: decoding and finishing take turns, all else is done before the next begins."""
DIT = DiTConfig(
    width=8,
    num_layers=1,
    num_heads=1,
    head_dim=12,
    mlp="gelu",
    rope="video",
    num_dual_layers=1,
    has_output_modulation=False,
    modulates_last_text=True,
    text_dim=4,
)
VAE = VAEConfig(
    block_out_channels=(2, 2), norm_groups=1, encoder_layers_per_block=1, num_temporal_stages=1, mid_attention=False
)
TASK = SegmentTask(
    first_frame=0,
    num_frames=5,
    geometry=Geometry(source_width=8, source_height=8, width=8, height=8),
    settings=RestoreSettings(chunk_frames=5, chunk_overlap=0, padding="reflect"),
    output_depth=16,
)


class Allocations(TorchDispatchMode):
    """Counts operations that make tensors while a restorer is at work, and fails some of them."""

    def __init__(self, fails=lambda number: False):
        super().__init__()
        self.num, self._fails = 0, fails

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not func._schema.returns[0].alias_info:
            self.num += 1
            if self._fails(self.num):
                raise torch.OutOfMemoryError("CUDA out of memory")
        return out


@pytest.fixture
def restorer(monkeypatch):
    monkeypatch.setattr("seedvr2_ray.restoration.planning.memory.LADDER", (LADDER[4], LADDER[5], LADDER[6]))
    torch.manual_seed(3)
    model = DiffusionModel(
        transformer=SeedVR2Transformer(DIT).requires_grad_(False).eval(),
        vae=VideoVAE(VAE).requires_grad_(False).eval(),
        positive_LC=torch.randn(2, 4),
        negative_LC=torch.randn(2, 4),
        anchor_rows=0,
    )
    stages = []

    @contextmanager
    def watch(stage):
        stages.append(stage)
        yield

    def make():
        stages.clear()
        identity, device = RestorerIdentity("tiny", "0"), torch.device("cpu")
        return DiffusionRestorer(model, identity, device=device, vae_options=FAST, watch=watch)

    make.stages = stages
    return make


def _restore(restorer, fails=lambda number: False):
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 256, (5, 3, 8, 8), generator=generator, dtype=torch.int32).to(torch.uint8)
    clip = [Frames(codes, tuple(range(5)), Fraction(1, 25))]
    with Allocations(fails) as allocations:
        out = [frames.data_TCHW for frames in restorer.restore(clip, TASK)]
    return to_unit_range(torch.cat(out)), allocations.num


def _require_right_or_refused(restorer, expected, number):
    try:
        out, _ = _restore(restorer(), lambda n: n == number)
    except CapacityError as error:
        assert "memory ran out" in str(error)
        assert "\n" not in str(error)
        return
    finally:
        # Nothing that was done in whole is done again.
        order = [ORDER[stage] for stage in restorer.stages]
        assert order == sorted(order), f"allocation {number}: {restorer.stages}"
    torch.testing.assert_close(out, expected, atol=2e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_memory_that_runs_out_once_costs_steps_and_never_the_picture(restorer, share):
    expected, num = _restore(restorer())
    _require_right_or_refused(restorer, expected, int(num * share))


@pytest.mark.slow
def test_memory_may_run_out_at_any_allocation(restorer):
    expected, num = _restore(restorer())
    # All of them take many minutes.
    step = 1 if os.environ.get("SEEDVR2_EXHAUSTIVE") == "1" else max(1, num // 12)
    for number in range(1, num + 1, step):
        _require_right_or_refused(restorer, expected, number)


@pytest.mark.slow
def test_memory_that_runs_out_from_some_point_on_is_refused_in_one_sentence(restorer):
    _, num = _restore(restorer())
    with pytest.raises(DeviceMemoryError, match="memory ran out") as caught:
        _restore(restorer(), lambda number: number > num // 2)
    assert "\n" not in str(caught.value)


def test_what_another_process_learned_is_heeded_as_if_it_had_been_learned_here(restorer):
    first, second = restorer(), restorer()
    lesson = MemoryLesson(knobs=first.plan(TASK).memory.knobs, stage=None, planned_bytes=0)
    second.heed((lesson,))
    assert second.lessons == (lesson,)
    # The test's ladder begins at the fifth rung.
    assert (first.plan(TASK).memory.knobs, second.plan(TASK).memory.knobs) == (LADDER[4], LADDER[5])
