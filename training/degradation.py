"""What cameras, scalers and codecs do to a clip, in two rounds.

Round one blurs, shrinks part of the way, adds noise and compresses each frame as JPEG; round two
shrinks to the final size, adds less noise and compresses the clip as H.264 or each frame as JPEG.
Each part is drawn at random or left out, and some clips are only shrunk.

Shape letters: T frames, C channels, H height, W width.
"""

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Kernel = Literal["area", "bilinear", "bicubic"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Degradation:
    """One recipe; a field at its neutral value leaves its part out."""

    scale: int
    """How many times smaller the result is in each direction."""
    blur: float = 0.0
    """Standard deviation of a Gaussian in pixels of the clean clip."""
    first_share: float = 1.0
    """Size after round one as a share of the clean size; 1 leaves the shrinking to round two."""
    first_kernel: Kernel = "bicubic"
    first_noise: float = 0.0
    """Standard deviation in 8-bit codes."""
    first_jpeg: int = 0
    """JPEG quality; 0 leaves it out."""
    kernel: Kernel = "bicubic"
    noise: float = 0.0
    grey_noise: bool = False
    """The same noise in all three channels."""
    jpeg: int = 0
    h264_crf: int = -1
    """Constant rate factor; -1 leaves it out."""
    seed: int = 0


def random_degradation(rng: np.random.Generator, scale: int) -> Degradation:
    """Draw a recipe: one in five clean, the rest moderate in one or two rounds."""
    kernels: list[Kernel] = ["area", "bilinear", "bicubic"]
    kernel = kernels[rng.choice(3, p=[0.3, 0.1, 0.6])]
    if rng.random() < 0.2:
        return Degradation(scale=scale, kernel=kernel, blur=float(rng.choice([0.0, 0.5])))
    twice = rng.random() < 0.35
    codec = rng.choice(["jpeg", "h264", "none"], p=[0.45, 0.4, 0.15])
    return Degradation(
        scale=scale,
        blur=float(rng.uniform(0.2, 1.1)) if rng.random() < 0.6 else 0.0,
        first_share=float(rng.uniform(1 / scale, 1.0)) if twice else 1.0,
        first_kernel=kernels[rng.integers(3)],
        first_noise=float(rng.uniform(0.5, 4.0)) if twice else 0.0,
        first_jpeg=int(rng.integers(65, 96)) if twice and rng.random() < 0.5 else 0,
        kernel=kernel,
        noise=float(rng.uniform(0.5, 7.0)) if rng.random() < 0.75 else 0.0,
        grey_noise=bool(rng.random() < 0.3),
        jpeg=int(rng.integers(45, 95)) if codec == "jpeg" else 0,
        h264_crf=int(rng.integers(17, 31)) if codec == "h264" else -1,
        seed=int(rng.integers(2**31)),
    )


def gaussian_blur(frames_TCHW: Tensor, sigma: float) -> Tensor:
    """Blur with a separable Gaussian, edges replicated."""
    radius = max(1, int(np.ceil(3 * sigma)))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).to(frames_TCHW)
    planes = frames_TCHW.flatten(0, 1)[:, None]
    planes = F.pad(planes, (radius, radius, radius, radius), mode="replicate")
    planes = F.conv2d(F.conv2d(planes, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))
    return planes.view(frames_TCHW.shape)


def shrink(frames_TCHW: Tensor, height: int, width: int, kernel: Kernel) -> Tensor:
    """Scale down with one of the usual kernels, antialiased."""
    if kernel == "area":
        return F.interpolate(frames_TCHW, (height, width), mode="area")
    return F.interpolate(frames_TCHW, (height, width), mode=kernel, antialias=True, align_corners=False)


def enlarge(frames_TCHW: Tensor, height: int, width: int) -> Tensor:
    """Scale up as the restorer does before the network sees a frame: bicubic, antialiased, clamped."""
    return F.interpolate(frames_TCHW, (height, width), mode="bicubic", antialias=True, align_corners=False).clamp_(0, 1)


def to_bytes(frames_TCHW: Tensor) -> Tensor:
    """Round 0..1 to uint8 codes."""
    return frames_TCHW.clamp(0, 1).mul(255).round().to(torch.uint8)


def compress_jpeg(frames_TCHW: Tensor, quality: int) -> Tensor:
    """Send every frame of uint8 codes through JPEG by itself, chroma halved as usual."""
    decoded = []
    for frame_CHW in frames_TCHW:
        stream = io.BytesIO()
        Image.fromarray(frame_CHW.permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=quality)
        decoded.append(torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1))
    return torch.stack(decoded)


def compress_h264(frames_TCHW: Tensor, crf: int) -> Tensor:
    """Send a clip of uint8 codes with even sides through H.264, 4:2:0."""
    height, width = frames_TCHW.shape[2:]
    stream = io.BytesIO()
    # Else x264 chooses differently from run to run with AVX-512, and a data set could not be made twice.
    options = {"crf": str(crf), "preset": "veryfast", "x264-params": "cpu-independent=1"}
    with av.open(stream, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=Fraction(25), options=options)
        video.width, video.height, video.pix_fmt, video.thread_count = width, height, "yuv420p", 1
        for frame_CHW in frames_TCHW:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_CHW.permute(1, 2, 0).numpy()), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
    stream.seek(0)
    with av.open(stream, "r") as source:
        decoded = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in source.decode(video=0)]
    return torch.stack(decoded).permute(0, 3, 1, 2).contiguous()


def _add_noise(frames_TCHW: Tensor, sigma: float, generator: torch.Generator, *, grey: bool) -> Tensor:
    shape = list(frames_TCHW.shape)
    if grey:
        shape[1] = 1
    return frames_TCHW + torch.randn(shape, generator=generator) * (sigma / 255)


def degrade(clean_TCHW: Tensor, recipe: Degradation) -> Tensor:
    """Spoil a clip as the recipe says.

    Args:
        clean_TCHW: 0..1, sides divisible by twice the scale.

    Returns:
        uint8 codes, ``recipe.scale`` times smaller.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    height, width = (side // recipe.scale for side in clean_TCHW.shape[2:])
    frames = gaussian_blur(clean_TCHW, recipe.blur) if recipe.blur > 0 else clean_TCHW
    if recipe.first_share < 1.0:
        middle = [max(2, round(side * recipe.first_share)) for side in clean_TCHW.shape[2:]]
        frames = shrink(frames, middle[0], middle[1], recipe.first_kernel)
    if recipe.first_noise > 0:
        frames = _add_noise(frames, recipe.first_noise, generator, grey=False)
    if recipe.first_jpeg:
        frames = compress_jpeg(to_bytes(frames), recipe.first_jpeg).float() / 255
    frames = shrink(frames, height, width, recipe.kernel)
    if recipe.noise > 0:
        frames = _add_noise(frames, recipe.noise, generator, grey=recipe.grey_noise)
    codes = to_bytes(frames)
    if recipe.jpeg:
        codes = compress_jpeg(codes, recipe.jpeg)
    if recipe.h264_crf >= 0:
        codes = compress_h264(codes, recipe.h264_crf)
    return codes
