"""Moving pictures from still ones: layers that pan, zoom and turn by fractions of a pixel.

Shape letters: T frames, C channels, H height, W width.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.canvases import Canvas, power_noise


@dataclass(frozen=True, kw_only=True, slots=True)
class Motion:
    """Where a layer's camera looks: a position and its change per frame, in pixels of the clip."""

    centre_yx: tuple[float, float]
    """Of the first frame, in pixels of the canvas."""
    velocity_yx: tuple[float, float]
    zoom: float
    """Canvas pixels per clip pixel in the first frame; below 1 enlarges."""
    zoom_rate: float
    """Factor per frame."""
    angle: float
    turn_rate: float
    """Radians per frame."""


def random_motion(rng: np.random.Generator, canvas: Canvas, *, size: int, num_frames: int) -> Motion:
    """Draw a motion that keeps the picture inside the canvas, or nearly so; one in five stands still."""
    height, width = canvas.shape[:2]
    zoom = float(rng.uniform(0.6, 1.05))
    moving = rng.random() > 0.2
    speed = float(rng.uniform(0.1, 5.0)) if moving else 0.0
    heading = rng.uniform(0, 2 * np.pi)
    margin = zoom * (size / 2 + speed * num_frames / 2)
    return Motion(
        centre_yx=(_inside(rng, margin, height), _inside(rng, margin, width)),
        velocity_yx=(speed * float(np.sin(heading)), speed * float(np.cos(heading))),
        zoom=zoom,
        zoom_rate=float(rng.uniform(0.985, 1.015)) if moving and rng.random() < 0.4 else 1.0,
        angle=float(rng.uniform(-0.4, 0.4)) if rng.random() < 0.3 else 0.0,
        turn_rate=float(rng.uniform(-0.012, 0.012)) if moving and rng.random() < 0.3 else 0.0,
    )


def _inside(rng: np.random.Generator, margin: float, extent: int) -> float:
    return float(rng.uniform(margin, extent - margin)) if extent > 2 * margin else extent / 2


def render(canvas_CHW: Tensor, motion: Motion, *, height: int, width: int, num_frames: int) -> Tensor:
    """Look at a canvas through a moving camera.

    Args:
        canvas_CHW: any number of channels, float.

    Returns:
        T x C x H x W by bicubic sampling; outside the canvas it is reflected.
    """
    canvas_height, canvas_width = canvas_CHW.shape[1:]
    t = torch.arange(num_frames) - (num_frames - 1) / 2
    zoom = motion.zoom * motion.zoom_rate**t
    angle = motion.angle + motion.turn_rate * t
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    centre_y = motion.centre_yx[0] + motion.velocity_yx[0] * motion.zoom * t
    centre_x = motion.centre_yx[1] + motion.velocity_yx[1] * motion.zoom * t
    y = (torch.arange(height) - (height - 1) / 2)[None, :, None]
    x = (torch.arange(width) - (width - 1) / 2)[None, None, :]
    source_y = centre_y[:, None, None] + sin[:, None, None] * x + cos[:, None, None] * y
    source_x = centre_x[:, None, None] + cos[:, None, None] * x - sin[:, None, None] * y
    grid = torch.stack(((2 * source_x + 1) / canvas_width - 1, (2 * source_y + 1) / canvas_height - 1), dim=-1)
    canvas = canvas_CHW[None].expand(num_frames, -1, -1, -1)
    return F.grid_sample(canvas, grid, mode="bicubic", padding_mode="reflection", align_corners=False)


def _layer_mask(rng: np.random.Generator, size: int) -> Tensor:
    """Draw an opaque blob with an antialiased edge, 1 x size x size in 0..1."""
    field = power_noise(rng, size, rng.uniform(1.6, 2.2))
    threshold = np.quantile(field, rng.uniform(0.55, 0.85))
    return torch.from_numpy(np.clip((field - threshold) * size / 8 + 0.5, 0, 1))[None]


def to_planes(canvas: Canvas) -> Tensor:
    """Turn an H x W x 3 picture into C x H x W in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(canvas.transpose(2, 0, 1))).float().div_(255)


def draw_clip(rng: np.random.Generator, canvases: list[Canvas], *, size: int, num_frames: int) -> Tensor:
    """Compose a clip of one to three layers that move on their own.

    Returns:
        T x 3 x size x size in 0..1.
    """
    background = canvases[rng.integers(len(canvases))]
    motion = random_motion(rng, background, size=size, num_frames=num_frames)
    clip = render(to_planes(background), motion, height=size, width=size, num_frames=num_frames)
    for _ in range(rng.choice([0, 1, 2], p=[0.6, 0.3, 0.1])):
        canvas = canvases[rng.integers(len(canvases))]
        layer = render(
            to_planes(canvas),
            random_motion(rng, canvas, size=size, num_frames=num_frames),
            height=size,
            width=size,
            num_frames=num_frames,
        )
        # The mask moves with a camera of its own: an occluder whose surface slides is rare but harmless.
        mask = _layer_mask(rng, 2 * size)
        blank = np.zeros((2 * size, 2 * size, 3), np.uint8)
        drift = random_motion(rng, blank, size=size, num_frames=num_frames)
        alpha = render(mask, drift, height=size, width=size, num_frames=num_frames).clamp(0, 1)
        clip = clip * (1 - alpha) + layer * alpha
    gain, offset = rng.uniform(0.8, 1.1), rng.uniform(-0.05, 0.05)
    return (clip * gain + offset).clamp(0, 1)
