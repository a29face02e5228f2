"""The shape of a causal video VAE, and the exact ways to run it faster or smaller."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # whoever only plans loads no torch
    from seedvr2_ray.models.seedvr2.vae.ranks.rows import RowShares


@dataclass(frozen=True, kw_only=True, slots=True)
class VAEConfig:
    """Facts about a checkpoint: whatever changes a name or a shape in its state dict, or its numbers."""

    block_out_channels: tuple[int, ...]
    """Width of each level from full resolution down; every further level halves height and width."""
    encoder_layers_per_block: int = 2
    """Residual blocks per encoder level; the decoder has one more."""
    latent_channels: int = 16
    num_temporal_stages: int = 2
    """How many of the halvings also halve time: the last ones of the encoder, the first ones of the decoder."""
    norm_groups: int = 32
    norm_eps: float = 1e-6
    mid_attention: bool = True
    """Whether the lowest level lets every position of a frame attend to all others."""
    is_light: bool = False
    """Whether work is only done where it costs little. The encoder has no residual blocks and looks at single
    pixels before it halves. Frames see earlier ones where time is halved, in the decoder's first convolution
    and in the first ones of its middle. What halves or doubles changes the width at once, and doubling does not
    smooth; so a decoder level at which the width changes has one residual block less."""
    scaling_factor: float = 0.9152
    """The transformer sees ``(latent - shift) * scaling_factor``."""
    shift: float = 0.0
    image_channels: int = 3

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        if levels < 1 or not 0 <= self.num_temporal_stages < max(levels, 1):
            raise ValueError(
                f"{self.num_temporal_stages} temporal stages need more levels than that, got {levels}: "
                "each stage belongs to one of the levels' halvings"
            )
        unfit = [width for width in self.block_out_channels if width % self.norm_groups]
        if unfit:
            raise ValueError(f"widths {unfit} cannot be divided into {self.norm_groups} norm groups")

    @property
    def taps(self) -> int:
        """Frames that a convolution sees, apart from those that see earlier ones in a light network."""
        return 1 if self.is_light else 3

    def encoder_inputs(self, level: int) -> list[int]:
        """Return the width that comes into each residual block of an encoder level."""
        if self.is_light:
            return []
        widths = self.block_out_channels
        return [widths[max(level - 1, 0)], *[widths[level]] * (self.encoder_layers_per_block - 1)]

    def decoder_inputs(self, level: int) -> list[int]:
        """Return the width that comes into each residual block of a decoder level, counted from the latents up."""
        widths = self.block_out_channels[::-1]
        before, own = widths[max(level - 1, 0)], widths[level]
        first = [own] * (level == 0) if self.is_light else [before]
        return [*first, *[own] * self.encoder_layers_per_block]

    def width_after(self, widths: tuple[int, ...], level: int) -> int:
        """Return the width on leaving a level, of those given in the order in which they come."""
        return widths[level + 1] if self.is_light else widths[level]

    @property
    def num_levels(self) -> int:
        return len(self.block_out_channels)

    @property
    def spatial_stride(self) -> int:
        """Pixels of height, and of width, per latent."""
        return 1 << (self.num_levels - 1)

    @property
    def temporal_stride(self) -> int:
        """Frames per latent after the first, which is a latent of its own."""
        return 1 << self.num_temporal_stages

    def downsamples_time(self, level: int) -> bool:
        """Whether the encoder halves time on leaving this level."""
        return self.num_levels - 1 - self.num_temporal_stages <= level < self.num_levels - 1

    def upsamples_time(self, level: int) -> bool:
        """Whether the decoder doubles time on leaving this level, counted from the latents up."""
        return level < self.num_temporal_stages

    def num_latents(self, num_frames: int) -> int:
        """Latents of a clip of ``n * temporal_stride + 1`` frames."""
        return (num_frames - 1) // self.temporal_stride + 1

    def num_frames(self, num_latents: int) -> int:
        """Frames that so many latents are decoded to."""
        return (num_latents - 1) * self.temporal_stride + 1


SEEDVR2_VAE = VAEConfig(block_out_channels=(128, 256, 512, 512))


@dataclass(frozen=True, kw_only=True, slots=True)
class VAEOptions:
    """Ways of computing the same numbers. The defaults follow the equations literally.

    Each switch gives the plain path's result up to rounding; the tests compare them one by one.
    All but the plain ones are for inference: a pass that would record gradients is refused.
    """

    channels_last: bool = False
    """Keep weights and activations with channels innermost, the layout tensor cores read."""
    direct_norm: bool = False
    """Write norm and activation straight behind the cached frames that the next convolution reads."""
    fused_upsampler: bool = False
    """Multiply the upsampler's two convolutions into one transposed convolution: a fifth of the decoder's work."""
    image_conv2d: bool = False
    """Fold the three equal frames that a single image is convolved with into one 2-D convolution."""
    fp32_output: bool = False
    """Compute the last convolution in fp32; bf16 steps are half an 8-bit code near white."""
    attention_scores: int | None = None
    """Most query-key products at once per frame; None leaves it to the attention kernel."""
    frames_in_flight: int | None = None
    """Frames per step at the levels of full temporal resolution; None takes the whole slice."""
    conv_elements: int | None = None
    """Most elements of a convolution's input or output. What is larger is done in bands of rows, whole blocks at a
    time (:mod:`~seedvr2_ray.models.seedvr2.vae.bands`); None does not cut."""

    rows: "RowShares | None" = None
    """Which rows of frames are here, where other devices hold the others; None where frames are whole."""

    def __post_init__(self) -> None:
        for name in ("attention_scores", "frames_in_flight", "conv_elements"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


PLAIN = VAEOptions()
FAST = VAEOptions(
    channels_last=True,
    direct_norm=True,
    fused_upsampler=True,
    image_conv2d=True,
    fp32_output=True,
    attention_scores=2**27,
    conv_elements=2**29,
)
"""What to run on a GPU when memory is no concern; fewer ``frames_in_flight`` and ``conv_elements`` when it is."""
FAST_ON_CPU = VAEOptions(channels_last=True, direct_norm=True, image_conv2d=True, frames_in_flight=4)
"""What to run on a CPU. Its transposed convolutions are slower than the two that a fused upsampler saves."""


def fastest_options(device_type: str) -> VAEOptions:
    """Return the fastest way that leaves memory out of account, for ``cpu`` or ``cuda``."""
    return FAST_ON_CPU if device_type == "cpu" else FAST
