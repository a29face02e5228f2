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
from seedvr2_ray.models.attention import Heads, missing_reason
from seedvr2_ray.models.backends import BACKENDS, AttentionBackend
from seedvr2_ray.models.seedvr2.config import SEEDVR2_3B, SEEDVR2_7B
from seedvr2_ray.models.seedvr2.transformer import dit
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer, fold_timestep, time_sinusoid
from seedvr2_ray.models.seedvr2.transformer.execution import Execution, LayerSteps, compiled_steps
from seedvr2_ray.models.seedvr2.transformer.layer_steps import Slot, TimeSlots
from seedvr2_ray.models.seedvr2.transformer.packing import BandPlan, pack_windows, plan_packing
from seedvr2_ray.models.seedvr2.transformer.ranks import exchange
from seedvr2_ray.models.seedvr2.transformer.ranks.exchange import Exchange, OneDevice, Whole
from seedvr2_ray.models.seedvr2.transformer.windows import WindowPlan, plan_windows
from tests.models.seedvr2.conftest import cast_weights

Golden = Callable[[str], dict[str, Tensor]]
DATA = Path(__file__).parents[3] / "data"
RELEASED = {"3b": SEEDVR2_3B, "7b": SEEDVR2_7B}


def _assert_close(actual: Tensor, expected: Tensor, name: str = "output") -> None:
    torch.testing.assert_close(actual, expected, atol=5e-5, rtol=1e-4, msg=lambda text: f"{name}: {text}")


def _clips(golden: Golden, case: str) -> list[tuple[Tensor, Tensor, float]]:
    """The published inputs, clip by clip."""
    given = golden(f"dit_{case}.in")
    sizes = [tuple(size) for size in given["vid_shape"].tolist()]
    videos = given["vid"].split([t * h * w for t, h, w in sizes])
    texts = given["txt"].split(given["txt_shape"].flatten().tolist())
    return [
        (video_LC.view(*size, -1), text_LC, timestep)
        for video_LC, size, text_LC, timestep in zip(videos, sizes, texts, given["timestep"].tolist(), strict=True)
    ]


def _inputs(golden: Golden, case: str) -> tuple[Tensor, Tensor, float]:
    (inputs,) = _clips(golden, case)
    return inputs


@pytest.mark.parametrize("case", ["image", "video"])
def test_predictions_are_the_published_ones(tiny: SeedVR2Transformer, variant: str, golden: Golden, case: str) -> None:
    expected = golden(f"dit_{case}.{variant}")["out.vid_sample"]
    _assert_close(tiny(*_inputs(golden, case)).flatten(0, 2), expected)


def test_two_clips_of_different_size_and_time_are_the_published_single_runs(
    tiny: SeedVR2Transformer, variant: str, golden: Golden
) -> None:
    expected = golden(f"dit_batch2.{variant}")["single.out.vid_sample"]
    ours = [tiny(*inputs).flatten(0, 2) for inputs in _clips(golden, "batch2")]
    assert len(ours) == 2
    _assert_close(torch.cat(ours), expected)


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
        _assert_close(seen[name].flatten(0, -2), value.flatten(0, -2), name)


def test_bfloat16_is_as_close_as_the_reference_is_to_itself(
    tiny: SeedVR2Transformer, variant: str, golden: Golden
) -> None:
    expected = golden(f"dit_image.{variant}")["bf16.out.vid_sample"].float()
    cast_weights(tiny, torch.bfloat16)
    ours = tiny(*_inputs(golden, "image"))
    assert ours.dtype == torch.bfloat16
    assert (ours.float().flatten(0, 2) - expected).norm() / expected.norm() < 2e-2


def test_cast_weights_compute_what_autocast_computes(tiny: SeedVR2Transformer, variant: str, golden: Golden) -> None:
    video, text, time = inputs = _inputs(golden, "video")
    narrow = (video.bfloat16().float(), text.bfloat16().float(), time)
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


def test_a_folded_timestep_changes_no_bit(
    tiny: SeedVR2Transformer, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, text, _ = _inputs(golden, "image")
    names = list(tiny.state_dict())
    for dtype in (torch.float32, torch.bfloat16):
        cast_weights(tiny, dtype)
        tiny.folded_timestep = None
        expected = tiny(video, text, 1000.0)
        fold_timestep(tiny, 1000.0)
        with monkeypatch.context() as patch:
            patch.setattr(tiny, "embed_timestep", lambda timestep: pytest.fail("embedded again"))
            assert torch.equal(tiny(video, text, 1000.0), expected)
        assert list(tiny.state_dict()) == names


def test_a_folded_model_still_knows_every_other_timestep(tiny: SeedVR2Transformer, golden: Golden) -> None:
    video, text, _ = _inputs(golden, "image")
    expected = tiny(video, text, 500.0)
    fold_timestep(tiny, 1000.0)
    assert torch.equal(tiny(video, text, 500.0), expected)
    assert not torch.equal(tiny(video, text, 1000.0), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_kernel_predicts_on_a_gpu_what_the_reference_does(
    tiny: SeedVR2Transformer, variant: str, golden: Golden, backend: AttentionBackend
) -> None:
    if (reason := missing_reason(backend)) is not None:
        pytest.skip(reason)
    expected = golden(f"dit_video.{variant}")["out.vid_sample"]
    cast_weights(tiny, torch.bfloat16)
    video, text, timestep = _inputs(golden, "video")
    tiny.cuda()
    for band_tokens in (60, 1000):
        execution = Execution(attention=backend, band_tokens=band_tokens)
        out = tiny(video.cuda(), text.cuda(), timestep, execution=execution)
        assert (out.float().cpu().flatten(0, 2) - expected).norm() / expected.norm() < 3e-2


@pytest.mark.gpu
def test_a_planned_pass_never_waits_for_the_gpu(tiny: SeedVR2Transformer, golden: Golden) -> None:
    video, text, timestep = _inputs(golden, "video")
    tiny.cuda()
    inputs = (video.cuda(), text.cuda(), timestep)
    expected = tiny(*inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = tiny(*inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(out, expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_layers_compute_what_plain_ones_do_at_any_timestep(tiny: SeedVR2Transformer, golden: Golden) -> None:
    fold_timestep(tiny)
    cases = [(*_inputs(golden, case)[:2], time) for case in ("image", "video") for time in (1000.0, 500.0, 250.0)]
    expected = [tiny(*inputs) for inputs in cases]
    execution = Execution(steps=compiled_steps())
    for inputs, plain in zip(cases, expected, strict=True):
        _assert_close(tiny(*inputs, execution=execution), plain)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_layers_and_timesteps_share_what_is_compiled(tiny: SeedVR2Transformer, golden: Golden) -> None:
    graphs: list[int] = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(len(inputs))
        return graph

    def compiled(step: Any) -> Any:
        return torch.compile(step, dynamic=True, fullgraph=True, isolate_recompiles=True, backend=count)

    plain = LayerSteps()
    steps = LayerSteps(
        project=compiled(plain.project),
        project_back=compiled(plain.project_back),
        mlp_change=compiled(plain.mlp_change),
    )
    video, text, _ = _inputs(golden, "video")
    fold_timestep(tiny)
    with torch.inference_mode():
        for time in (1000.0, 750.0):
            tiny(video, text, time, execution=Execution(steps=steps))
        num_graphs = len(graphs)
        for time in (500.0, 250.0, 1000.0):
            tiny(video, text, time, execution=Execution(steps=steps))
    assert len(graphs) == num_graphs <= 10


def test_heads_can_be_exchanged_around_attention(tiny: SeedVR2Transformer, golden: Golden) -> None:
    class Reversed(Whole):
        """Attention sees the heads in another order, as it may see other tokens on another device."""

        def before(self, heads: Heads, band: BandPlan) -> Heads:
            return self.before_text(heads)

        def after(self, out_LNE: Tensor, band: BandPlan) -> Tensor:
            return out_LNE.flip(1)

        def before_text(self, heads: Heads) -> Heads:
            return Heads(*(x.flip(1) for x in heads))

        def after_text(self, sum_LNE: Tensor) -> Tensor:
            return sum_LNE.flip(1)

    class OneDeviceReversed(OneDevice):
        def begin(self, *args: Any, **rest: Any) -> Exchange:
            return Reversed(super().begin(*args, **rest).plans)

    inputs = _inputs(golden, "video")
    execution = Execution(sharing=OneDeviceReversed(), skip_unused_text=False)
    _assert_close(tiny(*inputs, execution=execution), tiny(*inputs))


@pytest.mark.parametrize("band_tokens", [20, 70])
def test_bands_change_nothing(tiny: SeedVR2Transformer, golden: Golden, band_tokens: int) -> None:
    inputs = _inputs(golden, "video")
    banded = tiny(*inputs, execution=Execution(band_tokens=band_tokens))
    _assert_close(banded, tiny(*inputs))


def test_text_that_nothing_reads_can_be_left_out(tiny: SeedVR2Transformer, golden: Golden) -> None:
    inputs = _inputs(golden, "video")
    plain = tiny(*inputs, execution=Execution(skip_unused_text=False))
    _assert_close(tiny(*inputs, execution=Execution(skip_unused_text=True)), plain)


def test_the_order_of_windows_changes_nothing(
    tiny: SeedVR2Transformer, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = _inputs(golden, "video")
    expected = tiny(*inputs)
    generator = torch.Generator().manual_seed(3)

    def shuffled(config: Any, grid: Any, text_length: int, *, shifted: bool, **rest: Any) -> Any:
        spans = plan_windows(grid, config.windows, shifted=shifted).spans
        order = torch.randperm(len(spans), generator=generator).tolist()
        windows = WindowPlan(grid, tuple(spans[index] for index in order))
        return pack_windows(config, windows, text_length, **rest)

    monkeypatch.setattr(exchange, "plan_packing", shuffled)
    _assert_close(tiny(*inputs), expected)


def test_odd_layers_use_other_windows_than_even_ones(
    tiny: SeedVR2Transformer, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = _inputs(golden, "video")
    expected = tiny(*inputs)
    plan = plan_packing
    monkeypatch.setattr(exchange, "plan_packing", lambda *a, shifted, **k: plan(*a, shifted=False, **k))
    assert (tiny(*inputs) - expected).abs().max() > 0.1


def test_the_output_layer_reads_the_attention_slot(golden: Golden) -> None:
    module = dit.OutputModulation(4)
    slots = [Slot(*(torch.full((4,), value + i) for i in range(3))) for value in (10.0, 20.0)]
    out = module(torch.ones(2, 4), TimeSlots(*slots))
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


def test_two_runs_give_identical_bytes(tiny: SeedVR2Transformer, golden: Golden) -> None:
    inputs = _inputs(golden, "video")
    assert torch.equal(tiny(*inputs), tiny(*inputs))


def test_gradients_reach_every_weight_and_are_slopes(tiny: SeedVR2Transformer, golden: Golden) -> None:
    inputs = _inputs(golden, "video")
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
    out = SeedVR2Transformer(config)(torch.randn(2, 3, 5, 9), torch.randn(2, 8), 1000.0)
    assert out.shape == (2, 3, 5, 4)
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("clip", "text", "message"),
    [
        ((1, 10, 12, 32), (5, 40), "T x H x W x 33, got .1, 10, 12, 32."),
        ((120, 33), (5, 40), "T x H x W x 33"),
        ((1, 4, 4, 33), (5, 41), "tokens x 40, got .5, 41."),
        ((1, 4, 4, 33), (0, 40), "tokens x 40, got .0, 40."),
    ],
)
def test_inputs_that_do_not_fit_are_named(
    tiny: SeedVR2Transformer, clip: tuple[int, ...], text: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(torch.zeros(clip), torch.zeros(text), 1000.0)


def test_odd_latents_and_missing_kernels_are_refused(tiny: SeedVR2Transformer) -> None:
    text = torch.randn(1, 40)
    with pytest.raises(ValueError, match="1x3x4.*multiples of the patch"):
        tiny(torch.randn(1, 3, 4, 33), text, 1000.0)
    with pytest.raises(DeploymentError, match="'varlen' cannot be used"):
        tiny(torch.randn(1, 2, 2, 33), text, 1000.0, execution=Execution(attention="varlen"))
    with pytest.raises(ValueError, match="band_tokens must be at least 1"):
        Execution(band_tokens=0)
