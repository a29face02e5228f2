"""The released diffusion transformers as constants: facts about checkpoints, not knobs."""

from dataclasses import dataclass
from typing import Literal

from seedvr2_ray.models.seedvr2.vae.config import VAEConfig

TIME_CHANNELS = 256
"""Sines and cosines that describe a timestep."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowGrid:
    """How large attention windows are. The shape follows the picture's, the number of tokens does not."""

    counts: tuple[int, int, int] = (4, 3, 3)
    """Into how many windows (time, height, width) the reference picture is cut."""
    reference_tokens: int = 45 * 80
    """Patched tokens of the reference picture, 1280x720 for the released models. A picture is
    scaled to this area in thought, cut into ``counts``, and the cuts keep that size at its true one."""
    max_frames: int = 30
    """Latent frames after which windows stop growing in time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiTConfig:
    """The shape of one transformer."""

    width: int
    num_layers: int
    num_heads: int
    mlp: Literal["swiglu", "gelu"]
    rope: Literal["video_and_text", "video"]
    """Which queries and keys are rotated. With "video" text tokens have no position, and a window's
    positions are stretched to [-1, 1]; with "video_and_text" they are integers and time continues the text."""
    num_dual_layers: int
    """Leading layers with separate video and text weights; the rest share one set."""
    has_output_modulation: bool
    """Whether a normalisation and a last modulation stand before the output projection."""
    modulates_last_text: bool
    """Whether the last layer treats text like every other layer. Without it the text enters that
    layer's attention unmodulated, and has no gate and no MLP there."""
    head_dim: int = 128
    text_dim: int = 5120
    latent_channels: int = 16
    patch: int = 2
    """Latent pixels per token along height and width; time is not patched."""
    windows: WindowGrid = WindowGrid()
    norm_eps: float = 1e-5

    @property
    def in_channels(self) -> int:
        """Noisy latent, condition latent and a mask that says where the condition holds."""
        return 2 * self.latent_channels + 1

    @property
    def inner_width(self) -> int:
        """Channels of all heads together; need not equal the width."""
        return self.num_heads * self.head_dim

    @property
    def mlp_width(self) -> int:
        """Hidden channels: 4 D, or for the gated form two thirds of it rounded up to a multiple of 256."""
        if self.mlp == "gelu":
            return 4 * self.width
        return -(-(2 * 4 * self.width // 3) // 256) * 256

    def has_dual_weights(self, layer: int) -> bool:
        """Whether a layer keeps video and text weights apart."""
        return layer < self.num_dual_layers

    def patched(self, size_THW: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the token grid of a latent clip.

        Raises:
            ValueError: the clip is empty or its sides are not multiples of the patch.
        """
        frames, height, width = size_THW
        if min(size_THW) < 1 or height % self.patch or width % self.patch:
            raise ValueError(
                f"a latent clip of {frames}x{height}x{width} (frames, height, width) cannot be cut into patches of "
                f"{self.patch}x{self.patch}; pad the picture until its latent sides are multiples of the patch"
            )
        return frames, height // self.patch, width // self.patch


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedVR2Config:
    """Both networks of one model, and how its pictures are to be filled up."""

    transformer: DiTConfig
    vae: VAEConfig
    anchor_rows: int = 16
    """Black rows the model wants below the picture for a tone anchor; see :mod:`restoration.diffusion.padding`."""


SEEDVR2_3B = DiTConfig(
    width=2560,
    num_layers=32,
    num_heads=20,
    mlp="swiglu",
    rope="video_and_text",
    num_dual_layers=10,
    has_output_modulation=True,
    modulates_last_text=False,
)

SEEDVR2_7B = DiTConfig(
    width=3072,
    num_layers=36,
    num_heads=24,
    mlp="gelu",
    rope="video",
    num_dual_layers=36,
    has_output_modulation=False,
    modulates_last_text=True,
)
