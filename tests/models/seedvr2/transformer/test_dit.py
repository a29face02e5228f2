"""The transformer gives the reference's numbers, whatever way it is carried out."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.models.attention import missing_reason
from seedvr2_ray.models.backends import BACKENDS, AttentionBackend
from seedvr2_ray.models.seedvr2.config import SEEDVR2_3B, SEEDVR2_7B
from seedvr2_ray.models.seedvr2.transformer import dit
from seedvr2_ray.models.seedvr2.transformer.block import Slot, TimeSlots
from seedvr2_ray.models.seedvr2.transformer.dit import (
    SeedVR2Transformer,
    cast_weights,
    compile_layers,
    fold_timestep,
    time_sinusoid,
)
from seedvr2_ray.models.seedvr2.transformer.execution import Execution
from seedvr2_ray.models.seedvr2.transformer.packing import pack_windows, plan_packing
from seedvr2_ray.models.seedvr2.transformer.windows import WindowPlan, plan_windows

Golden = Callable[[str], dict[str, Tensor]]
DATA = Path(__file__).parents[3] / "data"
RELEASED = {"3b": SEEDVR2_3B, "7b": SEEDVR2_7B}
Sizes = tuple[tuple[int, int, int], ...]


def _assert_close(actual: Tensor, expected: Tensor, name: str = "output") -> None:
    torch.testing.assert_close(actual, expected, atol=5e-5, rtol=1e-4, msg=lambda text: f"{name}: {text}")


def _inputs(golden: Golden, case: str) -> tuple[Tensor, Sizes, Tensor, tuple[int, ...], Tensor]:
    given = golden(f"dit_{case}.in")
    sizes = tuple((t, h, w) for t, h, w in given["vid_shape"].tolist())
    return given["vid"], sizes, given["txt"], tuple(given["txt_shape"].flatten().tolist()), given["timestep"]


@pytest.mark.parametrize("case", ["image", "video"])
def test_predictions_are_the_published_ones(tiny: SeedVR2Transformer, variant: str, golden: Golden, case: str) -> None:
    expected = golden(f"dit_{case}.{variant}")["out.vid_sample"]
    _assert_close(tiny(*_inputs(golden, case)), expected)


def test_a_batch_of_two_equals_two_published_single_runs(
    tiny: SeedVR2Transformer, variant: str, golden: Golden
) -> None:
    expected = golden(f"dit_batch2.{variant}")["single.out.vid_sample"]
    _assert_close(tiny(*_inputs(golden, "batch2")), expected)


def test_every_stage_is_the_published_one(tiny: SeedVR2Transformer, variant: str, golden: Golden) -> None:
    expected = {
        key.removeprefix("mid."): value
        for key, value in golden(f"dit_image.{variant}").items()
        if key.startswith("mid.")
    }
    if variant == "3b":
        del expected["blocks.3.txt"]  # the reference computes it and drops it
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            named = (
                {f"{name}.vid": output[0], f"{name}.txt": output[1]} if isinstance(output, tuple) else {name: output}
            )
            seen.update({key: value.clone() for key, value in named.items()})

        return hook

    stages = {name.removesuffix(".vid").removesuffix(".txt") for name in expected}
    for name, module in tiny.named_modules():
        if name in stages:
            module.register_forward_hook(keep(name))
    tiny(*_inputs(golden, "image"), execution=Execution(skip_unused_text=False))
    assert len(expected) >= 8
    for name, value in expected.items():
        _assert_close(seen[name], value, name)


def test_bfloat16_is_as_close_as_the_reference_is_to_itself(
    tiny: SeedVR2Transformer, variant: str, golden: Golden
) -> None:
    expected = golden(f"dit_image.{variant}")["bf16.out.vid_sample"].float()
    cast_weights(tiny, torch.bfloat16)
    ours = tiny(*_inputs(golden, "image"))
    assert ours.dtype == torch.bfloat16
    assert (ours.float() - expected).norm() / expected.norm() < 2e-2


def test_cast_weights_compute_what_autocast_computes(tiny: SeedVR2Transformer, variant: str, golden: Golden) -> None:
    inputs = _inputs(golden, "batch2")
    narrow = tuple(x.bfloat16().float() if isinstance(x, Tensor) and x.dim() == 2 else x for x in inputs)
    with torch.autocast("cpu", torch.bfloat16):
        expected = tiny(*narrow)
    cast_weights(tiny, torch.bfloat16)
    assert torch.equal(tiny(*inputs), expected)


def test_casting_keeps_modulation_and_rotary_frequencies_wide(tiny: SeedVR2Transformer) -> None:
    cast_weights(tiny, torch.bfloat16)
    wide = {name for name, value in tiny.state_dict().items() if value.dtype == torch.float32}
    assert wide == {
        name for name in tiny.state_dict() if ".ada." in name or "vid_out_ada" in name or name.endswith("freqs")
    }
    assert len(wide) > 20


def test_a_folded_timestep_changes_no_bit(tiny: SeedVR2Transformer, golden: Golden) -> None:
    *inputs, _ = _inputs(golden, "image")
    names = list(tiny.state_dict())
    for dtype in (torch.float32, torch.bfloat16):
        cast_weights(tiny, dtype)
        expected = tiny(*inputs, torch.tensor([1000.0]))
        fold_timestep(tiny, 1000.0)
        assert torch.equal(tiny(*inputs), expected)
        assert list(tiny.state_dict()) == names


def test_a_folded_timestep_serves_batches_too(tiny: SeedVR2Transformer, golden: Golden) -> None:
    *inputs, _ = _inputs(golden, "batch2")
    expected = tiny(*inputs, torch.full((2,), 640.0))
    fold_timestep(tiny, 640.0)
    _assert_close(tiny(*inputs), expected)


def test_a_folded_model_still_knows_every_other_timestep(tiny: SeedVR2Transformer, golden: Golden) -> None:
    *inputs, _ = _inputs(golden, "image")
    other = torch.tensor([500.0])
    expected = tiny(*inputs, other)
    fold_timestep(tiny, 1000.0)
    assert torch.equal(tiny(*inputs, other), expected)
    assert not torch.equal(tiny(*inputs), expected)


def test_a_model_without_a_folded_timestep_needs_one(tiny: SeedVR2Transformer, golden: Golden) -> None:
    *inputs, _ = _inputs(golden, "image")
    with pytest.raises(ValueError, match="needs timestep_B"):
        tiny(*inputs)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_kernel_predicts_on_a_gpu_what_the_reference_does(
    tiny: SeedVR2Transformer, variant: str, golden: Golden, backend: AttentionBackend
) -> None:
    if (reason := missing_reason(backend)) is not None:
        pytest.skip(reason)
    expected = golden(f"dit_video.{variant}")["out.vid_sample"]
    cast_weights(tiny, torch.bfloat16)
    video_LC, sizes, text_LC, lengths, timestep_B = _inputs(golden, "video")
    tiny.cuda()
    for band_tokens in (60, 1000):
        execution = Execution(attention=backend, band_tokens=band_tokens)
        out = tiny(video_LC.cuda(), sizes, text_LC.cuda(), lengths, timestep_B.cuda(), execution=execution)
        assert (out.float().cpu() - expected).norm() / expected.norm() < 3e-2


@pytest.mark.gpu
def test_a_planned_pass_never_waits_for_the_gpu(tiny: SeedVR2Transformer, golden: Golden) -> None:
    video_LC, sizes, text_LC, lengths, timestep_B = _inputs(golden, "batch2")
    tiny.cuda()
    inputs = (video_LC.cuda(), sizes, text_LC.cuda(), lengths, timestep_B.cuda())
    expected = tiny(*inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = tiny(*inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(out, expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_layers_compute_what_plain_ones_do(tiny: SeedVR2Transformer, golden: Golden) -> None:
    cases = [_inputs(golden, case) for case in ("image", "video")]
    expected = [tiny(*inputs) for inputs in cases]
    compile_layers(tiny)
    for inputs, plain in zip(cases, expected, strict=True):
        _assert_close(tiny(*inputs), plain)


@pytest.mark.parametrize("band_tokens", [20, 70])
def test_bands_change_nothing(tiny: SeedVR2Transformer, golden: Golden, band_tokens: int) -> None:
    inputs = _inputs(golden, "batch2")
    banded = tiny(*inputs, execution=Execution(band_tokens=band_tokens))
    _assert_close(banded, tiny(*inputs))


def test_text_that_nothing_reads_can_be_left_out(tiny: SeedVR2Transformer, golden: Golden) -> None:
    inputs = _inputs(golden, "video")
    plain = tiny(*inputs, execution=Execution(skip_unused_text=False))
    _assert_close(tiny(*inputs, execution=Execution(skip_unused_text=True)), plain)


def test_the_order_of_windows_changes_nothing(
    tiny: SeedVR2Transformer, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = _inputs(golden, "batch2")
    expected = tiny(*inputs)
    generator = torch.Generator().manual_seed(3)

    def shuffled(config: Any, grids: Sizes, text_lengths: Any, *, shifted: bool, band_tokens: int, device: Any) -> Any:
        windows = []
        for grid in grids:
            spans = plan_windows(grid, config.windows, shifted=shifted).spans
            order = torch.randperm(len(spans), generator=generator).tolist()
            windows.append(WindowPlan(grid, tuple(spans[index] for index in order)))
        return pack_windows(config, windows, text_lengths, band_tokens=band_tokens, device=device)

    monkeypatch.setattr(dit, "plan_packing", shuffled)
    _assert_close(tiny(*inputs), expected)


def test_odd_layers_use_other_windows_than_even_ones(
    tiny: SeedVR2Transformer, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = _inputs(golden, "video")
    expected = tiny(*inputs)
    plan = plan_packing
    monkeypatch.setattr(dit, "plan_packing", lambda *a, shifted, **k: plan(*a, shifted=False, **k))
    assert (tiny(*inputs) - expected).abs().max() > 0.1


def test_the_output_layer_reads_the_attention_slot(golden: Golden) -> None:
    module = dit.OutputModulation(4)
    slots = [Slot(*(torch.full((1, 4), value + i) for i in range(3))) for value in (10.0, 20.0)]
    out = module(torch.ones(2, 4), TimeSlots(*slots), None)
    expected = (11 + module.out_scale) + (10 + module.out_shift)
    torch.testing.assert_close(out, expected.expand(2, 4))


def test_time_sinusoid_is_the_published_one(golden: Golden) -> None:
    vectors = golden("time_sinusoid")
    torch.testing.assert_close(time_sinusoid(vectors["t"]), vectors["emb"], atol=1e-4, rtol=0)
    torch.testing.assert_close(time_sinusoid(vectors["t"])[:, 8:128], vectors["emb"][:, 8:128], atol=5e-5, rtol=0)


@pytest.mark.slow
def test_released_models_have_the_published_names_shapes_and_counts(variant: str) -> None:
    with torch.device("meta"):
        transformer = SeedVR2Transformer(RELEASED[variant])
    published = json.loads((DATA / f"keys_{variant}.json").read_text())
    stats = json.loads((DATA / "dit_stats.json").read_text())[variant]
    assert {name: list(value.shape) for name, value in transformer.state_dict().items()} == published
    assert {value.dtype for value in transformer.state_dict().values()} == {torch.float32}
    assert sum(p.numel() for p in transformer.parameters()) == stats["parameters"]
    assert len(list(transformer.parameters())) == stats["parameters_tensors"]
    assert len(list(transformer.buffers())) == stats["persistent_buffers"]
    assert sum(b.numel() for b in transformer.buffers()) == stats["buffer_elements"]


def test_wrong_frequencies_in_a_checkpoint_are_never_used(tiny: SeedVR2Transformer, golden: Golden) -> None:
    inputs = _inputs(golden, "image")
    expected = tiny(*inputs)
    for name, buffer in tiny.named_buffers():
        assert name.endswith("attn.rope.rope.freqs")
        buffer.fill_(7.0)
    assert torch.equal(tiny(*inputs), expected)


def test_one_model_serves_any_mix_of_sizes_and_texts(tiny: SeedVR2Transformer) -> None:
    generator = torch.Generator().manual_seed(1)
    sizes: Sizes = ((1, 4, 30), (6, 12, 8), (2, 2, 2))
    lengths = (1, 12, 5)
    videos = [torch.randn(t * h * w, 33, generator=generator) for t, h, w in sizes]
    texts = [torch.randn(length, 40, generator=generator) for length in lengths]
    times = torch.tensor([1000.0, 1.0, 500.0])
    joint = tiny(torch.cat(videos), sizes, torch.cat(texts), lengths, times)
    singles = [
        tiny(video, (size,), text, (length,), time[None])
        for video, size, text, length, time in zip(videos, sizes, texts, lengths, times, strict=True)
    ]
    _assert_close(joint, torch.cat(singles))


def test_two_runs_give_identical_bytes(tiny: SeedVR2Transformer, golden: Golden) -> None:
    inputs = _inputs(golden, "batch2")
    assert torch.equal(tiny(*inputs), tiny(*inputs))


def test_gradients_reach_every_weight_and_are_slopes(tiny: SeedVR2Transformer, golden: Golden) -> None:
    inputs = _inputs(golden, "batch2")
    with torch.no_grad():
        expected = tiny(*inputs)
    tiny.requires_grad_(True)
    target = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    out = tiny(*inputs)
    assert torch.equal(out.detach(), expected)
    (out * target).sum().backward()
    used = {name: p for name, p in tiny.named_parameters() if p.grad is not None}
    unused = {name for name, _ in tiny.named_parameters()} - set(used)
    last = len(tiny.blocks) - 1
    assert all(name.startswith(f"blocks.{last}.") and ".txt" in name for name in unused)
    step, slope = 1e-3, 0.0
    with torch.no_grad():
        for parameter in used.values():
            assert parameter.grad is not None
            slope += parameter.grad.square().sum().item()
        scale = step / slope**0.5
        sums = []
        for sign in (1, -1):
            for parameter in used.values():
                parameter.add_(sign * scale * (1 if sign == 1 else 2) * parameter.grad)
            sums.append((tiny(*inputs).double() * target).sum().item())
    assert (sums[0] - sums[1]) / (2 * step) == pytest.approx(slope**0.5, rel=2e-2)


def test_a_patch_of_one_keeps_every_latent_pixel(variant: str) -> None:
    config = replace(
        RELEASED[variant], width=16, num_layers=2, num_heads=1, head_dim=16, text_dim=8, latent_channels=4, patch=1
    )
    out = SeedVR2Transformer(config)(torch.randn(30, 9), ((2, 3, 5),), torch.randn(2, 8), (2,), torch.tensor([1000.0]))
    assert out.shape == (30, 4)
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("sizes", "lengths", "message"),
    [
        (((1, 10, 12),), (5,), "120 latent pixels of 33 channels, got .140, 33."),
        (((1, 10, 14),), (6,), "text lengths"),
        (((1, 4, 14), (1, 6, 14)), (5, 0), "text lengths"),
        (((1, 10, 14),), (2, 3), "1 clips and 2 texts"),
    ],
)
def test_inputs_that_do_not_fit_together_are_named(
    tiny: SeedVR2Transformer, golden: Golden, sizes: Sizes, lengths: tuple[int, ...], message: str
) -> None:
    video_LC, _, text_LC, _, timestep_B = _inputs(golden, "image")
    with pytest.raises(ValueError, match=message):
        tiny(video_LC, sizes, text_LC, lengths, timestep_B)


def test_odd_latents_and_missing_kernels_are_refused(tiny: SeedVR2Transformer) -> None:
    text, time = torch.randn(1, 40), torch.tensor([1000.0])
    with pytest.raises(ValueError, match="1x3x4.*multiples of the patch"):
        tiny(torch.randn(12, 33), ((1, 3, 4),), text, (1,), time)
    with pytest.raises(DeploymentError, match="'varlen' cannot be used"):
        tiny(torch.randn(4, 33), ((1, 2, 2),), text, (1,), time, execution=Execution(attention="varlen"))
    with pytest.raises(ValueError, match="band_tokens must be at least 1"):
        Execution(band_tokens=0)
