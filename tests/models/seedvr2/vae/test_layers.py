"""Single layers of the causal VAE against the reference's numbers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from seedvr2_ray.models.seedvr2.vae.blocks import Downsampler, FrameAttention, MidBlock, ResnetBlock, attend
from seedvr2_ray.models.seedvr2.vae.config import PLAIN, VAEOptions
from seedvr2_ray.models.seedvr2.vae.layers import CausalConv3d, FrameNorm
from seedvr2_ray.models.seedvr2.vae.state import SlicePass, VAEState
from seedvr2_ray.models.seedvr2.vae.steps import causal_step
from seedvr2_ray.models.seedvr2.vae.upsampler import Upsampler, shuffle_pixels

GOLDEN = load_file(Path(__file__).parents[3] / "data" / "golden" / "vae_layers.safetensors")
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module", autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def build(case: str) -> nn.Module:
    layers = {
        "conv_k3": lambda: CausalConv3d(4, 6),
        "conv_k3_t1first": lambda: CausalConv3d(4, 6),
        "conv_k3_s2": lambda: CausalConv3d(4, 4, (3, 3, 3), (2, 2, 2), padding="none"),
        "conv_k1": lambda: CausalConv3d(4, 6, (1, 1, 1), padding="none"),
        "conv_k133_s122": lambda: CausalConv3d(4, 4, (1, 3, 3), (1, 2, 2), padding="none"),
        "down_spatial": lambda: Downsampler(4, time=False),
        "down_spacetime": lambda: Downsampler(4, time=True),
        "down_spacetime_odd": lambda: Downsampler(4, time=True),
        "up_spatial": lambda: Upsampler(4, time=False),
        "up_spacetime": lambda: Upsampler(4, time=True),
        "up_spacetime_t1": lambda: Upsampler(4, time=True),
        "groupnorm": lambda: FrameNorm(8, 4, 1e-6),
        "resnet_same": lambda: ResnetBlock(8, 8, 4, 1e-6),
        "resnet_shortcut": lambda: ResnetBlock(8, 12, 4, 1e-6),
        "attention": lambda: FrameAttention(8, 4, 1e-6),
        "mid": lambda: MidBlock(8, 4, 1e-6, attention=True),
    }
    layer = layers[case]()
    prefix = f"{case}.sd."
    layer.load_state_dict({k.removeprefix(prefix): v for k, v in GOLDEN.items() if k.startswith(prefix)}, strict=True)
    return layer


def run_layer(layer: nn.Module, x: Tensor, run: SlicePass) -> Tensor:
    """A convolution has no step of its own: it is one with the norm before it, where there is one."""
    out: Tensor = causal_step(layer, x, run) if isinstance(layer, CausalConv3d) else layer(x, run)
    return out


SLICED_CASES = sorted({name.split(".")[0] for name in GOLDEN if ".y_slice0" in name})


@pytest.mark.parametrize("case", SLICED_CASES)
def test_a_layer_gives_the_reference_numbers_whole_and_in_slices(case: str) -> None:
    layer, x = build(case), GOLDEN[f"{case}.x"]
    torch.testing.assert_close(run_layer(layer, x, SlicePass.whole_clip(PLAIN)), GOLDEN[f"{case}.y_disabled"], **CLOSE)
    state, start, number = None, 0, 0
    while f"{case}.y_slice{number}" in GOLDEN:
        expected = GOLDEN[f"{case}.y_slice{number}"]
        run = SlicePass(PLAIN, state, keep=True, overwrite=False)
        stop = start + frames_for(case, expected.shape[2], first=number == 0)
        torch.testing.assert_close(run_layer(layer, x[:, :, start:stop], run), expected, **CLOSE)
        state = run.finish(stop - start)
        if f"{case}.mem_after{number}" in GOLDEN:
            torch.testing.assert_close(state.caches[0], GOLDEN[f"{case}.mem_after{number}"], **CLOSE)
        start, number = stop, number + 1
    assert start == x.shape[2]


def frames_for(case: str, num_outputs: int, *, first: bool) -> int:
    if case in ("conv_k3_s2", "down_spacetime", "down_spacetime_odd"):
        return 2 * num_outputs - first
    if case in ("up_spacetime", "up_spacetime_t1"):
        return (num_outputs + first) // 2
    return num_outputs


@pytest.mark.parametrize("case", ["up_spatial", "up_spacetime", "up_spacetime_t1"])
def test_pixels_are_shuffled_in_the_reference_order(case: str) -> None:
    layer = build(case)
    assert isinstance(layer, Upsampler)
    expanded = layer.expand(GOLDEN[f"{case}.x"], SlicePass.whole_clip(PLAIN), starts_clip=True)
    torch.testing.assert_close(expanded, GOLDEN[f"{case}.shuffled_before_conv_disabled"], **CLOSE)


def test_shuffling_keeps_the_layout_and_the_values() -> None:
    x = torch.randn(2, 24, 3, 4, 5)
    plain = shuffle_pixels(x, 2)
    channels_last = shuffle_pixels(x.contiguous(memory_format=torch.channels_last_3d), 2)
    assert torch.equal(plain, channels_last)
    assert channels_last.is_contiguous(memory_format=torch.channels_last_3d)


def test_norm_and_attention_give_the_reference_numbers() -> None:
    normed = build("groupnorm")(GOLDEN["groupnorm.x"])
    torch.testing.assert_close(normed, GOLDEN["groupnorm.y"], **CLOSE)
    attended = build("attention")(GOLDEN["attention.x"], SlicePass.whole_clip(PLAIN))
    torch.testing.assert_close(attended, GOLDEN["attention.y"], **CLOSE)


def test_norm_as_scale_and_shift_is_the_norm() -> None:
    norm, x = FrameNorm(8, 4, 1e-6), GOLDEN["groupnorm.x"].double()
    norm.weight.uniform_(-1, 1)
    norm.bias.uniform_(-1, 1)
    scale, shift = norm.double().affine(x)
    torch.testing.assert_close(x * scale + shift, norm(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_of_half_precision_frames_are_taken_in_fp32(dtype: torch.dtype) -> None:
    x = (torch.randn(1, 8, 2, 32, 32, generator=torch.Generator().manual_seed(5)) + 3).to(dtype)
    norm = FrameNorm(8, 4, 1e-6)
    exact = norm(x.float())
    scale, shift = norm.to(dtype).affine(x)
    torch.testing.assert_close(x * scale + shift, exact, atol=5e-4, rtol=0)
    torch.testing.assert_close(norm(x), exact.to(dtype), atol=1e-6, rtol=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("most_scores", [1, 60, 61, 10**9])
def test_attention_in_blocks_of_queries_is_attention(most_scores: int) -> None:
    q, k, v = torch.randn(3, 2, 3, 30, 8, dtype=torch.float64)
    torch.testing.assert_close(attend(q, k, v, most_scores), attend(q, k, v, None))


def test_no_frame_looks_into_the_future() -> None:
    conv, x = CausalConv3d(2, 2), torch.randn(1, 2, 6, 4, 4)
    changed = x.clone()
    changed[:, :, 4:] += 1
    before, after = (causal_step(conv, clip, SlicePass.whole_clip(PLAIN)) for clip in (x, changed))
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert not torch.equal(before[:, :, 4:], after[:, :, 4:])


def test_a_pass_saves_copies_and_only_where_it_keeps() -> None:
    frames: Tensor = torch.randn(1, 2, 6, 4, 4)
    run = SlicePass(VAEOptions(), VAEState((), 0), keep=True, overwrite=False)
    run.store(frames[:, :, -2:])
    (cache,) = run.finish(6).caches
    frames.zero_()
    assert cache.any()
    silent = SlicePass.whole_clip(PLAIN)
    silent.store(frames)
    assert silent.finish(6).caches == ()
