"""The causal video VAE: frames to latents and back, slice by slice with what it remembers as a value.

Shapes: B clips, C channels, T frames or latents, H height, W width. Frames are RGB in -1..1.

A clip of ``n * temporal_stride + 1`` frames becomes n + 1 latents: the first frame alone, then one
latent per group. Encoding or decoding a clip in slices gives the numbers of the whole clip.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn

from seedvr2_ray.errors import InputError
from seedvr2_ray.models.seedvr2.vae.blocks import Downsampler, MidBlock, ResnetBlock
from seedvr2_ray.models.seedvr2.vae.config import PLAIN, VAEConfig, VAEOptions
from seedvr2_ray.models.seedvr2.vae.layers import CausalConv3d, FrameNorm
from seedvr2_ray.models.seedvr2.vae.state import SlicePass, VAEState
from seedvr2_ray.models.seedvr2.vae.steps import causal_step
from seedvr2_ray.models.seedvr2.vae.upsampler import Upsampler


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

    @property
    def std(self) -> Tensor:
        return torch.exp(0.5 * self.logvar_BCTHW)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Latents drawn from the distribution, as the published script uses them."""
        mean = self.mean_BCTHW
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + self.std * noise


class DownBlock(nn.Module):
    """One encoder level: residual blocks, then the halving to the next level."""

    def __init__(self, config: VAEConfig, level: int) -> None:
        super().__init__()
        widths = config.block_out_channels
        inputs = [widths[max(level - 1, 0)]] + [widths[level]] * (config.encoder_layers_per_block - 1)
        self.resnets = _build_resnets(inputs, widths[level], config)
        has_next = level < config.num_levels - 1
        self.downsamplers = nn.ModuleList(
            [Downsampler(widths[level], time=config.downsamples_time(level))] if has_next else []
        )

    def forward(self, x_BCTHW: Tensor, run: SlicePass) -> Tensor:
        return self.shrink(self.refine(x_BCTHW, run), run)

    def refine(self, x_BCTHW: Tensor, run: SlicePass) -> Tensor:
        """The residual blocks, which keep every size."""
        for resnet in self.resnets:
            x_BCTHW = resnet(x_BCTHW, run)
        return x_BCTHW

    def shrink(self, x_BCTHW: Tensor, run: SlicePass) -> Tensor:
        """The halving, which the last level lacks."""
        for downsampler in self.downsamplers:
            x_BCTHW = downsampler(x_BCTHW, run)
        return x_BCTHW


class UpBlock(nn.Module):
    """One decoder level, counted from the latents up: residual blocks, then the doubling."""

    def __init__(self, config: VAEConfig, level: int) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        inputs = [widths[max(level - 1, 0)]] + [widths[level]] * config.encoder_layers_per_block
        self.resnets = _build_resnets(inputs, widths[level], config)
        has_next = level < config.num_levels - 1
        self.upsamplers = nn.ModuleList(
            [Upsampler(widths[level], time=config.upsamples_time(level))] if has_next else []
        )

    def forward(self, x_BCTHW: Tensor, run: SlicePass) -> Tensor:
        for resnet in self.resnets:
            x_BCTHW = resnet(x_BCTHW, run)
        for upsampler in self.upsamplers:
            x_BCTHW = upsampler(x_BCTHW, run)
        return x_BCTHW


def _build_resnets(inputs: Sequence[int], width: int, config: VAEConfig) -> nn.ModuleList:
    return nn.ModuleList([ResnetBlock(before, width, config.norm_groups, config.norm_eps) for before in inputs])


class Encoder(nn.Module):
    """Frames to the moments of the posterior."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups, eps = config.block_out_channels, config.norm_groups, config.norm_eps
        self.conv_in = CausalConv3d(config.image_channels, widths[0])
        self.down_blocks = nn.ModuleList([DownBlock(config, level) for level in range(config.num_levels)])
        self.mid_block = MidBlock(widths[-1], groups, eps, attention=config.mid_attention)
        self.conv_norm_out = FrameNorm(widths[-1], groups, eps)
        self.conv_out = CausalConv3d(widths[-1], 2 * config.latent_channels)
        self.first_slow_level = config.num_levels - 1 - config.num_temporal_stages

    def forward(self, frames_BCTHW: Tensor, run: SlicePass) -> Tensor:
        """Return the moments; ``run`` says what came before and how to compute."""
        slow_block = self.down_blocks[self.first_slow_level]
        assert isinstance(slow_block, DownBlock)

        def at_full_rate(x_BCTHW: Tensor) -> Tensor:
            x_BCTHW = causal_step(self.conv_in, x_BCTHW, run)
            for block in self.down_blocks[: self.first_slow_level]:
                x_BCTHW = block(x_BCTHW, run)
            return slow_block.refine(x_BCTHW, run)

        x_BCTHW = run.in_steps(frames_BCTHW, run.options.frames_in_flight, at_full_rate)
        x_BCTHW = slow_block.shrink(x_BCTHW, run)
        for block in self.down_blocks[self.first_slow_level + 1 :]:
            x_BCTHW = block(x_BCTHW, run)
        x_BCTHW = self.mid_block(x_BCTHW, run)
        return causal_step(self.conv_out, x_BCTHW, run, self.conv_norm_out)


class Decoder(nn.Module):
    """Latents to frames."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups, eps = config.block_out_channels, config.norm_groups, config.norm_eps
        self.conv_in = CausalConv3d(config.latent_channels, widths[-1])
        self.mid_block = MidBlock(widths[-1], groups, eps, attention=config.mid_attention)
        self.up_blocks = nn.ModuleList([UpBlock(config, level) for level in range(config.num_levels)])
        self.conv_norm_out = FrameNorm(widths[0], groups, eps)
        self.conv_out = CausalConv3d(widths[0], config.image_channels)
        self.first_fast_level = config.num_temporal_stages

    def forward(self, latents_BCTHW: Tensor, run: SlicePass) -> Tensor:
        """Return the frames; ``run`` says what came before and how to compute."""

        def at_full_rate(x_BCTHW: Tensor) -> Tensor:
            for block in self.up_blocks[self.first_fast_level :]:
                x_BCTHW = block(x_BCTHW, run)
            return causal_step(self.conv_out, x_BCTHW, run, self.conv_norm_out)

        x_BCTHW = self.mid_block(causal_step(self.conv_in, latents_BCTHW, run), run)
        for block in self.up_blocks[: self.first_fast_level]:
            x_BCTHW = block(x_BCTHW, run)
        return run.in_steps(x_BCTHW, run.options.frames_in_flight, at_full_rate)

    def merge_shortcuts(self) -> None:
        """Let upsamplers that smooth nothing do the next block's shortcut, where that is all the block does."""
        for block, next_block in pairwise(self.up_blocks):
            assert isinstance(block, UpBlock) and isinstance(next_block, UpBlock)
            upsampler, resnet = block.upsamplers[0], next_block.resnets[0]
            assert isinstance(upsampler, Upsampler) and isinstance(resnet, ResnetBlock)
            if upsampler.has_idle_conv and resnet.is_idle and resnet.has_shortcut:
                upsampler.merged, resnet.has_merged_shortcut = (resnet.conv_shortcut,), True


class VideoVAE(nn.Module):
    """Encoder and decoder of one checkpoint; names and shapes of its state dict are the checkpoint's."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.options: VAEOptions = PLAIN
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        # A plain function, so that copies and pickles of the model forget their own options.
        self.register_load_state_dict_post_hook(_forget_options)  # type: ignore[no-untyped-call]

    def prepare(self, options: VAEOptions) -> Self:
        """Make this model ready for evaluation in the given way, and return it.

        Weights that the options derive are computed from those loaded now. Loading others,
        ``train()``, or a pass that records gradients goes back to the plain way until the next call.
        A state made before belongs to the old options: start a new clip.
        """
        self.eval()
        self.forget_options()
        layout = torch.channels_last_3d if options.channels_last else torch.contiguous_format
        for module in self.modules():
            if isinstance(module, CausalConv3d):
                module.weight.data = module.weight.data.contiguous(memory_format=layout)
        for module in self.modules():
            if isinstance(module, Upsampler) and options.fused_upsampler:
                with torch.no_grad():
                    module.fuse()
        self.decoder.conv_out.fp32_output = options.fp32_output
        if options.leave_out_zeros:
            self.leave_out_zeros()
        self.options = options
        return self

    def leave_out_zeros(self) -> Self:
        """Compute from now on without the parts whose weights are such that they add nothing, and return the model.

        Those are taps in time, the convolutions of residual blocks, and the smoothing after an upsampler. The numbers
        stay the same up to rounding. What is left out gets no gradient, so it stays as it is in training.
        Loading other weights, or forgetting the options, ends it.
        """
        for module in self.modules():
            if isinstance(module, CausalConv3d | ResnetBlock | Upsampler):
                module.leave_out_zeros()
        self.decoder.merge_shortcuts()
        return self

    def forget_options(self) -> None:
        """Compute by the equations again, from the weights alone."""
        self.options = PLAIN
        for module in self.modules():
            if isinstance(module, CausalConv3d):
                module.compute_zeros()
            elif isinstance(module, ResnetBlock):
                module.is_idle = module.has_merged_shortcut = False
            elif isinstance(module, Upsampler):
                module.has_idle_conv, module.merged = False, ()
        self.decoder.conv_out.fp32_output = False
        for module in self.modules():
            if isinstance(module, Upsampler):
                module.unfuse()

    def train(self, mode: bool = True) -> Self:
        """Switch between training, which forgets what :meth:`prepare` derived, and evaluation."""
        if mode:
            self.forget_options()
        return super().train(mode)

    def _start_pass(self, state: VAEState | None, *, keep: bool = True, overwrite: bool = False) -> SlicePass:
        if torch.is_grad_enabled() and self.options != PLAIN:
            # The weights are about to change, or gradients of the derived ones would be lost.
            self.forget_options()
        return SlicePass(self.options, state, keep=keep, overwrite=overwrite)

    def _arrange(self, x_BCTHW: Tensor) -> Tensor:
        layout = torch.channels_last_3d if self.options.channels_last else torch.contiguous_format
        return x_BCTHW.contiguous(memory_format=layout)

    def scale(self, latents: Tensor) -> Tensor:
        """Latents as the transformer takes them."""
        return (latents - self.config.shift) * self.config.scaling_factor

    def unscale(self, latents: Tensor) -> Tensor:
        """Latents as the decoder takes them; the opposite of :meth:`scale`."""
        return latents / self.config.scaling_factor + self.config.shift

    def encode_slice(
        self, frames_BCTHW: Tensor, state: VAEState | None, *, overwrite: bool = False
    ) -> tuple[Tensor, VAEState]:
        """Encode the next frames of a clip.

        Args:
            frames_BCTHW: in -1..1; sizes are multiples of the spatial stride. The first slice has
                ``n * temporal_stride + 1`` frames, every further one a multiple of the stride.
            state: what the slice before returned, or None for the first.
            overwrite: write the new state into the old one's memory, which must not be used again.

        Returns:
            The moments (see :class:`Posterior`), one latent per stride of frames, and the new state.

        Raises:
            InputError: the size or the number of frames does not fit the strides.
        """
        self._require_frames(frames_BCTHW, starts_clip=state is None)
        run = self._start_pass(state, overwrite=overwrite)
        moments_BCTHW: Tensor = self.encoder(self._arrange(frames_BCTHW), run)
        return moments_BCTHW, run.finish(frames_BCTHW.shape[2])

    def decode_slice(
        self, latents_BCTHW: Tensor, state: VAEState | None, *, overwrite: bool = False
    ) -> tuple[Tensor, VAEState]:
        """Decode the next latents of a clip, any number of them.

        Args:
            latents_BCTHW: unscaled, as the encoder made them.
            state: what the slice before returned, or None for the first.
            overwrite: write the new state into the old one's memory, which must not be used again.

        Returns:
            ``temporal_stride`` frames per latent, one for the clip's first latent; not clamped.
            And the new state.
        """
        self._require_latents(latents_BCTHW)
        run = self._start_pass(state, overwrite=overwrite)
        frames_BCTHW: Tensor = self.decoder(self._arrange(latents_BCTHW), run)
        return frames_BCTHW, run.finish(latents_BCTHW.shape[2])

    def encode(self, frames_BCTHW: Tensor, *, slice_frames: int | None = None) -> Posterior:
        """Encode a whole clip.

        Args:
            frames_BCTHW: ``n * temporal_stride + 1`` frames in -1..1.
            slice_frames: frames to hold activations for at once, a multiple of the temporal stride;
                None takes the clip in one piece. The numbers do not depend on it.
        """
        return Posterior.from_moments(self.encode_moments(frames_BCTHW, slice_frames=slice_frames))

    def encode_moments(
        self,
        frames_BCTHW: Tensor,
        *,
        slice_frames: int | None = None,
        check_cancelled: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Encode a whole clip to what :meth:`Posterior.from_moments` reads; see :meth:`encode`.

        Args:
            check_cancelled: called before every slice; raises to stop.
        """
        self._require_frames(frames_BCTHW, starts_clip=True)
        if slice_frames is not None and (slice_frames < 1 or slice_frames % self.config.temporal_stride):
            raise InputError(
                f"slice_frames must be a multiple of {self.config.temporal_stride} frames, got {slice_frames}"
            )
        if slice_frames is None or frames_BCTHW.shape[2] <= slice_frames + 1:
            check_cancelled()
            run = self._start_pass(None, keep=False)
            moments_BCTHW: Tensor = self.encoder(self._arrange(frames_BCTHW), run)
            return moments_BCTHW
        moments, state = [], None
        for piece_BCTHW in _split_after_first(frames_BCTHW, slice_frames):
            check_cancelled()
            piece_moments, state = self.encode_slice(piece_BCTHW, state, overwrite=not torch.is_grad_enabled())
            moments.append(piece_moments)
        return torch.cat(moments, dim=2)

    def decode(
        self,
        latents_BCTHW: Tensor,
        *,
        slice_latents: int | None = None,
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
            run = self._start_pass(None, keep=False)
            frames_BCTHW: Tensor = self.decoder(self._arrange(latents_BCTHW), run)
            return frames_BCTHW
        frames, state = [], None
        for piece_BCTHW in _split_after_first(latents_BCTHW, slice_latents):
            check_cancelled()
            piece_frames, state = self.decode_slice(piece_BCTHW, state, overwrite=not torch.is_grad_enabled())
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


def _forget_options(vae: VideoVAE, _: object) -> None:
    vae.forget_options()


def _split_after_first(clip_BCTHW: Tensor, length: int) -> list[Tensor]:
    """Cut into pieces of one length, the first longer by the one frame that stands for itself."""
    first_BCTHW, rest_BCTHW = clip_BCTHW[:, :, : length + 1], clip_BCTHW[:, :, length + 1 :]
    return [first_BCTHW, *(rest_BCTHW[:, :, start : start + length] for start in range(0, rest_BCTHW.shape[2], length))]
