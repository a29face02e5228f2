"""Frames spread over ranks by rows are encoded and decoded as they are whole, and each rank has its share of memory."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.models.parallel import SequenceParallel
from seedvr2_ray.models.seedvr2.vae.config import FAST, FAST_ON_CPU, PLAIN, VAEConfig, VAEOptions
from seedvr2_ray.models.seedvr2.vae.ranks.rows import RowShares, split_rows
from seedvr2_ray.models.seedvr2.vae.ranks.traffic import decode_bytes, encode_bytes
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE
from tests.models.ranks import run_ranks
from tests.models.seedvr2.vae.test_video_vae import FRAME_CLOSE, FULL, LATENT_CLOSE, tiny

pytestmark = pytest.mark.slow

__all__ = ["tiny"]  # a fixture

SMALL = VAEConfig(block_out_channels=(4, 8, 8), norm_groups=2, num_temporal_stages=1)
LIGHT = VAEConfig(block_out_channels=(8, 8, 16, 16), norm_groups=2, is_light=True, mid_attention=False)
ROWS, COLUMNS = 9, 4
"""Of latents: neither 2 nor 4 nor 8 ranks have as many each."""
WAYS = {
    "plain": PLAIN,
    "as on a CPU": FAST_ON_CPU,
    "plain in bands": replace(PLAIN, conv_elements=2000),
    "as on a GPU, in bands": replace(FAST, conv_elements=3000, attention_scores=200),
    "as on a GPU, a frame at a time": replace(FAST, frames_in_flight=1),
}


@pytest.fixture(scope="module", autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def _network(config: VAEConfig) -> VideoVAE:
    torch.manual_seed(1)
    vae = VideoVAE(config, FAST).requires_grad_(False)
    for parameter in vae.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    vae.load_state_dict(vae.state_dict())  # what is derived from weights is derived again
    return vae


def _both_ways(vae: VideoVAE, options: VAEOptions, frames: Tensor, latents: Tensor, groups: int | None) -> list[Tensor]:
    slice_frames = groups and groups * vae.config.temporal_stride
    return [
        vae.encode_moments(frames, slice_frames=slice_frames, options=options),
        vae.decode(latents, slice_latents=groups, options=options),
    ]


def _on_ranks(
    vae: VideoVAE, options: VAEOptions, frames: Tensor, latents: Tensor, groups: int | None, num_ranks: int
) -> list[list[Tensor]]:
    heights, stride = split_rows(latents.shape[3], num_ranks), vae.config.spatial_stride

    def compute(parallel: SequenceParallel) -> list[Tensor]:
        own_frames = frames.split([rows * stride for rows in heights], dim=3)[parallel.rank]
        own_latents = latents.split(heights, dim=3)[parallel.rank]
        shared = replace(options, rows=RowShares(parallel, heights))
        return _both_ways(vae, shared, own_frames, own_latents, groups)

    return run_ranks(num_ranks, compute)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("groups", [None, 1], ids=["whole", "sliced"])
@pytest.mark.parametrize("num_groups", [0, 2], ids=["image", "video"])
@pytest.mark.parametrize("config", [SMALL, LIGHT], ids=["full", "light"])
def test_rows_on_ranks_are_encoded_and_decoded_as_in_whole_frames(
    config: VAEConfig, num_groups: int, groups: int | None, way: str
) -> None:
    vae, stride = _network(config), config.spatial_stride
    frames = torch.rand(1, 3, 1 + num_groups * config.temporal_stride, ROWS * stride, COLUMNS * stride) * 2 - 1
    latents = torch.randn(1, config.latent_channels, 1 + num_groups, ROWS, COLUMNS)
    expected = _both_ways(vae, WAYS[way], frames, latents, groups)
    for num_ranks in (2, 4):
        parts = _on_ranks(vae, WAYS[way], frames, latents, groups, num_ranks)
        for whole, pieces in zip(expected, zip(*parts, strict=True), strict=True):
            torch.testing.assert_close(torch.cat(pieces, dim=3), whole, atol=1e-5, rtol=0)


def test_the_published_numbers_come_out_of_two_ranks(tiny: VideoVAE) -> None:
    parts = _on_ranks(tiny, PLAIN, FULL["video_T17"], FULL["z_rand"], None, 2)
    encoded, decoded = (torch.cat(pieces, dim=3) for pieces in zip(*parts, strict=True))
    torch.testing.assert_close(encoded, FULL["T17.moments"], **LATENT_CLOSE)
    torch.testing.assert_close(decoded, FULL["z_rand.decoded"], **FRAME_CLOSE)


@pytest.mark.parametrize("way", ["plain", "as on a CPU", "plain in bands", "as on a GPU, in bands"])
@pytest.mark.parametrize("num_groups", [0, 2], ids=["image", "video"])
def test_a_rank_sends_the_bytes_that_arithmetic_says(num_groups: int, way: str) -> None:
    vae, options, heights = _network(SMALL), replace(WAYS[way], frames_in_flight=None), split_rows(ROWS, 3)
    stride, time_stride, width = SMALL.spatial_stride, SMALL.temporal_stride, COLUMNS * SMALL.spatial_stride

    def sent(parallel: SequenceParallel) -> tuple[dict[str, int], dict[str, int]]:
        shared, rows = replace(options, rows=RowShares(parallel, heights)), heights[parallel.rank]
        vae.encode(torch.zeros(1, 3, 1 + num_groups * time_stride, rows * stride, width), options=shared)
        after_encoding = dict(parallel.sent)
        parallel.sent.clear()
        vae.decode(torch.zeros(1, SMALL.latent_channels, 1 + num_groups, rows, COLUMNS), options=shared)
        return after_encoding, dict(parallel.sent)

    for rank, (encoding, decoding) in enumerate(run_ranks(3, sent)):
        common = (width, heights, rank)
        ways = {"item_bytes": 4, "folds_images": options.image_conv2d}
        assert encoding == dict(encode_bytes(SMALL, 1 + num_groups * time_stride, *common, **ways))
        expected = decode_bytes(SMALL, 1 + num_groups, *common, **ways, fused_upsampler=options.fused_upsampler)
        assert decoding == dict(expected)


def test_the_state_falls_with_the_number_of_ranks() -> None:
    vae, stride = _network(SMALL), SMALL.spatial_stride

    def state_bytes(parallel: SequenceParallel) -> int:
        heights = split_rows(8, parallel.size)
        options = replace(FAST, rows=RowShares(parallel, heights) if parallel.size > 1 else None)
        frames = torch.zeros(1, 3, 5, heights[parallel.rank] * stride, 16)
        return vae.encode_slice(frames, None, options=options)[1].num_bytes

    (whole,) = run_ranks(1, state_bytes)
    for num_ranks in (2, 4):
        assert run_ranks(num_ranks, state_bytes) == [whole // num_ranks] * num_ranks


def test_fewer_rows_than_ranks_are_refused_in_one_sentence() -> None:
    with pytest.raises(SettingsError, match="3 rows of latents cannot be spread over 4 ranks.*use at most 3 GPUs"):
        split_rows(3, 4)
    assert split_rows(7, 3) == (2, 2, 3)
