"""The causal video VAE against the reference's numbers, and the laws of slicing."""

import json
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from seedvr2_ray.errors import InputError
from seedvr2_ray.models.seedvr2.vae.config import PLAIN, SEEDVR2_VAE, VAEConfig
from seedvr2_ray.models.seedvr2.vae.state import SlicePass, VAEState
from seedvr2_ray.models.seedvr2.vae.video_vae import Posterior, VideoVAE

DATA = Path(__file__).parents[3] / "data"
FULL = load_file(DATA / "golden" / "vae_full.safetensors")
SLICED = load_file(DATA / "golden" / "vae_sliced.safetensors")
TINY = VAEConfig(block_out_channels=(8, 12, 16, 16), norm_groups=4)
NANO = VAEConfig(
    block_out_channels=(8, 20), latent_channels=6, num_temporal_stages=1, norm_groups=2, mid_attention=False
)
NANO_4X = VAEConfig(block_out_channels=(4, 8, 12), num_temporal_stages=1, norm_groups=4)

DEEP = VAEConfig(block_out_channels=(2, 4, 4, 4), latent_channels=3, norm_groups=2)

LATENT_CLOSE = {"atol": 2e-5, "rtol": 1e-4}
FRAME_CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module", autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def tiny() -> VideoVAE:
    vae = VideoVAE(TINY)
    vae.load_state_dict(load_file(DATA / "golden" / "vae_tiny_weights.safetensors"), strict=True)
    return vae.eval()


def random_vae(config: VAEConfig, dtype: torch.dtype = torch.float32) -> VideoVAE:
    torch.manual_seed(3)
    return VideoVAE(config).to(dtype).eval()


def random_frames(num: int, height: int = 16, width: int = 24, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, num, height, width, dtype=torch.float64) * 2 - 1


def moments(posterior: Posterior) -> Tensor:
    return torch.cat([posterior.mean_BCTHW, posterior.logvar_BCTHW], dim=1)


def encode_in_slices(vae: VideoVAE, frames: Tensor, ends: list[int]) -> tuple[Tensor, VAEState]:
    pieces, state = [], None
    for start, stop in pairwise([0, *ends]):
        piece, state = vae.encode_slice(frames[:, :, start:stop], state)
        pieces.append(piece)
    assert state is not None
    return torch.cat(pieces, dim=2), state


def decode_in_slices(vae: VideoVAE, latents: Tensor, ends: list[int]) -> tuple[Tensor, VAEState]:
    pieces, state = [], None
    for start, stop in pairwise([0, *ends]):
        piece, state = vae.decode_slice(latents[:, :, start:stop], state)
        pieces.append(piece)
    assert state is not None
    return torch.cat(pieces, dim=2), state


def test_names_and_shapes_are_the_released_checkpoint() -> None:
    with torch.device("meta"):
        vae = VideoVAE(SEEDVR2_VAE)
    shapes = {name: list(parameter.shape) for name, parameter in vae.state_dict().items()}
    assert shapes == json.loads((DATA / "keys_vae.json").read_text())


@pytest.mark.parametrize("num_latents", [1, 3])
def test_encoder_and_decoder_give_the_reference_numbers(tiny: VideoVAE, num_latents: int) -> None:
    num_frames = TINY.num_frames(num_latents)
    encoded = moments(tiny.encode(FULL["video_T17"][:, :, :num_frames]))
    torch.testing.assert_close(encoded, FULL["T17.moments"][:, :, :num_latents], **LATENT_CLOSE)
    decoded = tiny.decode(FULL["z_rand"][:, :, :num_latents])
    torch.testing.assert_close(decoded, FULL["z_rand.decoded"][:, :, :num_frames], **FRAME_CLOSE)


def test_a_batch_of_two_gives_the_reference_numbers_and_those_of_two_single_runs(tiny: VideoVAE) -> None:
    encoded = moments(tiny.encode(FULL["batch2.video"]))
    torch.testing.assert_close(encoded, FULL["batch2.moments"], **LATENT_CLOSE)
    decoded = tiny.decode(FULL["batch2.moments"][:, :16])
    torch.testing.assert_close(decoded, FULL["batch2.decoded"], **FRAME_CLOSE)
    single = moments(tiny.encode(FULL["batch2.video"][1:]))
    torch.testing.assert_close(single, encoded[1:], atol=1e-5, rtol=1e-5)


def test_the_bare_encoder_floors_odd_sizes_as_the_reference_does(tiny: VideoVAE) -> None:
    encoded = tiny.encoder(FULL["odd.video"], SlicePass.whole_clip(PLAIN))
    torch.testing.assert_close(encoded, FULL["odd.moments"], **LATENT_CLOSE)


def test_posterior_gives_the_reference_numbers() -> None:
    extreme = Posterior.from_moments(FULL["posterior.params"])
    torch.testing.assert_close(extreme.logvar_BCTHW, FULL["posterior.logvar"])
    torch.testing.assert_close(torch.exp(0.5 * extreme.logvar_BCTHW), FULL["posterior.std"])
    posterior = Posterior.from_moments(FULL["T17.moments"][:, :, :2])
    sample = posterior.mode + torch.exp(0.5 * posterior.logvar_BCTHW) * FULL["T5.posterior_noise"]
    torch.testing.assert_close(sample, FULL["T5.sample"], **LATENT_CLOSE)


def test_scaling_gives_the_reference_numbers_and_unscaling_undoes_it(tiny: VideoVAE) -> None:
    latents = FULL["T17.moments"][:, :16, :2]
    scaled = tiny.scale(latents)
    torch.testing.assert_close(scaled[0].permute(1, 2, 3, 0), FULL["runner.latent_from_T5_mode"], **LATENT_CLOSE)
    torch.testing.assert_close(tiny.unscale(scaled), latents)


def test_slices_of_four_frames_give_the_reference_numbers(tiny: VideoVAE) -> None:
    encoded = moments(tiny.encode(FULL["video_T17"][:, :, :9], slice_frames=4))
    torch.testing.assert_close(encoded, SLICED["split4.moments"][:, :, :3], **LATENT_CLOSE)


def test_the_decoder_remembers_what_the_reference_remembers(tiny: VideoVAE) -> None:
    frames, first = tiny.decode_slice(FULL["z_rand"][:, :, :2], None)
    torch.testing.assert_close(frames, SLICED["mem.slice0.out"], **FRAME_CLOSE)
    frames, second = tiny.decode_slice(FULL["z_rand"][:, :, 2:3], first)
    torch.testing.assert_close(frames, SLICED["mem.slice1.out"], **FRAME_CLOSE)
    torch.testing.assert_close(first.caches[0], SLICED["mem.decoder.conv_in.after0"], **FRAME_CLOSE)
    torch.testing.assert_close(first.caches[-1], SLICED["mem.decoder.conv_out.after0"], **FRAME_CLOSE)
    torch.testing.assert_close(second.caches[0], SLICED["mem.decoder.conv_in.after1"], **FRAME_CLOSE)


@pytest.mark.parametrize(
    ("config", "seed"), [(DEEP, 0), (NANO, 1), (NANO, 2), (NANO_4X, 3)], ids=["deep", "nano1", "nano2", "nano4x"]
)
def test_a_clip_cut_anywhere_gives_the_whole_clip(config: VAEConfig, seed: int) -> None:
    vae, choose = random_vae(config, torch.float64), random.Random(seed)
    num_latents = choose.randint(3, 5)
    cuts = sorted(choose.sample(range(1, num_latents), choose.randint(1, num_latents - 1)))
    frames = random_frames(config.num_frames(num_latents), config.spatial_stride, 2 * config.spatial_stride)
    whole = vae.encode(frames)
    in_slices, _ = encode_in_slices(vae, frames, [config.num_frames(cut) for cut in [*cuts, num_latents]])
    torch.testing.assert_close(moments(Posterior.from_moments(in_slices)), moments(whole), atol=1e-11, rtol=0)
    decoded, _ = decode_in_slices(vae, whole.mode, [*cuts, num_latents])
    torch.testing.assert_close(decoded, vae.decode(whole.mode), atol=1e-11, rtol=0)


def test_the_beginning_of_a_clip_does_not_know_its_end() -> None:
    vae, frames = random_vae(NANO_4X, torch.float64), random_frames(9)
    latents = vae.encode(frames).mode
    torch.testing.assert_close(vae.encode(frames[:, :, :5]).mode, latents[:, :, :3], atol=1e-12, rtol=0)
    torch.testing.assert_close(vae.decode(latents[:, :, :2]), vae.decode(latents)[:, :, :3], atol=1e-12, rtol=0)


def test_a_state_is_compact_and_keeps_nothing_else_alive(tiny: VideoVAE) -> None:
    _, encoded = encode_in_slices(tiny, FULL["video_T17"][..., :16, :16], [5, 9])
    _, decoded = decode_in_slices(tiny, FULL["z_rand"][..., :2, :2], [2, 3])
    for cache in (*encoded.caches, *decoded.caches):
        assert cache.untyped_storage().nbytes() == cache.numel() * cache.element_size()


def test_a_state_is_a_value_that_can_be_continued_twice(tiny: VideoVAE) -> None:
    latents = FULL["z_rand"][..., :2, :2]
    _, state = tiny.decode_slice(latents[:, :, :2], None)
    before = [cache.clone() for cache in state.caches]
    once, _ = tiny.decode_slice(latents[:, :, 2:4], state)
    again, _ = tiny.decode_slice(latents[:, :, 2:4], state)
    assert torch.equal(once, again)
    assert all(torch.equal(cache, old) for cache, old in zip(state.caches, before, strict=True))


def test_an_overwritten_state_lives_on_in_the_same_memory(tiny: VideoVAE) -> None:
    latents = FULL["z_rand"][..., :2, :2]
    _, state = tiny.decode_slice(latents[:, :, :2], None)
    expected, expected_state = tiny.decode_slice(latents[:, :, 2:3], state)
    places = [cache.data_ptr() for cache in state.caches]
    frames, renewed = tiny.decode_slice(latents[:, :, 2:3], state, overwrite=True)
    assert torch.equal(frames, expected)
    assert [cache.data_ptr() for cache in renewed.caches] == places
    assert all(torch.equal(*pair) for pair in zip(renewed.caches, expected_state.caches, strict=True))


def test_gradients_reach_every_parameter_with_and_without_slices() -> None:
    with torch.enable_grad():
        for slice_frames, slice_latents in ((None, None), (2, 1)):
            vae = random_vae(NANO).train()
            frames = random_frames(5, 4, 4).float()
            decoded = vae.decode(vae.encode(frames, slice_frames=slice_frames).mode, slice_latents=slice_latents)
            (decoded - frames).square().mean().backward()
            assert all(parameter.grad is not None and parameter.grad.any() for parameter in vae.parameters()), (
                slice_frames
            )


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((1, 3, 5, 35, 48), "48x35.*multiples of 8"),
        ((1, 3, 4, 32, 48), r"4 n \+ 1 frames and has 4"),
        ((1, 3, 0, 32, 48), r"4 n \+ 1 frames and has 0"),
        ((1, 4, 5, 32, 48), "B x 3 x T"),
        ((3, 5, 32, 48), "B x 3 x T"),
    ],
)
def test_frames_that_do_not_fit_are_refused_with_a_reason(
    tiny: VideoVAE, shape: tuple[int, ...], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        tiny.encode(torch.zeros(shape))


def test_slices_that_do_not_fit_are_refused_with_a_reason(tiny: VideoVAE) -> None:
    _, state = tiny.encode_slice(torch.zeros(1, 3, 1, 16, 16), None)
    with pytest.raises(InputError, match="4 n frames and has 5"):
        tiny.encode_slice(torch.zeros(1, 3, 5, 16, 16), state)
    with pytest.raises(InputError, match="multiple of 4"):
        tiny.encode(torch.zeros(1, 3, 9, 16, 16), slice_frames=6)
    with pytest.raises(InputError, match="at least 1"):
        tiny.decode(torch.zeros(1, 16, 3, 2, 2), slice_latents=0)
    with pytest.raises(InputError, match="B x 16"):
        tiny.decode(torch.zeros(1, 12, 3, 2, 2))


def test_a_config_that_cannot_be_built_says_why() -> None:
    with pytest.raises(ValueError, match="temporal stages"):
        VAEConfig(block_out_channels=(8, 8), num_temporal_stages=2, norm_groups=4)
    with pytest.raises(ValueError, match="norm groups"):
        VAEConfig(block_out_channels=(8, 12, 18), norm_groups=4)
