"""Tiled encoding and decoding against the descendant's numbers, and the laws of blending."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.models.seedvr2.vae.config import VAEConfig
from seedvr2_ray.models.seedvr2.vae.tiles import Span, Tiling, decode_tiled, encode_tiled, fade_weights, plan_spans
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE

DATA = Path(__file__).parents[3] / "data" / "golden"
TILED = load_file(DATA / "vae_tiled.safetensors")


@pytest.fixture(scope="module", autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def tiny() -> VideoVAE:
    vae = VideoVAE(VAEConfig(block_out_channels=(8, 12, 16, 16), norm_groups=4))
    vae.load_state_dict(load_file(DATA / "vae_tiny_weights.safetensors"), strict=True)
    return vae.eval()


def tiling(size: tuple[int, int], overlap: tuple[int, int]) -> Tiling:
    return Tiling(height=size[0], width=size[1], overlap_height=overlap[0], overlap_width=overlap[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "size", "overlap"),
    [("dec_b", (48, 32), (8, 16)), ("dec_c", (32, 64), (12, 0))],
)
def test_tiled_decoding_gives_the_descendant_numbers(
    tiny: VideoVAE, case: str, size: tuple[int, int], overlap: tuple[int, int]
) -> None:
    decoded = decode_tiled(tiny, TILED[f"{case}.z"], tiling(size, overlap), slice_latents=1)
    expected = TILED[f"{case}.decoded_tiled"]
    torch.testing.assert_close(decoded.view_as(expected), expected, atol=1e-4, rtol=1e-4)


def test_tiled_encoding_gives_the_descendant_numbers(tiny: VideoVAE) -> None:
    posterior = encode_tiled(tiny, TILED["enc_b.x"], tiling((40, 48), (8, 16)))
    moments = torch.cat([posterior.mean_BCTHW, posterior.logvar_BCTHW], dim=1)
    expected = TILED["enc_b.moments_tiled"]
    torch.testing.assert_close(moments.view_as(expected), expected, atol=1e-4, rtol=1e-4)


def test_frames_that_fit_into_a_tile_are_not_tiled(tiny: VideoVAE) -> None:
    latents, frames = torch.randn(1, 16, 1, 2, 2), torch.randn(1, 3, 1, 16, 16)
    assert torch.equal(decode_tiled(tiny, latents, tiling((16, 16), (8, 8))), tiny.decode(latents))
    assert torch.equal(encode_tiled(tiny, frames, tiling((16, 16), (8, 8))).mode, tiny.encode(frames).mode)


@pytest.mark.parametrize("num_latents", [1, 7, 64, 65, 100])
@pytest.mark.parametrize(("tile", "overlap"), [(512, 64), (64, 0), (64, 63), (8, 8), (1, 100)])
def test_spans_cover_an_axis_and_hold_something_new(num_latents: int, tile: int, overlap: int) -> None:
    spans = plan_spans(num_latents, tile, overlap, 8)
    covered = {place for span in spans for place in range(span.start, span.stop)}
    assert covered == set(range(num_latents))
    assert all(late.stop > early.stop or early.is_last for early, late in pairwise(spans))


def test_weights_fade_only_towards_a_neighbour_and_add_up_to_one() -> None:
    first, last = fade_weights(Span(0, 8, False), 8, 4), fade_weights(Span(4, 12, True), 8, 4)
    assert first[:4].eq(1).all()
    assert last[4:].eq(1).all()
    torch.testing.assert_close(first[4:] + last[:4], torch.ones(4))
    assert fade_weights(Span(0, 8, True), 8, 4).eq(1).all()


def test_a_tile_without_size_is_refused() -> None:
    with pytest.raises(SettingsError, match="at least 1 pixel"):
        Tiling(height=0)
