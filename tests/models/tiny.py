"""The smallest networks with every kind of layer the released ones have, for tests that only need some."""

from seedvr2_ray.models.seedvr2.config import DiTConfig
from seedvr2_ray.models.seedvr2.vae.config import VAEConfig

DIT = DiTConfig(
    width=8,
    num_layers=2,
    num_heads=1,
    head_dim=12,
    mlp="swiglu",
    rope="video_and_text",
    num_dual_layers=1,
    has_output_modulation=True,
    modulates_last_text=False,
    text_dim=6,
)
VAE = VAEConfig(block_out_channels=(4, 4), norm_groups=2, num_temporal_stages=1, encoder_layers_per_block=1)
