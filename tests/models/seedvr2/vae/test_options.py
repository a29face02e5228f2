"""Every exact way of running the causal VAE faster or smaller gives the plain path's numbers."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from seedvr2_ray.models.seedvr2.vae.bands import band_edges, write_affine_silu
from seedvr2_ray.models.seedvr2.vae.config import FAST, FAST_ON_CPU, PLAIN, VAEConfig, VAEOptions
from seedvr2_ray.models.seedvr2.vae.layers import CausalConv3d
from seedvr2_ray.models.seedvr2.vae.state import SlicePass, VAEState
from seedvr2_ray.models.seedvr2.vae.steps import causal_step
from seedvr2_ray.models.seedvr2.vae.upsampler import Upsampler
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE

DATA = Path(__file__).parents[3] / "data" / "golden"
FULL = load_file(DATA / "vae_full.safetensors")
CONFIG = VAEConfig(
    block_out_channels=(4, 4, 8), encoder_layers_per_block=1, latent_channels=3, num_temporal_stages=1, norm_groups=2
)
DEEP = VAEConfig(
    block_out_channels=(2, 2, 4, 4), encoder_layers_per_block=1, latent_channels=3, num_temporal_stages=2, norm_groups=2
)
LIGHT = VAEConfig(
    block_out_channels=(4, 4, 8),
    encoder_layers_per_block=1,
    latent_channels=3,
    num_temporal_stages=1,
    norm_groups=2,
    mid_attention=False,
    is_light=True,
)
SWITCHES = {
    "channels_last": VAEOptions(channels_last=True),
    "direct_norm": VAEOptions(direct_norm=True),
    "fused_upsampler": VAEOptions(fused_upsampler=True),
    "image_conv2d": VAEOptions(image_conv2d=True),
    "attention_scores": VAEOptions(attention_scores=7),
    "frames_in_flight": VAEOptions(frames_in_flight=1),
    "bands": VAEOptions(conv_elements=130),
    "fast": FAST,
    "fast_on_cpu": FAST_ON_CPU,
    "fast_and_small": replace(FAST, frames_in_flight=2, conv_elements=300, attention_scores=11),
}
ALL = pytest.mark.parametrize("options", SWITCHES.values(), ids=SWITCHES.keys())


@pytest.fixture(scope="module", autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def random_vae(config: VAEConfig = CONFIG, dtype: torch.dtype = torch.float64) -> VideoVAE:
    torch.manual_seed(5)
    vae = VideoVAE(config)
    for parameter in vae.parameters():
        # Biases and norms too: what is zero or one hides mistakes.
        parameter.copy_(torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5)
    return vae.to(dtype).eval()


def run_in_slices(vae: VideoVAE, frames: Tensor, latents: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Encode and decode with the given numbers of latents per slice."""
    stride, moments, decoded = vae.config.temporal_stride, [], []
    encoder_state: VAEState | None = None
    decoder_state: VAEState | None = None
    start = 0
    for length in lengths:
        stop = start + length
        first, last = max(0, (start - 1) * stride + 1), (stop - 1) * stride + 1
        piece, encoder_state = vae.encode_slice(frames[:, :, first:last], encoder_state, overwrite=start > 1)
        moments.append(piece)
        piece, decoder_state = vae.decode_slice(latents[:, :, start:stop], decoder_state, overwrite=start > 1)
        decoded.append(piece)
        start = stop
    return torch.cat(moments, dim=2), torch.cat(decoded, dim=2)


@pytest.fixture(scope="module")
def plain() -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """A clip, latents, and what the plain path makes of them in one piece."""
    torch.manual_seed(7)
    frames = torch.randn(1, 3, 7, 12, 4, dtype=torch.float64)
    latents = torch.randn(1, 3, 4, 3, 1, dtype=torch.float64)
    return frames, latents, run_in_slices(random_vae(), frames, latents, [4])


@ALL
@pytest.mark.parametrize("lengths", [pytest.param([4], marks=pytest.mark.slow), [1, 1, 2]], ids=str)
def test_an_option_gives_the_plain_numbers_in_fp64(
    plain: tuple[Tensor, Tensor, tuple[Tensor, Tensor]], options: VAEOptions, lengths: list[int]
) -> None:
    frames, latents, expected = plain
    actual = run_in_slices(random_vae().with_options(options), frames, latents, lengths)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-11)


def test_all_options_together_give_the_plain_numbers_where_time_is_halved_twice() -> None:
    vae = random_vae(DEEP)
    frames, latents = torch.randn(1, 3, 9, 16, 8).double(), torch.randn(1, 3, 3, 2, 1).double()
    expected = run_in_slices(vae, frames, latents, [3])
    actual = run_in_slices(vae.with_options(SWITCHES["fast_and_small"]), frames, latents, [1, 2])
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-11)


@ALL
@pytest.mark.parametrize("lengths", [[4], [1, 1, 2]], ids=str)
def test_an_option_gives_a_light_networks_plain_numbers(options: VAEOptions, lengths: list[int]) -> None:
    vae = random_vae(LIGHT)
    frames, latents = torch.randn(1, 3, 7, 12, 8).double(), torch.randn(1, 3, 4, 3, 2).double()
    expected = run_in_slices(vae, frames, latents, [4])
    actual = run_in_slices(vae.with_options(options), frames, latents, lengths)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-11)


@pytest.mark.slow
def test_a_light_network_is_smaller_and_remembers_less() -> None:
    light, full = random_vae(LIGHT), random_vae(replace(LIGHT, is_light=False))
    assert sum(p.numel() for p in light.parameters()) < sum(p.numel() for p in full.parameters()) / 2
    latents = torch.randn(1, 3, 3, 3, 2).double()
    states = [vae.decode_slice(latents, None)[1] for vae in (light, full)]
    assert states[0].num_bytes < states[1].num_bytes / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fast", "fast_and_small"])
def test_all_options_together_give_the_reference_numbers_in_fp32(name: str) -> None:
    vae = VideoVAE(VAEConfig(block_out_channels=(8, 12, 16, 16), norm_groups=4), SWITCHES[name])
    vae.load_state_dict(load_file(DATA / "vae_tiny_weights.safetensors"), strict=True)
    decoded = vae.decode(FULL["z_rand"][:, :, :2])
    torch.testing.assert_close(decoded, FULL["z_rand.decoded"][:, :, :5], atol=1e-4, rtol=1e-4)
    image = vae.encode(FULL["video_T17"][:, :, :1]).mode
    torch.testing.assert_close(image, FULL["T1.moments"][:, :16], atol=2e-5, rtol=1e-4)


@ALL
def test_an_option_leaves_the_state_dict_alone(options: VAEOptions) -> None:
    vae = random_vae()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    after = vae.with_options(options).state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_new_weights_are_derived_from_again() -> None:
    latents = torch.randn(1, 3, 2, 2, 2, dtype=torch.float64)
    vae, other = random_vae().with_options(FAST), random_vae()
    for parameter in other.parameters():
        parameter.mul_(1.1)
    vae.load_state_dict(other.state_dict())
    torch.testing.assert_close(vae.decode(latents), other.decode(latents), atol=1e-12, rtol=1e-11)


def test_other_options_leave_the_network_they_were_made_from_alone_and_share_its_weights() -> None:
    vae = random_vae()
    fast = vae.with_options(replace(FAST, channels_last=False))
    assert (vae.options, fast.options.fused_upsampler) == (PLAIN, True)
    assert vae.with_options(PLAIN) is vae
    for one, other in zip(vae.parameters(), fast.parameters(), strict=True):
        assert one.data_ptr() == other.data_ptr()
        assert (one.requires_grad, other.requires_grad) == (True, False)


def test_a_pass_that_would_record_gradients_is_refused_and_changes_nothing() -> None:
    latents = torch.randn(1, 3, 2, 2, 2, dtype=torch.float64)
    vae = VideoVAE(CONFIG, FAST).double()
    expected = vae.decode(latents)
    with torch.enable_grad():
        with pytest.raises(RuntimeError, match="would record gradients.*no_grad"):
            vae.decode(latents)
        vae.requires_grad_(False)
        torch.testing.assert_close(vae.decode(latents), expected, atol=1e-12, rtol=1e-12)
        with pytest.raises(RuntimeError, match="would record gradients"):
            vae.decode(latents.clone().requires_grad_())
    torch.testing.assert_close(vae.decode(latents), expected, atol=1e-12, rtol=1e-12)


def test_plain_options_train() -> None:
    vae = VideoVAE(CONFIG).double()
    with torch.enable_grad():
        vae.decode(torch.randn(1, 3, 2, 2, 2, dtype=torch.float64)).sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in vae.decoder.parameters())


def test_a_call_may_take_the_plain_way_but_no_weights_that_were_not_derived() -> None:
    latents = torch.randn(1, 3, 2, 2, 2, dtype=torch.float64)
    plain, fast = random_vae(), random_vae().with_options(FAST)
    torch.testing.assert_close(fast.decode(latents, options=PLAIN), plain.decode(latents), atol=1e-12, rtol=1e-12)
    with pytest.raises(ValueError, match="built without fused_upsampler"):
        plain.decode(latents, options=FAST)


def test_a_copy_derives_from_its_own_weights() -> None:
    vae, other = random_vae().with_options(FAST), random_vae()
    copy = deepcopy(vae)
    for parameter in other.parameters():
        parameter.mul_(1.1)
    copy.load_state_dict(other.state_dict())
    latents = torch.randn(1, 3, 2, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(copy.decode(latents), other.decode(latents), atol=1e-12, rtol=1e-11)
    torch.testing.assert_close(vae.decode(latents), random_vae().decode(latents), atol=1e-12, rtol=1e-11)


def test_the_fused_upsampler_remembers_one_or_two_small_frames() -> None:
    for time, remembered in ((True, 1), (False, 2)):
        upsampler = Upsampler(4, time=time)
        upsampler.fuse()
        run = SlicePass(VAEOptions(fused_upsampler=True), None, keep=True, overwrite=False)
        upsampler(torch.randn(1, 4, 3, 5, 6), run)
        assert [cache.shape for cache in run.finish(3).caches] == [(1, 4, remembered, 5, 6)]


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 1), (3, 4)])
@pytest.mark.parametrize("time", [True, False])
def test_the_fused_upsampler_is_exact_at_every_edge(size: tuple[int, int], time: bool) -> None:
    torch.manual_seed(1)
    upsampler = Upsampler(3, time=time).double()
    for parameter in upsampler.parameters():
        parameter.normal_()
    upsampler.fuse()
    for frames in (1, 2, 4):
        x = torch.randn(1, 3, frames, *size, dtype=torch.float64)
        plain = upsampler(x, SlicePass.whole_clip(PLAIN))
        fused = upsampler(x, SlicePass.whole_clip(VAEOptions(fused_upsampler=True, image_conv2d=True)))
        torch.testing.assert_close(fused, plain, atol=1e-12, rtol=1e-12)


class ConvolutionsOfCuda(TorchDispatchMode):
    """Answers convolutions in the layout they are asked in, as cuDNN does, and notes that layout."""

    def __init__(self) -> None:
        super().__init__()
        self.channel_strides: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is not torch.ops.aten.convolution.default:
            return out
        self.channel_strides.append(args[0].stride(1))
        return out.contiguous(memory_format=torch.channels_last if out.ndim == 4 else torch.channels_last_3d)


@pytest.mark.parametrize(
    "small",
    [{}, pytest.param({"frames_in_flight": 1, "conv_elements": 300}, marks=pytest.mark.slow)],
    ids=["fast", "small"],
)
def test_activations_stay_channels_last_from_end_to_end(small: dict[str, int]) -> None:
    vae = random_vae().with_options(replace(FAST, **small))
    frames = torch.randn(1, 3, 5, 8, 4, dtype=torch.float64)
    with ConvolutionsOfCuda() as seen:
        moments, state = vae.encode_slice(frames[:, :, :1], None)
        vae.encode_slice(frames[:, :, 1:], state)
        latents = moments[:, :3].expand(-1, -1, 3, -1, -1)
        _, state = vae.decode_slice(latents, None)
        vae.decode_slice(latents, state)
    assert len(seen.channel_strides) > 50
    assert set(seen.channel_strides) == {1}


def test_bf16_stays_near_fp32_and_is_returned_in_fp32() -> None:
    vae = random_vae(dtype=torch.float32)
    latents = torch.randn(1, 3, 3, 2, 2).bfloat16()
    exact = vae.decode(latents.float())
    half = vae.bfloat16().with_options(FAST).decode(latents)
    assert half.dtype == torch.float32
    error = (half - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < 0.05


def test_the_last_convolution_in_fp32_is_not_rounded_in_between() -> None:
    conv, x = CausalConv3d(8, 3).bfloat16(), torch.randn(1, 8, 5, 6, 7).bfloat16()
    exact = causal_step(conv.float(), x.float(), SlicePass.whole_clip(PLAIN))
    half = causal_step(conv.bfloat16(), x, SlicePass.whole_clip(PLAIN), fp32=True)
    torch.testing.assert_close(half, exact, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(conv.convolve_image(x[:, :, 0], fp32=True), exact[:, :, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_norm_and_activation_are_written_where_they_belong(dtype: torch.dtype) -> None:
    x, scale, shift = torch.randn(1, 4, 2, 3, 5).to(dtype), torch.randn(1, 4, 2, 1, 1), torch.randn(1, 4, 2, 1, 1)
    factor_dtype = torch.promote_types(dtype, torch.float32)
    buffer = torch.full((1, 4, 4, 3, 5), 7.0, dtype=dtype)
    write_affine_silu(x, scale.to(factor_dtype), shift.to(factor_dtype), buffer[:, :, 2:])
    expected = torch.nn.functional.silu((x * scale + shift).to(dtype))
    torch.testing.assert_close(buffer[:, :, 2:], expected)
    assert buffer[:, :, :2].eq(7).all()


def test_frames_in_flight_bound_what_the_last_levels_see() -> None:
    vae = random_vae().with_options(VAEOptions(frames_in_flight=2))
    seen: list[int] = []
    vae.decoder.up_blocks[-1].resnets[0].register_forward_hook(lambda _, __, out: seen.append(out.shape[2]))
    vae.decode(torch.randn(1, 3, 4, 2, 2, dtype=torch.float64))
    assert seen == [1, 2, 2, 2]


@pytest.mark.parametrize(("height", "rows", "multiple"), [(12, 4, 1), (13, 3, 1), (14, 6, 2), (2, 8, 1), (6, 1, 2)])
def test_bands_cover_every_row_once_and_differ_by_one_unit(height: int, rows: int, multiple: int) -> None:
    edges = band_edges(height, rows, multiple)
    assert [row for start, stop in edges for row in range(start, stop)] == list(range(height))
    heights = [stop - start for start, stop in edges]
    assert max(heights) <= max(rows, multiple)
    assert max(heights) - min(heights) <= multiple
    assert all(height % multiple == 0 for height in heights)


def test_options_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="conv_elements must be at least 1"):
        VAEOptions(conv_elements=0)
