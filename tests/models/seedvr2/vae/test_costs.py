"""Counted costs against the numbers measured on the reference."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from seedvr2_ray.models.seedvr2.vae.config import SEEDVR2_VAE, VAEConfig, VAEOptions
from seedvr2_ray.models.seedvr2.vae.costs import (
    decoder_cache_bytes_per_pixel,
    decoder_convs,
    encoder_cache_bytes_per_pixel,
    encoder_convs,
    vae_flops,
)
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE

NANO = VAEConfig(
    block_out_channels=(4, 6), latent_channels=3, num_temporal_stages=1, norm_groups=2, mid_attention=False
)


def test_convolutions_cost_what_was_counted_on_the_reference() -> None:
    encoder, decoder = list(encoder_convs(SEEDVR2_VAE)), list(decoder_convs(SEEDVR2_VAE))
    assert sum(conv.first_frame_macs for conv in encoder) == 6_042_496
    assert sum(conv.steady_macs for conv in encoder) == 4_457_280
    assert sum(conv.first_frame_macs for conv in decoder) == 14_243_328
    assert sum(conv.steady_macs for conv in decoder) == 11_772_896


@pytest.mark.parametrize(
    ("height", "width", "decode_tflop", "encode_tflop"),
    [(720, 1280, 463, 178), (1088, 1920, 1057, 411), (1440, 2560, 1883, 743), (2160, 3840, 4350, 1787)],
)
def test_a_window_costs_what_the_table_of_the_specification_says(
    height: int, width: int, decode_tflop: float, encode_tflop: float
) -> None:
    flops = vae_flops(SEEDVR2_VAE, 21, height, width)
    assert flops.decode / 1e12 == pytest.approx(decode_tflop, rel=2e-3)
    assert flops.encode / 1e12 == pytest.approx(encode_tflop, rel=3e-3)


def test_the_fused_upsampler_saves_a_fifth_of_the_decoder() -> None:
    plain = sum(conv.steady_macs for conv in decoder_convs(SEEDVR2_VAE))
    fused = sum(conv.steady_macs for conv in decoder_convs(SEEDVR2_VAE, fused_upsampler=True))
    assert 1 - fused / plain == pytest.approx(0.214, abs=1e-3)


def test_the_released_states_are_as_large_as_the_reference_memory_bank() -> None:
    assert decoder_cache_bytes_per_pixel(SEEDVR2_VAE, 2) == pytest.approx(8641, abs=0.5)
    # The reference keeps the row and column of zeros beyond the edge, too; ours does not.
    assert encoder_cache_bytes_per_pixel(SEEDVR2_VAE, 2) == pytest.approx(3885, abs=1.5)
    assert decoder_cache_bytes_per_pixel(SEEDVR2_VAE, 2, fused_upsampler=True) == pytest.approx(7313, abs=0.5)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("is_light", [False, True])
def test_a_state_has_the_bytes_that_were_counted(fused: bool, is_light: bool) -> None:
    config = replace(NANO, is_light=is_light)
    vae = VideoVAE(config, VAEOptions(fused_upsampler=fused))
    with torch.no_grad():
        moments, encoded = vae.encode_slice(torch.zeros(1, 3, 3, 4, 6), None)
        _, decoded = vae.decode_slice(moments[:, :3], None)
    assert encoded.num_bytes == encoder_cache_bytes_per_pixel(config, 4) * 24
    assert decoded.num_bytes == decoder_cache_bytes_per_pixel(config, 4, fused_upsampler=fused) * 24


@pytest.mark.parametrize("is_light", [False, True])
def test_counted_flops_are_those_that_run(is_light: bool) -> None:
    config = VAEConfig(
        block_out_channels=(2, 4), num_temporal_stages=1, norm_groups=2, is_light=is_light, mid_attention=not is_light
    )
    vae = VideoVAE(config).eval()
    flops = vae_flops(vae.config, 5, 4, 6)
    for stage, x, expected in (
        (vae.encode_moments, torch.zeros(1, 3, 5, 4, 6), flops.encode),
        (vae.decode, torch.zeros(1, 16, 3, 2, 3), flops.decode),
    ):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            stage(x)
        assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)
