"""What encoding and decoding cost, counted from a config: arithmetic and remembered bytes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from seedvr2_ray.models.seedvr2.vae.config import VAEConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class VAEFlops:
    """Floating-point operations, two for every multiplication with its addition."""

    encode: float
    decode: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvCost:
    """One convolution as a share of the clip's pixels and frames."""

    macs: int
    """Multiplications with addition per output position."""
    outputs_per_pixel: float
    """Output positions per pixel of a frame that the layer sees."""
    frame_stride: int
    """Frames of the clip per frame that the layer sees."""
    remembered_values: float = 0.0
    """Values kept for the next slice, per pixel of the clip's frames."""

    @property
    def first_frame_macs(self) -> float:
        """Per pixel, for the clip's first frame, which is a frame at every level."""
        return self.macs * self.outputs_per_pixel

    @property
    def steady_macs(self) -> float:
        """Per pixel and further frame of the clip."""
        return self.first_frame_macs / self.frame_stride


def vae_flops(config: VAEConfig, frames: int, height: int, width: int, *, fused_upsampler: bool = False) -> VAEFlops:
    """Count a clip's arithmetic; norms and activations are left out.

    Args:
        config: the network.
        frames: ``n * temporal_stride + 1``.
        height, width: of a frame in pixels.
        fused_upsampler: count the decoder with :attr:`VAEOptions.fused_upsampler`. The two
            low-resolution frames that open a clip are counted like all others.
    """
    attention = config.num_latents(frames) * _attention_macs(config, height, width)
    totals = []
    for convs in (encoder_convs(config), decoder_convs(config, fused_upsampler=fused_upsampler)):
        per_pixel = sum(conv.first_frame_macs + (frames - 1) * conv.steady_macs for conv in convs)
        totals.append(2.0 * (height * width * per_pixel + attention))
    return VAEFlops(encode=totals[0], decode=totals[1])


def encoder_cache_bytes_per_pixel(config: VAEConfig, element_size: int) -> float:
    """Bytes of the encoder's state per pixel of a frame."""
    return element_size * sum(conv.remembered_values for conv in encoder_convs(config))


def decoder_cache_bytes_per_pixel(config: VAEConfig, element_size: int, *, fused_upsampler: bool = False) -> float:
    """Bytes of the decoder's state per pixel of a frame."""
    convs = decoder_convs(config, fused_upsampler=fused_upsampler)
    return element_size * sum(conv.remembered_values for conv in convs)


def _attention_macs(config: VAEConfig, height: int, width: int) -> float:
    if not config.mid_attention:
        return 0.0
    positions = (height // config.spatial_stride) * (width // config.spatial_stride)
    channels = config.block_out_channels[-1]
    return 4 * positions * channels**2 + 2 * positions**2 * channels


def _conv(before: int, after: int, shrink: int, frame_stride: int, taps: int = 3) -> ConvCost:
    """A convolution of so many frames and 3 x 3 pixels at a level ``shrink`` times smaller along height and width."""
    return ConvCost(
        macs=before * after * 9 * taps,
        outputs_per_pixel=1 / shrink**2,
        frame_stride=frame_stride,
        remembered_values=(taps - 1) * before / shrink**2,
    )


def _resnets(
    inputs: Sequence[int], width: int, shrink: int, frame_stride: int, taps: tuple[int, int]
) -> Iterator[ConvCost]:
    for channels_in in inputs:
        yield _conv(channels_in, width, shrink, frame_stride, taps[0])
        yield _conv(width, width, shrink, frame_stride, taps[1])
        if channels_in != width:
            yield ConvCost(macs=channels_in * width, outputs_per_pixel=1 / shrink**2, frame_stride=frame_stride)


def encoder_convs(config: VAEConfig) -> Iterator[ConvCost]:
    """The encoder's convolutions in the order in which they run."""
    widths, shrink, frame_stride, taps = config.block_out_channels, 1, 1, (config.taps, config.taps)
    if config.is_light:
        yield ConvCost(macs=config.image_channels * widths[0], outputs_per_pixel=1.0, frame_stride=1)
    else:
        yield _conv(config.image_channels, widths[0], shrink, frame_stride)
    for level, width in enumerate(widths):
        yield from _resnets(config.encoder_inputs(level), width, shrink, frame_stride, taps)
        if level < config.num_levels - 1:
            time = config.downsamples_time(level)
            remembered = width / shrink**2 if time else 0.0
            shrink, frame_stride = shrink * 2, frame_stride * (2 if time else 1)
            yield ConvCost(
                macs=width * config.width_after(widths, level) * (27 if time else 9),
                outputs_per_pixel=1 / shrink**2,
                frame_stride=frame_stride,
                remembered_values=remembered,
            )
    if not config.is_light:
        yield from _resnets([widths[-1]] * 2, widths[-1], shrink, frame_stride, taps)
    yield _conv(widths[-1], 2 * config.latent_channels, shrink, frame_stride, config.taps)


def decoder_convs(config: VAEConfig, *, fused_upsampler: bool = False) -> Iterator[ConvCost]:
    """The decoder's convolutions in the order in which they run."""
    widths, shrink, frame_stride = config.block_out_channels[::-1], config.spatial_stride, config.temporal_stride
    yield _conv(config.latent_channels, widths[0], shrink, frame_stride)
    yield from _resnets([widths[0]] * 2, widths[0], shrink, frame_stride, (3, config.taps))
    for level, width in enumerate(widths):
        yield from _resnets(config.decoder_inputs(level), width, shrink, frame_stride, (config.taps, config.taps))
        if level < config.num_levels - 1:
            time_factor = 2 if config.upsamples_time(level) else 1
            if config.is_light:
                macs = 4 * time_factor * width * config.width_after(widths, level)
                yield ConvCost(macs=macs, outputs_per_pixel=1 / shrink**2, frame_stride=frame_stride)
            else:
                yield from _upsampler(width, time_factor, shrink, frame_stride, fused=fused_upsampler)
            shrink, frame_stride = shrink // 2, frame_stride // time_factor
    yield _conv(widths[-1], config.image_channels, shrink, frame_stride, config.taps)


def _upsampler(width: int, time_factor: int, shrink: int, frame_stride: int, *, fused: bool) -> Iterator[ConvCost]:
    if fused:
        # Two taps per doubled axis, three along a time that stays.
        taps = 4 * (2 if time_factor == 2 else 3)
        yield ConvCost(
            macs=width * width * taps * 4 * time_factor,
            outputs_per_pixel=1 / shrink**2,
            frame_stride=frame_stride,
            remembered_values=(3 - time_factor) * width / shrink**2,
        )
        return
    yield ConvCost(macs=4 * time_factor * width * width, outputs_per_pixel=1 / shrink**2, frame_stride=frame_stride)
    yield _conv(width, width, shrink // 2, frame_stride // time_factor)
