"""How much arithmetic a forward pass asks for; a multiplication with an addition counts as two."""

from seedvr2_ray.models.seedvr2.config import TIME_CHANNELS, DiTConfig
from seedvr2_ray.models.seedvr2.transformer.windows import plan_windows


def count_flops(config: DiTConfig, video_sizes: tuple[tuple[int, int, int], ...], text_lengths: tuple[int, ...]) -> int:
    """Count the operations of one forward pass, the unit of TFLOP/s and of model FLOP utilisation.

    Counts what the architecture defines: also the few text operations of the last layer that are
    skipped here because nothing reads them.

    Args:
        video_sizes: latent (T, H, W) of every sample.
    """
    width, inner = config.width, config.inner_width
    mlp = (3 if config.mlp == "swiglu" else 2) * width * config.mlp_width
    per_token = 2 * (4 * width * inner + mlp)
    patch_in = config.patch**2 * config.in_channels
    patch_out = config.patch**2 * config.latent_channels
    total = 2 * len(video_sizes) * width * (TIME_CHANNELS + 7 * width)
    for size, text_length in zip(video_sizes, text_lengths, strict=True):
        grid = config.patched(size)
        tokens = grid[0] * grid[1] * grid[2]
        total += config.num_layers * per_token * (tokens + text_length)
        if not config.modulates_last_text:
            total -= 2 * text_length * mlp
        total += 2 * tokens * width * (patch_in + patch_out) + 2 * text_length * config.text_dim * width
        for layer in range(config.num_layers):
            windows = plan_windows(grid, config.windows, shifted=layer % 2 == 1)
            total += 4 * inner * sum((len(t) * len(y) * len(x) + text_length) ** 2 for t, y, x in windows.spans)
    return total
