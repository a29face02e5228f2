"""The noise a latent starts from: a function of the seed, the frame's number and the shape, of nothing else.

Shape letters: T latent frames, H and W of the latent grid, C channels.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def latent_frame_number(first_frame: int, latent: int, temporal_stride: int) -> int:
    """Return the number in the file of the last frame that a segment's latent stands for.

    The first latent stands for one frame, every other one for ``temporal_stride`` frames. Segments that
    share frames and start a whole number of latents apart therefore give shared latents the same number.
    """
    return first_frame + latent * temporal_stride


def draw_noise(seed: int, frame_numbers: Sequence[int], size_HWC: tuple[int, int, int]) -> Tensor:
    """Draw standard normal noise for latents, each from a generator of its own.

    It is drawn on the CPU, in double precision: GPUs split a draw by their number of multiprocessors and
    CPUs take vectorised logarithms that differ in the last bit of a float, so either would tie
    the picture to a machine.

    Args:
        seed: what the caller chose.
        frame_numbers: one number per latent, as :func:`latent_frame_number` gives it.
        size_HWC: of one latent.

    Returns:
        float32 on the CPU, ``len(frame_numbers)`` x H x W x C.
    """
    height, width, channels = size_HWC
    noise_THWC = torch.empty(len(frame_numbers), height, width, channels)
    for row_HWC, frame_number in zip(noise_THWC, frame_numbers, strict=True):
        generator = torch.Generator().manual_seed(_key(seed, frame_number))
        # Memory order C, H, W as the published script draws it; whoever has its numbers can feed them in.
        drawn_CHW = torch.randn(channels, height, width, generator=generator, dtype=torch.float64)
        row_HWC.copy_(drawn_CHW.permute(1, 2, 0))
    return noise_THWC


def _key(seed: int, frame_number: int) -> int:
    # A hash, because torch's CPU generator keeps 32 bits: adding would make seed 1 of frame 5 equal seed 2 of frame 4.
    digest = hashlib.blake2b(f"{seed}/{frame_number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
