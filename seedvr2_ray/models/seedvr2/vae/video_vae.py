"""The causal video VAE: frames to latents and back, slice by slice with what it remembers as a value.

Shapes: B clips, C channels, T frames or latents, H height, W width. Frames are RGB in -1..1.

A clip of ``n * temporal_stride + 1`` frames becomes n + 1 latents: the first frame alone, then one
latent per group. Encoding or decoding a clip in slices gives the numbers of the whole clip.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from seedvr2_ray.errors import InputError
from seedvr2_ray.models.seedvr2.vae.blocks import Downsampler, MidBlock, ResnetBlock
from seedvr2_ray.models.seedvr2.vae.config import PLAIN, VAEConfig, VAEOptions
from seedvr2_ray.models.seedvr2.vae.layers import CausalConv3d, FrameNorm
from seedvr2_ray.models.seedvr2.vae.state import SlicePass, VAEState
from seedvr2_ray.models.seedvr2.vae.steps import causal_step
from seedvr2_ray.models.seedvr2.vae.upsampler import LightUpsampler, Upsampler


@dataclass(frozen=True, slots=True)
class Posterior:
    """The encoder's answer: a normal distribution for every latent value."""

    mean_BCTHW: Tensor
    logvar_BCTHW: Tensor

    @classmethod
    def from_moments(cls, moments_BCTHW: Tensor) -> Self:
        """Split the encoder's output; the log variance is kept between -30 and 20."""
        mean_BCTHW, logvar_BCTHW = moments_BCTHW.chunk(2, dim=1)
        return cls(mean_BCTHW, logvar_BCTHW.clamp(-30.0, 20.0))

    @property
    def mode(self) -> Tensor:
        """The most likely latents: the default, because it does not depend on who drew random numbers."""
        return self.mean_BCTHW


class DownBlock(nn.Module):
    """One encoder level: residual blocks, then the halving to the next level."""

    def __init__(self, config: VAEConfig, level: int) -> None:
        super().__init__()
        widths = config.block_out_channels
        self.resnets = _build_resnets(config.encoder_inputs(level), widths[level], config)
        self.downsamplers = nn.ModuleList()
        if level < config.num_levels - 1:
            after, time = config.width_after(widths, level), config.downsamples_time(level)
            self.downsamplers.append(Downsampler(widths[level], after, time=time))

    def forward(self, x_BCTHW: Tensor, run: SlicePass) -> Tensor:
        for layer in _layers(self):
            x_BCTHW = layer(x_BCTHW, run)
        return x_BCTHW


class UpBlock(nn.Module):
    """One decoder level, counted from the latents up: residual blocks, then the doubling."""

    def __init__(self, config: VAEConfig, level: int) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        self.resnets = _build_resnets(config.decoder_inputs(level), widths[level], config)
        self.upsamplers = nn.ModuleList()
        if level < config.num_levels - 1:
            time = config.upsamples_time(level)
            if config.is_light:
                self.upsamplers.append(LightUpsampler(widths[level], config.width_after(widths, level), time=time))
            else:
                self.upsamplers.append(Upsampler(widths[level], time=time))

    def forward(self, x_BCTHW: Tensor, run: SlicePass) -> Tensor:
        for layer in _layers(self):
            x_BCTHW = layer(x_BCTHW, run)
        return x_BCTHW


def _layers(block: nn.Module) -> list[nn.Module]:
    """The parts of a level in order: called one by one, so that nothing keeps a level's input alive."""
    assert isinstance(block, DownBlock | UpBlock)
    return [*block.resnets, *(block.downsamplers if isinstance(block, DownBlock) else block.upsamplers)]


def _build_resnets(inputs: Sequence[int], width: int, config: VAEConfig) -> nn.ModuleList:
    groups, eps, taps = config.norm_groups, config.norm_eps, (config.taps, config.taps)
    return nn.ModuleList([ResnetBlock(before, width, groups, eps, taps=taps) for before in inputs])


class Encoder(nn.Module):
    """Frames to the moments of the posterior."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups, eps = config.block_out_channels, config.norm_groups, config.norm_eps
        if config.is_light:
            self.conv_in = CausalConv3d(config.image_channels, widths[0], (1, 1, 1), padding="none")
        else:
            self.conv_in = CausalConv3d(config.image_channels, widths[0])
        self.down_blocks = nn.ModuleList([DownBlock(config, level) for level in range(config.num_levels)])
        num_resnets = 0 if config.is_light else 2
        self.mid_block = MidBlock(widths[-1], groups, eps, attention=config.mid_attention, num_resnets=num_resnets)
        self.conv_norm_out = FrameNorm(widths[-1], groups, eps)
        self.conv_out = CausalConv3d(widths[-1], 2 * config.latent_channels, (config.taps, 3, 3))
        self.first_slow_level = config.num_levels - 1 - config.num_temporal_stages

    def forward(self, frames_BCTHW: Tensor, run: SlicePass) -> Tensor:
        """Return the moments; ``run`` says what came before and how to compute."""
        fast = [layer for block in self.down_blocks[: self.first_slow_level] for layer in _layers(block)]
        slow_block = self.down_blocks[self.first_slow_level]
        assert isinstance(slow_block, DownBlock)
        fast += slow_block.resnets
        slow = [*slow_block.downsamplers]
        slow += [layer for block in self.down_blocks[self.first_slow_level + 1 :] for layer in _layers(block)]

        def at_full_rate(x_BCTHW: Tensor) -> Tensor:
            x_BCTHW = causal_step(self.conv_in, x_BCTHW, run)
            for layer in fast:
                x_BCTHW = layer(x_BCTHW, run)
            return x_BCTHW

        x_BCTHW = run.in_steps(frames_BCTHW, run.options.frames_in_flight, at_full_rate)
        for layer in (*slow, *self.mid_block.layers()):
            x_BCTHW = layer(x_BCTHW, run)
        return causal_step(self.conv_out, x_BCTHW, run, self.conv_norm_out)


class Decoder(nn.Module):
    """Latents to frames."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups, eps = config.block_out_channels, config.norm_groups, config.norm_eps
        self.conv_in = CausalConv3d(config.latent_channels, widths[-1])
        self.mid_block = MidBlock(widths[-1], groups, eps, attention=config.mid_attention, taps=(3, config.taps))
        self.up_blocks = nn.ModuleList([UpBlock(config, level) for level in range(config.num_levels)])
        self.conv_norm_out = FrameNorm(widths[0], groups, eps)
        self.conv_out = CausalConv3d(widths[0], config.image_channels, (config.taps, 3, 3))
        self.first_fast_level = config.num_temporal_stages

    def forward(self, latents_BCTHW: Tensor, run: SlicePass) -> Tensor:
        """Return the frames; ``run`` says what came before and how to compute."""

        slow = [layer for block in self.up_blocks[: self.first_fast_level] for layer in _layers(block)]
        fast = [layer for block in self.up_blocks[self.first_fast_level :] for layer in _layers(block)]
        in_flight = run.options.frames_in_flight

        def at_full_rate(x_BCTHW: Tensor) -> Tensor:
            for layer in fast:
                x_BCTHW = layer(x_BCTHW, run)
            return causal_step(self.conv_out, x_BCTHW, run, self.conv_norm_out, fp32=run.options.fp32_output)

        def from_half_rate(x_BCTHW: Tensor) -> Tensor:
            return run.in_steps(slow[-1](x_BCTHW, run), in_flight, at_full_rate)

        x_BCTHW = causal_step(self.conv_in, latents_BCTHW, run)
        for layer in (*self.mid_block.layers(), *slow[:-1]):
            x_BCTHW = layer(x_BCTHW, run)
        if not slow:
            return run.in_steps(x_BCTHW, in_flight, at_full_rate)
        # The last doubling of time is part of the steps: its frames are among the largest.
        num_out = 2 * x_BCTHW.shape[2] - int(run.num_seen == 0)
        return run.in_steps(x_BCTHW, in_flight and max(in_flight // 2, 1), from_half_rate, num_out=num_out)


class VideoVAE(nn.Module):
    """Encoder and decoder of one checkpoint; names and shapes of its state dict are the checkpoint's."""

    def __init__(self, config: VAEConfig, options: VAEOptions = PLAIN) -> None:
        """Build a network.

        Args:
            options: how it computes unless a call says otherwise. What they derive from weights is derived here, and
                again whenever weights are loaded. Others than the plain ones are for inference.
        """
        super().__init__()
        self.config = config
        self.options = options
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        # A plain function, so that copies and pickles of the model derive from their own weights.
        self.register_load_state_dict_post_hook(_derive)  # type: ignore[no-untyped-call]
        _derive(self)

    def with_options(self, options: VAEOptions) -> "VideoVAE":
        """Return a network for inference that computes in another way, from these weights; it shares what it can."""
        if options == self.options:
            return self
        with torch.device("meta"):
            vae = VideoVAE(self.config, options)
        vae.load_state_dict(self.state_dict(), assign=True)
        return vae.requires_grad_(False).eval()

    def _start_pass(
        self,
        x_BCTHW: Tensor,
        state: VAEState | None,
        options: VAEOptions | None,
        *,
        keep: bool = True,
        overwrite: bool = False,
    ) -> tuple[Tensor, SlicePass]:
        """Return the input in the layout of the pass, and the pass."""
        options = options or self.options
        if options.fused_upsampler and not self.options.fused_upsampler:
            raise ValueError("this network was built without fused_upsampler; build it with_options that have it")
        learns = x_BCTHW.requires_grad or any(parameter.requires_grad for parameter in self.parameters())
        if options != PLAIN and learns and torch.is_grad_enabled():
            # Derived weights get no gradient, and activations are written over: it would be wrong, or slow in silence.
            raise RuntimeError(
                f"{options} is for inference and this pass would record gradients; "
                "call it under torch.no_grad(), or train with the plain options"
            )
        layout = torch.channels_last_3d if options.channels_last else torch.contiguous_format
        return x_BCTHW.contiguous(memory_format=layout), SlicePass(options, state, keep=keep, overwrite=overwrite)

    def scale(self, latents: Tensor) -> Tensor:
        """Latents as the transformer takes them."""
        return (latents - self.config.shift) * self.config.scaling_factor

    def unscale(self, latents: Tensor) -> Tensor:
        """Latents as the decoder takes them; the opposite of :meth:`scale`."""
        return latents / self.config.scaling_factor + self.config.shift

    def encode_slice(
        self,
        frames_BCTHW: Tensor,
        state: VAEState | None,
        *,
        overwrite: bool = False,
        options: VAEOptions | None = None,
    ) -> tuple[Tensor, VAEState]:
        """Encode the next frames of a clip.

        Args:
            frames_BCTHW: in -1..1; sizes are multiples of the spatial stride. The first slice has
                ``n * temporal_stride + 1`` frames, every further one a multiple of the stride.
            state: what the slice before returned, or None for the first.
            overwrite: write the new state into the old one's memory, which must not be used again.
            options: how to compute this slice; None takes the network's own. The state belongs to them.

        Returns:
            The moments (see :class:`Posterior`), one latent per stride of frames, and the new state.

        Raises:
            InputError: the size or the number of frames does not fit the strides.
        """
        self._require_frames(frames_BCTHW, starts_clip=state is None)
        arranged_BCTHW, run = self._start_pass(frames_BCTHW, state, options, overwrite=overwrite)
        moments_BCTHW: Tensor = self.encoder(arranged_BCTHW, run)
        return moments_BCTHW, run.finish(frames_BCTHW.shape[2])

    def decode_slice(
        self,
        latents_BCTHW: Tensor,
        state: VAEState | None,
        *,
        overwrite: bool = False,
        options: VAEOptions | None = None,
    ) -> tuple[Tensor, VAEState]:
        """Decode the next latents of a clip, any number of them.

        Args:
            latents_BCTHW: unscaled, as the encoder made them.
            state: what the slice before returned, or None for the first.
            overwrite: write the new state into the old one's memory, which must not be used again.
            options: how to compute this slice; None takes the network's own. The state belongs to them.

        Returns:
            ``temporal_stride`` frames per latent, one for the clip's first latent; not clamped.
            And the new state.
        """
        self._require_latents(latents_BCTHW)
        arranged_BCTHW, run = self._start_pass(latents_BCTHW, state, options, overwrite=overwrite)
        frames_BCTHW: Tensor = self.decoder(arranged_BCTHW, run)
        return frames_BCTHW, run.finish(latents_BCTHW.shape[2])

    def encode(
        self, frames_BCTHW: Tensor, *, slice_frames: int | None = None, options: VAEOptions | None = None
    ) -> Posterior:
        """Encode a whole clip.

        Args:
            frames_BCTHW: ``n * temporal_stride + 1`` frames in -1..1.
            slice_frames: frames to hold activations for at once, a multiple of the temporal stride;
                None takes the clip in one piece. The numbers do not depend on it.
        """
        return Posterior.from_moments(self.encode_moments(frames_BCTHW, slice_frames=slice_frames, options=options))

    def encode_moments(
        self,
        frames_BCTHW: Tensor,
        *,
        slice_frames: int | None = None,
        options: VAEOptions | None = None,
        check_cancelled: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Encode a whole clip to what :meth:`Posterior.from_moments` reads; see :meth:`encode`.

        Args:
            check_cancelled: called before every slice; raises to stop.
            options: how to compute; None takes the network's own.
        """
        self._require_frames(frames_BCTHW, starts_clip=True)
        if slice_frames is not None and (slice_frames < 1 or slice_frames % self.config.temporal_stride):
            raise InputError(
                f"slice_frames must be a multiple of {self.config.temporal_stride} frames, got {slice_frames}"
            )
        if slice_frames is None or frames_BCTHW.shape[2] <= slice_frames + 1:
            check_cancelled()
            arranged_BCTHW, run = self._start_pass(frames_BCTHW, None, options, keep=False)
            moments_BCTHW: Tensor = self.encoder(arranged_BCTHW, run)
            return moments_BCTHW
        moments, state = [], None
        for piece_BCTHW in _split_after_first(frames_BCTHW, slice_frames):
            check_cancelled()
            piece_moments, state = self.encode_slice(
                piece_BCTHW, state, overwrite=not torch.is_grad_enabled(), options=options
            )
            moments.append(piece_moments)
        return torch.cat(moments, dim=2)

    def decode(
        self,
        latents_BCTHW: Tensor,
        *,
        slice_latents: int | None = None,
        options: VAEOptions | None = None,
        check_cancelled: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Decode a whole clip of unscaled latents.

        Args:
            latents_BCTHW: as the encoder made them.
            slice_latents: latents to hold activations for at once; None takes the clip in one piece.
                The numbers do not depend on it.
            check_cancelled: called before every slice; raises to stop.
        """
        self._require_latents(latents_BCTHW)
        if slice_latents is not None and slice_latents < 1:
            raise InputError(f"slice_latents must be at least 1, got {slice_latents}")
        if slice_latents is None or latents_BCTHW.shape[2] <= slice_latents + 1:
            check_cancelled()
            arranged_BCTHW, run = self._start_pass(latents_BCTHW, None, options, keep=False)
            frames_BCTHW: Tensor = self.decoder(arranged_BCTHW, run)
            return frames_BCTHW
        frames, state = [], None
        for piece_BCTHW in _split_after_first(latents_BCTHW, slice_latents):
            check_cancelled()
            piece_frames, state = self.decode_slice(
                piece_BCTHW, state, overwrite=not torch.is_grad_enabled(), options=options
            )
            frames.append(piece_frames)
        return torch.cat(frames, dim=2)

    def _require_frames(self, frames_BCTHW: Tensor, *, starts_clip: bool) -> None:
        if frames_BCTHW.ndim != 5 or frames_BCTHW.shape[1] != self.config.image_channels:
            raise InputError(
                f"frames must be B x {self.config.image_channels} x T x H x W, got {tuple(frames_BCTHW.shape)}"
            )
        num_frames, height, width = frames_BCTHW.shape[2:]
        stride, time_stride = self.config.spatial_stride, self.config.temporal_stride
        if height % stride or width % stride or not height or not width:
            raise InputError(f"frames are {width}x{height} and the VAE needs multiples of {stride}; pad them first")
        if num_frames < 1 or (num_frames - starts_clip) % time_stride:
            expected = f"{time_stride} n + 1" if starts_clip else f"{time_stride} n"
            raise InputError(f"this slice must have {expected} frames and has {num_frames}; pad the clip's end first")

    def _require_latents(self, latents_BCTHW: Tensor) -> None:
        if latents_BCTHW.ndim != 5 or latents_BCTHW.shape[1] != self.config.latent_channels or 0 in latents_BCTHW.shape:
            raise InputError(
                f"latents must be B x {self.config.latent_channels} x T x H x W, got {tuple(latents_BCTHW.shape)}"
            )


@torch.no_grad()
def _derive(vae: VideoVAE, _: object = None) -> None:
    """Lay weights out and derive others as the options ask for it."""
    for module in vae.modules():
        # Otherwise they stay as whoever trains the network has laid them out.
        if isinstance(module, CausalConv3d) and vae.options.channels_last:
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
    if vae.encoder.conv_in.weight.is_meta:
        return
    for module in vae.modules():
        if isinstance(module, Upsampler) and vae.options.fused_upsampler:
            module.fuse()


def _split_after_first(clip_BCTHW: Tensor, length: int) -> list[Tensor]:
    """Cut into pieces of one length, the first longer by the one frame that stands for itself."""
    first_BCTHW, rest_BCTHW = clip_BCTHW[:, :, : length + 1], clip_BCTHW[:, :, length + 1 :]
    return [first_BCTHW, *(rest_BCTHW[:, :, start : start + length] for start in range(0, rest_BCTHW.shape[2], length))]
