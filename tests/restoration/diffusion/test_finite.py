"""NaN and infinity never become colours: every stage's numbers are looked at before frames leave."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from seedvr2_ray.errors import NotFiniteError
from seedvr2_ray.frames import all_finite, to_unit_range
from seedvr2_ray.models.seedvr2.vae.config import FAST, PLAIN
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE
from seedvr2_ray.restoration.diffusion import finish as diffusion_finish
from seedvr2_ray.restoration.diffusion import finite
from seedvr2_ray.restoration.diffusion import stages as diffusion_stages
from seedvr2_ray.restoration.diffusion.finite import FiniteChecks
from seedvr2_ray.restoration.planning.memory import LADDER
from tests.restoration.diffusion.test_restorer import MODEL, _clip, _model, _restore, _restorer, _task

BAD = pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@BAD
def test_one_value_among_many_is_found(bad: float, dtype: torch.dtype) -> None:
    values = torch.randn(3, 5, 7).to(dtype)
    assert all_finite(values)
    values[2, 0, 3] = bad
    assert not all_finite(values)


def _spoil(monkeypatch: pytest.MonkeyPatch, stage: str, bad: float, call: int) -> None:
    """Put a bad value into what the stage makes when it is called for the ``call``-th time, once."""
    owner, name = {
        "encode": (MODEL.vae.encoder, "forward"),
        "transform": (diffusion_stages, "sample"),
        "decode": (MODEL.vae.decoder, "forward"),
        "colour match": (diffusion_finish, "match_colour"),
    }[stage]
    real, calls = getattr(owner, name), []

    def spoiled(*args: Any, **options: Any) -> Any:
        made = real(*args, **options)
        calls.append(1)
        if len(calls) == call:
            made = made.clone()
            made.view(-1)[made.numel() // 3] = bad
        return made

    monkeypatch.setattr(owner, name, spoiled)


@pytest.mark.parametrize(("bad", "tile"), [(float("nan"), 0), (float("inf"), 0), (float("nan"), 64)])
@pytest.mark.parametrize("stage", ["encode", "transform", "decode", "colour match"])
def test_a_bad_value_of_any_stage_is_refused_by_the_stages_name(
    monkeypatch: pytest.MonkeyPatch, stage: str, bad: float, tile: int
) -> None:
    _spoil(monkeypatch, stage, bad, 1)
    task = _task(6, (72, 16) if tile else (16, 16), (18, 4) if tile else (8, 8), first=100, vae_tile=tile)
    with pytest.raises(NotFiniteError, match=rf"stage '{stage}' made numbers of frames 100 to 105 .*another model"):
        _restore(_restorer(), task)


@pytest.mark.parametrize(
    ("stage", "call", "frames"),
    # Chunks of three latents, and slices of one after the first two.
    [("transform", 2, "19 to 30"), ("decode", 3, "19 to 22"), ("colour match", 3, "19 to 22")],
)
def test_frames_that_were_good_have_left_and_the_bad_ones_are_named(
    monkeypatch: pytest.MonkeyPatch, stage: str, call: int, frames: str
) -> None:
    monkeypatch.setattr("seedvr2_ray.restoration.planning.memory.LADDER", (LADDER[2],))
    _spoil(monkeypatch, stage, float("nan"), call)
    stream = _restorer().restore(_clip(33), _task(33, first=10, chunk_frames=9, chunk_overlap=0))
    left = 0
    with pytest.raises(NotFiniteError, match=frames):
        for batch in stream:
            left += len(batch)
    assert 0 < left < 33


def test_the_device_is_waited_for_once_per_batch_that_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    monkeypatch.setattr(finite, "_wait", lambda answers: waits.append(len(answers)) or [True] * len(answers))
    batches = list(_restorer().restore(_clip(21), _task(21, chunk_frames=9)))
    assert len(waits) <= len(batches) + 1
    assert sum(waits) > len(waits)


def test_the_second_try_says_that_it_was_the_plain_path() -> None:
    checks = FiniteChecks(0, 5, plain_path=True)
    checks.ask("decode", range(5), torch.tensor([float("nan")]))
    with pytest.raises(NotFiniteError, match="without any way of computing faster"):
        checks.require()
    checks.require()


def test_the_plain_path_takes_no_fast_way_and_the_next_segment_takes_them_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options, attention = [], []
    start_pass, sample = VideoVAE._start_pass, diffusion_stages.sample

    def watch_pass(self: VideoVAE, x: Any, state: Any, chosen: Any, **rest: Any) -> Any:
        options.append(chosen)
        return start_pass(self, x, state, chosen, **rest)

    def watch_sample(*args: Any, **rest: Any) -> Any:
        attention.append(rest["execution"].attention)
        return sample(*args, **rest)

    monkeypatch.setattr(VideoVAE, "_start_pass", watch_pass)
    monkeypatch.setattr(diffusion_stages, "sample", watch_sample)
    restorer = _restorer(_model(), vae_options=FAST)
    expected = to_unit_range(_restore(_restorer(_model()), _task(6, depth=16)))
    options.clear()
    actual = to_unit_range(_restore(restorer, replace(_task(6, depth=16), plain_path=True)))
    torch.testing.assert_close(actual, expected, atol=2e-4, rtol=0)
    # Only what memory asks for stays: no convolution is larger than the plan counts with.
    assert set(options) == {replace(PLAIN, conv_elements=FAST.conv_elements)}
    assert set(attention) == {"sdpa"}
    options.clear()
    _restore(restorer, _task(6))
    assert set(options) == {FAST}
