"""Weights that add nothing need not be computed: nano's are mostly such at full resolution."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from seedvr2_ray.models.seedvr2.vae.config import FAST, FAST_ON_CPU, PLAIN, VAEConfig, VAEOptions
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE

CONFIG = VAEConfig(
    block_out_channels=(4, 6),
    encoder_layers_per_block=1,
    latent_channels=3,
    num_temporal_stages=1,
    norm_groups=1,
    mid_attention=False,
)
WAYS = {
    "plain": PLAIN,
    "fast_on_cpu": FAST_ON_CPU,
    "fast": FAST,
    "bands": VAEOptions(bands=3),
    "frames_in_flight": VAEOptions(frames_in_flight=2, channels_last=True),
}


def sparse_vae() -> VideoVAE:
    """A VAE with every kind of weights that add nothing."""
    torch.manual_seed(5)
    vae = VideoVAE(CONFIG).double()
    encoder: Any = vae.encoder
    decoder: Any = vae.decoder
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.copy_(torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5)
        encoder.conv_in.weight[:, :, :2] = 0
        encoder.mid_block.resnets[0].conv1.weight[:, :, :1] = 0
        decoder.conv_out.weight[:, :, :2] = 0
        silent, framewise = decoder.up_blocks[1].resnets
        silent.conv2.weight.zero_()
        silent.conv2.bias.zero_()
        framewise.conv1.weight[:, :, :2] = 0
        centre = framewise.conv2.weight[:, :, 2, 1, 1].clone()
        framewise.conv2.weight.zero_()
        framewise.conv2.weight[:, :, 2, 1, 1] = centre
        smoothing = decoder.up_blocks[0].upsamplers[0].conv
        smoothing.weight.zero_()
        smoothing.bias.zero_()
        smoothing.weight[:, :, 2, 1, 1] = torch.eye(6)
    return vae


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS.keys())
def test_leaving_out_zeros_changes_no_number(options: VAEOptions) -> None:
    vae = sparse_vae().prepare(PLAIN)
    frames = torch.rand(1, 3, 9, 12, 16, dtype=torch.float64) * 2 - 1
    with torch.inference_mode():
        latents = vae.encode(frames).mode
        expected = vae.decode(latents)
        vae.prepare(replace(options, leave_out_zeros=True))
        for latents_per_slice in (None, 1, 2):
            slice_frames = latents_per_slice and 2 * latents_per_slice
            torch.testing.assert_close(vae.encode(frames, slice_frames=slice_frames).mode, latents)
            torch.testing.assert_close(vae.decode(latents, slice_latents=latents_per_slice), expected)


def test_what_is_left_out_gets_no_gradient() -> None:
    vae: Any = sparse_vae().leave_out_zeros()
    frames = torch.rand(2, 3, 3, 8, 8, dtype=torch.float64)
    torch.autograd.backward(vae.decode(vae.encode(frames).mode).square().sum())
    assert not vae.encoder.conv_in.weight.grad[:, :, :2].any()
    assert vae.encoder.conv_in.weight.grad[:, :, 2].any()
    silent, framewise = vae.decoder.up_blocks[1].resnets
    assert silent.conv1.weight.grad is None and silent.conv2.weight.grad is None
    assert silent.conv_shortcut.weight.grad.any()
    assert int(framewise.conv2.weight.grad.flatten(0, 1).any(dim=0).sum()) == 1


def test_other_weights_are_computed_in_full() -> None:
    vae = sparse_vae()
    other = VideoVAE(CONFIG).double()
    vae.leave_out_zeros().load_state_dict(other.state_dict())
    latents = torch.rand(1, 3, 2, 6, 8, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.equal(vae.decode(latents), other.decode(latents))
