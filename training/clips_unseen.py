"""The clips that ``nano`` is judged by: photographs and seeds that training never saw.

Shape letters: T frames, C channels, H height, W width.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from training.canvases import Canvas, dead_leaves, noise_texture, text_page
from training.clips import Motion, render, to_planes
from training.degradation import Degradation
from training.photographs import load_photograph

HEIGHT, WIDTH, NUM_FRAMES = 128, 160, 5
_SEED = 7_000_001


@dataclass(frozen=True, slots=True)
class UnseenClip:
    """A clean clip with a name."""

    name: str
    frames_TCHW: Tensor
    """0..1."""


def draw_unseen_clips() -> list[UnseenClip]:
    """Render the clips: five photographs under different motions, and four generated scenes."""
    scenes: list[tuple[str, Canvas, Motion]] = [
        ("cat, slow pan", load_photograph("chelsea.png"), _motion(150, 220, pan=(0.4, 1.3), zoom=0.9)),
        ("rocket, zoom in", load_photograph("rocket.jpg"), _motion(200, 320, zoom=0.95, zoom_rate=0.99)),
        ("photographer, fast pan", load_photograph("camera.png"), _motion(200, 250, pan=(0.0, 4.5), zoom=0.9)),
        ("grass, still", load_photograph("grass.png"), _motion(250, 250, zoom=0.8)),
        ("coins, turning", load_photograph("coins.png"), _motion(150, 190, zoom=0.8, turn_rate=0.01)),
        ("dead leaves, pan", _generated(dead_leaves, 0), _motion(220, 220, pan=(1.7, -2.2), zoom=0.9)),
        ("dead leaves, zoom out", _generated(dead_leaves, 1), _motion(220, 220, zoom=0.8, zoom_rate=1.01)),
        ("text, slow scroll", _generated(text_page, 2), _motion(220, 220, pan=(0.6, 0.0), zoom=0.9)),
        ("clouds, drifting", _generated(noise_texture, 3), _motion(220, 220, pan=(0.3, 0.8), zoom=1.0)),
    ]
    return [
        UnseenClip(
            name,
            render(to_planes(canvas), motion, height=HEIGHT, width=WIDTH, num_frames=NUM_FRAMES).clamp(0, 1),
        )
        for name, canvas, motion in scenes
    ]


CONDITIONS: dict[str, Degradation] = {
    "x2 moderate: noise 4, JPEG 60": Degradation(scale=2, blur=0.5, noise=4, jpeg=60, seed=_SEED),
    "x2 moderate: noise 3, H.264": Degradation(scale=2, blur=0.5, noise=3, h264_crf=25, seed=_SEED),
    "x4 moderate: noise 3, JPEG 60": Degradation(scale=4, blur=0.5, noise=3, jpeg=60, seed=_SEED),
    "x2 clean": Degradation(scale=2),
    "x4 clean": Degradation(scale=4),
}
"""What each clip is spoilt by."""


def _motion(
    y: float,
    x: float,
    *,
    pan: tuple[float, float] = (0.0, 0.0),
    zoom: float,
    zoom_rate: float = 1.0,
    turn_rate: float = 0.0,
) -> Motion:
    return Motion(centre_yx=(y, x), velocity_yx=pan, zoom=zoom, zoom_rate=zoom_rate, angle=0.0, turn_rate=turn_rate)


def _generated(draw: object, number: int) -> Canvas:
    assert callable(draw)
    canvas: Canvas = draw(np.random.default_rng((_SEED, number)), 448)
    return canvas
