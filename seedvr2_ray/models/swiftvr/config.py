"""The released SwiftVR networks as constants: facts about a checkpoint, not knobs."""

from dataclasses import dataclass

from seedvr2_ray.errors import SettingsError

TIME_STRIDE = 4
"""Frames per latent."""
SPACE_STRIDE = 16
"""Pixels per latent, along height and along width."""
NUM_LEADING_FRAMES = TIME_STRIDE - 1
"""Decoded frames at the start of a stream that stand for nothing, and frames the codec looks ahead."""
TIMESTEP = 1000.0
"""The only one the model is ever asked for: there, the degraded latent is the flow's starting point."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerConfig:
    """The shape of the transformer; topology and names are Wan2.2-TI2V-5B's in the layout of diffusers."""

    num_layers: int
    num_heads: int
    head_dim: int
    ffn_width: int
    text_dim: int
    prompt_tokens: int
    """Of the stored prompt, its padding included."""
    time_channels: int
    """Cosines and sines that describe the timestep."""
    latent_channels: int
    window: tuple[int, int]
    """Height and width of an attention window in tokens; in time it spans the chunk."""
    patch: int = 2
    """Latent pixels per token along height and width; time is not patched."""
    norm_eps: float = 1e-6

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_heads * self.head_dim


@dataclass(frozen=True, kw_only=True, slots=True)
class ReAEConfig:
    """The shape of the autoencoder; its topology is TAEHV's."""

    latent_channels: int
    encoder_width: int
    decoder_widths: tuple[int, int, int, int]
    """At 1/16, 1/8, 1/4 and 1/2 of the picture's size."""
    patch: int = 2
    """Side of the squares of pixels that become channels before anything else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SwiftVRConfig:
    """One released model, and how its chunks are cut."""

    transformer: TransformerConfig
    reae: ReAEConfig
    clip_frames: int = 24
    """Frames of a chunk in the middle of a stream; the first takes four more."""
    overlap: int = 0
    """Latents of the chunk before that the transformer sees again in front of a middle chunk."""

    def __post_init__(self) -> None:
        if self.clip_frames < TIME_STRIDE or self.clip_frames % TIME_STRIDE:
            raise SettingsError(f"clip_frames must be a positive multiple of {TIME_STRIDE}, got {self.clip_frames}")
        if not 0 <= self.overlap <= self.clip_latents:
            raise SettingsError(
                f"overlap must lie in 0..{self.clip_latents} latents for {self.clip_frames} frames, got {self.overlap}"
            )

    @property
    def clip_latents(self) -> int:
        """Latents of a chunk in the middle of a stream."""
        return self.clip_frames // TIME_STRIDE

    @property
    def multiple(self) -> int:
        """Pixels that padded sides are multiples of."""
        return SPACE_STRIDE * self.transformer.patch


SWIFTVR = SwiftVRConfig(
    transformer=TransformerConfig(
        num_layers=30,
        num_heads=24,
        head_dim=128,
        ffn_width=14336,
        text_dim=4096,
        prompt_tokens=512,
        time_channels=256,
        latent_channels=48,
        window=(16, 16),
    ),
    reae=ReAEConfig(latent_channels=48, encoder_width=64, decoder_widths=(512, 256, 128, 64)),
)
