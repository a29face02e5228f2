"""Still pictures made from nothing: dead leaves, text, gradients and fields of noise.

Natural pictures have edges at every scale because things occlude each other. Dead leaves, shapes
whose sizes follow a power law and that fall on top of each other, have the same statistics and
no licence. Every canvas is drawn at twice its size and averaged, so its edges are antialiased.
"""

import string

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Canvas = NDArray[np.uint8]
"""H x W x 3."""

SUPERSAMPLING = 2


def power_noise(rng: np.random.Generator, size: int, exponent: float) -> NDArray[np.float32]:
    """Draw a noise field whose amplitude falls as frequency to the minus ``exponent``, scaled to 0..1."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    amplitude = np.maximum(np.hypot(fy, fx), 1.0 / size) ** -exponent
    amplitude[0, 0] = 0.0
    phase = rng.standard_normal(amplitude.shape) + 1j * rng.standard_normal(amplitude.shape)
    field = np.fft.irfft2(amplitude * phase, s=(size, size))
    low, high = np.percentile(field, (1, 99))
    scaled: NDArray[np.float32] = np.clip((field - low) / max(high - low, 1e-9), 0.0, 1.0).astype(np.float32)
    return scaled


def random_colour(rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a colour the way things are coloured: any brightness, mostly muted, now and then vivid."""
    level = rng.uniform(15, 240)
    spread = rng.choice([8.0, 25.0, 70.0], p=[0.35, 0.45, 0.2])
    return np.clip(level + rng.normal(0, spread, 3), 0, 255).astype(np.float32)


def noise_texture(rng: np.random.Generator, size: int) -> Canvas:
    """Blend two colours by power-law noise: plaster, clouds, bark, fabric."""
    blend = power_noise(rng, size, rng.uniform(0.6, 2.0))[..., None]
    first, second = random_colour(rng), random_colour(rng)
    contrast = rng.uniform(0.15, 1.0)
    texture: Canvas = np.clip(first + (second - first) * blend * contrast, 0, 255).astype(np.uint8)
    return texture


def striped_texture(rng: np.random.Generator, size: int) -> Canvas:
    """Draw soft stripes or a grid at any angle: blinds, planks, weave, tiles."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    wave = np.ones((size, size), np.float32)
    for _ in range(rng.integers(1, 3)):
        angle, period = rng.uniform(0, np.pi), rng.uniform(7, 60)
        steep = rng.uniform(1, 8)
        phase = 2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period
        wave = wave * (0.5 + 0.5 * np.tanh(steep * np.sin(phase + rng.uniform(0, 6))))
    first, second = random_colour(rng), random_colour(rng)
    striped: Canvas = (first + (second - first) * wave[..., None]).clip(0, 255).astype(np.uint8)
    return striped


def gradient(rng: np.random.Generator, size: int) -> Canvas:
    """Blend four corner colours: sky, walls, screens, where banding and noise are seen first."""
    corners = np.stack([random_colour(rng) for _ in range(4)]).reshape(2, 2, 3)
    t = np.linspace(0, 1, size, dtype=np.float32)
    left = corners[0, 0] * (1 - t[:, None]) + corners[1, 0] * t[:, None]
    right = corners[0, 1] * (1 - t[:, None]) + corners[1, 1] * t[:, None]
    field = left[:, None] * (1 - t[None, :, None]) + right[:, None] * t[None, :, None]
    blended: Canvas = field.clip(0, 255).astype(np.uint8)
    return blended


def _leaf_mask(rng: np.random.Generator, radius: int) -> Image.Image:
    side = 2 * radius + 1
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    kind = rng.integers(4)
    if kind == 0:
        draw.ellipse((0, 0, side - 1, side - 1), fill=255)
    elif kind == 1:
        squeeze = int(radius * rng.uniform(0.2, 0.8))
        draw.ellipse((0, squeeze, side - 1, side - 1 - squeeze), fill=255)
    elif kind == 2:
        squeeze = int(radius * rng.uniform(0.3, 0.95))
        draw.rectangle((0, squeeze, side - 1, side - 1 - squeeze), fill=255)
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        reach = radius * rng.uniform(0.5, 1.0, len(angles))
        points = [(radius + r * np.cos(a), radius + r * np.sin(a)) for r, a in zip(reach, angles, strict=True)]
        draw.polygon(points, fill=255)
    return mask if kind == 0 else mask.rotate(rng.uniform(0, 180), resample=Image.Resampling.BILINEAR)


def dead_leaves(rng: np.random.Generator, size: int) -> Canvas:
    """Let textured shapes fall on each other until the canvas is covered, sizes by a power law."""
    full = size * SUPERSAMPLING
    textures = [
        Image.fromarray((noise_texture, striped_texture, gradient)[int(rng.integers(3))](rng, 256)) for _ in range(14)
    ]
    canvas = Image.fromarray(gradient(rng, full))
    smallest, largest = rng.uniform(4.0, 24.0), full * 0.3
    # Inverse transform of p(r) ~ r^-3 between the two bounds. Unsorted, as in nature: small ones get covered.
    uniform = rng.random(int(60_000 / smallest**1.5))
    radii = (smallest**-2 + uniform * (largest**-2 - smallest**-2)) ** -0.5
    for radius in radii.astype(int):
        mask = _leaf_mask(rng, radius)
        if rng.random() < 0.5:
            leaf = Image.new("RGB", mask.size, tuple(int(c) for c in random_colour(rng)))
        else:
            leaf = textures[rng.integers(len(textures))].resize(
                mask.size, box=_random_box(rng, mask.size[0], 256), resample=Image.Resampling.BILINEAR
            )
        corner = rng.integers(-radius, full - radius, 2)
        canvas.paste(leaf, (int(corner[0]), int(corner[1])), mask)
    return _average(canvas, size)


def _random_box(rng: np.random.Generator, side: int, limit: int) -> tuple[float, float, float, float]:
    side = min(side, limit)
    left, top = rng.uniform(0, limit - side + 1e-6, 2)
    return (left, top, left + side, top + side)


def text_page(rng: np.random.Generator, size: int) -> Canvas:
    """Set random words in several sizes and directions on a plain or textured ground."""
    full = size * SUPERSAMPLING
    ground = (gradient if rng.random() < 0.6 else noise_texture)(rng, full)
    canvas = Image.fromarray(ground)
    letters = np.array(list(string.ascii_letters + string.digits + ".,:;!?&%$()-+=/"))
    for _ in range(int(rng.integers(10, 40))):
        size_pixels = float(rng.choice([20, 26, 34, 48, 70, 110]))
        font = ImageFont.load_default(size=size_pixels)
        words = " ".join("".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(rng.integers(1, 7)))
        mask = Image.new("L", (int(font.getlength(words)) + 8, int(size_pixels * 1.4)), 0)
        ImageDraw.Draw(mask).text((4, 2), words, fill=255, font=font)
        if rng.random() < 0.3:
            mask = mask.rotate(rng.uniform(-90, 90), expand=True, resample=Image.Resampling.BICUBIC)
        corner = rng.integers(-20, full - 20, 2)
        colour = tuple(int(c) for c in random_colour(rng))
        canvas.paste(Image.new("RGB", mask.size, colour), (int(corner[0]), int(corner[1])), mask)
    return _average(canvas, size)


def _average(canvas: Image.Image, size: int) -> Canvas:
    return np.asarray(canvas.resize((size, size), resample=Image.Resampling.BOX))


def draw_canvas(rng: np.random.Generator, size: int) -> Canvas:
    """Draw one canvas of a random kind; dead leaves twice in three, as they look most like the world."""
    kind = rng.choice(["leaves", "text", "noise"], p=[0.68, 0.22, 0.1])
    if kind == "leaves":
        return dead_leaves(rng, size)
    return text_page(rng, size) if kind == "text" else noise_texture(rng, size)
