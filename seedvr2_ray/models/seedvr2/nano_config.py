"""The shape of ``nano``: the same classes as the released models at a ten-thousandth of their work.

It shows the whole path on a machine without a GPU; it does not compete with 3B or 7B. Sizes follow
from one frame per second and CPU core at 640x360 (see ``docs/nano.md``).
"""

from seedvr2_ray.models.seedvr2.config import DiTConfig, WindowGrid
from seedvr2_ray.models.seedvr2.vae.config import VAEConfig

NANO_VAE = VAEConfig(
    block_out_channels=(16, 48),
    encoder_layers_per_block=1,
    latent_channels=16,
    num_temporal_stages=1,
    # One group, because the constant channels that hold a norm's scale steady must lie in each group.
    norm_groups=1,
    mid_attention=False,
    is_light=True,
    scaling_factor=1.0,
)

NANO_DIT = DiTConfig(
    width=128,
    num_layers=2,
    num_heads=4,
    head_dim=32,
    mlp="gelu",
    rope="video_and_text",
    num_dual_layers=0,
    has_output_modulation=False,
    modulates_last_text=True,
    text_dim=32,
    latent_channels=16,
    # Windows of 8 x 8 tokens of three latents at every size: those that training saw.
    windows=WindowGrid(counts=(1, 3, 3), reference_tokens=24 * 24, max_frames=3),
)
NANO_TEXT_TOKENS = 4
"""Length of the constant that stands in for a prompt."""
