"""``nano`` as one module: networks, text, and the path from an enlarged clip to a restored one.

Shapes: B clips, C channels, T frames or latents, H height, W width, L text tokens.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from seedvr2_ray.models.seedvr2.nano_config import NANO_DIT, NANO_TEXT_TOKENS, NANO_VAE
from seedvr2_ray.models.seedvr2.sampler import LAST_TIMESTEP
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE
from seedvr2_ray.restoration.colour.colour_match import NUM_LEVELS, blur
from training.initialise import initialise_transformer, initialise_vae


@dataclass(frozen=True, slots=True)
class Restored:
    """What the network makes of a batch, before and after the colours of the input."""

    raw_BCTHW: Tensor
    matched_BCTHW: Tensor


class Nano(nn.Module):
    """Both networks and the constant text."""

    text_LC: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.vae = VideoVAE(NANO_VAE)
        self.transformer = SeedVR2Transformer(NANO_DIT)
        generator = torch.Generator().manual_seed(seed)
        initialise_vae(self.vae)
        initialise_transformer(self.transformer, generator)
        text_LC = torch.randn(NANO_TEXT_TOKENS, NANO_DIT.text_dim, generator=generator)
        # Rounded, so that the half-precision file holds the very numbers that were trained with.
        self.register_buffer("text_LC", text_LC.half().float())

    def forward(self, inputs_BCTHW: Tensor, noise_BTHWC: Tensor | None) -> Restored:
        """Restore clips in one step, as the restorer does, but a batch at once and without rounding.

        Without noise the transformer is passed over: it is taken to return its condition.
        """
        restored_BTHWC = self.vae.scale(self.vae.encode(inputs_BCTHW).mode).permute(0, 2, 3, 4, 1)
        if noise_BTHWC is not None:
            restored_BTHWC = noise_BTHWC - self.predict(noise_BTHWC, restored_BTHWC)
        raw_BCTHW = self.vae.decode(self.vae.unscale(restored_BTHWC.permute(0, 4, 1, 2, 3))).float()
        return Restored(raw_BCTHW, match_colours(raw_BCTHW, inputs_BCTHW))

    def predict(self, noise_BTHWC: Tensor, condition_BTHWC: Tensor) -> Tensor:
        """Return v = noise - latent of every clip at the last timestep."""
        mask = torch.ones_like(noise_BTHWC[..., :1])
        inputs_BTHWC = torch.cat((noise_BTHWC, condition_BTHWC.float(), mask), dim=-1)
        # In full: half a unit of the noise's last place would be a visible error of the latent.
        with torch.autocast(inputs_BTHWC.device.type, enabled=False):
            return torch.stack([self.transformer(clip, self.text_LC, LAST_TIMESTEP) for clip in inputs_BTHWC])


def latent_shape(clips: int, num_frames: int, height: int, width: int) -> tuple[int, int, int, int, int]:
    """Return B, T, H, W, C of the latents of a batch."""
    stride = NANO_VAE.spatial_stride
    return clips, NANO_VAE.num_latents(num_frames), height // stride, width // stride, NANO_VAE.latent_channels


def match_colours(raw_BCTHW: Tensor, inputs_BCTHW: Tensor) -> Tensor:
    """Take the low band from the input as ``colour_match.wavelet`` does, without its clamp, which has no gradient.

    A chain of blurs along one direction is a matrix. Two products with small ones cost less to
    differentiate than the passes over memory that are best for large pictures.
    """
    height, width = raw_BCTHW.shape[-2:]
    rows, columns = (low_band_matrix(side, max(1, min(height, width) // 8)).to(raw_BCTHW) for side in (height, width))
    return raw_BCTHW + rows @ (inputs_BCTHW - raw_BCTHW) @ columns.T


@lru_cache(maxsize=8)
def low_band_matrix(side: int, largest_radius: int) -> Tensor:
    """Return what all blurs of the colour matching do to a row or column of so many pixels, [side, side]."""
    # As many pictures as pixels, each one column with one pixel lit. Along rows of length one a blur does nothing.
    columns_TCHW = torch.eye(side)[:, None, :, None]
    for level in range(NUM_LEVELS):
        columns_TCHW = blur(columns_TCHW, min(2**level, largest_radius))
    return columns_TCHW[:, 0, :, 0].T
