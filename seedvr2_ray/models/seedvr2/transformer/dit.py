"""The SeedVR2 diffusion transformer, 3B and 7B, at the native resolution of a clip.

Shapes: L tokens or latent pixels, C channels, D model width, B timesteps; T frames, H and W latent pixels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seedvr2_ray.models.attention import require_backend
from seedvr2_ray.models.seedvr2.config import TIME_CHANNELS, DiTConfig
from seedvr2_ray.models.seedvr2.transformer.block import AdaLN, Block, Scale
from seedvr2_ray.models.seedvr2.transformer.execution import DEFAULT_EXECUTION, Execution
from seedvr2_ray.models.seedvr2.transformer.layer_steps import Slot, TimeSlots, modulate
from seedvr2_ray.models.seedvr2.transformer.packing import Size


class PatchIn(nn.Module):
    """Turn squares of latent pixels into tokens; inside a token the order is row, column, channel."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.proj = nn.Linear(config.patch**2 * config.in_channels, config.width)

    def forward(self, squares_LC: Tensor) -> Tensor:
        """Return the tokens of squares."""
        tokens_LD: Tensor = self.proj(squares_LC)
        return tokens_LD

    def cut(self, clip_THWC: Tensor) -> Tensor:
        """Return the clip's squares in the order of tokens."""
        (t, h, w, _), p = clip_THWC.shape, self.patch
        squares = clip_THWC.reshape(t, h // p, p, w // p, p, -1).transpose(2, 3)
        return squares.reshape(t * (h // p) * (w // p), -1)


class PatchOut(nn.Module):
    """Turn tokens back into squares of latent pixels."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.proj = nn.Linear(config.width, config.patch**2 * config.latent_channels)

    def forward(self, tokens_LD: Tensor) -> Tensor:
        """Return the squares of tokens."""
        squares_LC: Tensor = self.proj(tokens_LD)
        return squares_LC

    def join(self, squares_LC: Tensor, size_THW: Size) -> Tensor:
        """Return the clip [T, H, W, C]; the opposite of :meth:`PatchIn.cut`."""
        (t, h, w), p = size_THW, self.patch
        return squares_LC.reshape(t, h // p, w // p, p, p, -1).transpose(2, 3).reshape(t, h, w, -1)


class TimeEmbedding(nn.Module):
    """Map timesteps in 0..1000 to what they add to the modulation of every layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(TIME_CHANNELS, width)
        self.proj_hid = nn.Linear(width, width)
        self.proj_out = nn.Linear(width, 6 * width)

    def forward(self, timestep_B: Tensor) -> Tensor:
        """Return [B, 6 D]. Channel n // 6 owns element n; n % 6 runs over two halves of shift, scale, gate."""
        wave = time_sinusoid(timestep_B).to(self.proj_in.weight.dtype)
        out: Tensor = self.proj_out(F.silu(self.proj_hid(F.silu(self.proj_in(wave)))))
        return out


class OutputModulation(nn.Module):
    """Shift and scale before the output projection."""

    folded_2D: Tensor | None

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_shift = nn.Parameter(torch.empty(width))
        self.out_scale = nn.Parameter(torch.empty(width))
        nn.init.normal_(self.out_shift, 0.0, width**-0.5)
        nn.init.normal_(self.out_scale, 1.0, width**-0.5)
        # Derived by fold(), never part of the checkpoint.
        self.register_buffer("folded_2D", None, persistent=False)

    def forward(self, x_LD: Tensor, time: TimeSlots | None) -> Tensor:
        """Modulate in place; ``time`` is ``None`` for the folded timestep."""
        if time is not None:
            return modulate(x_LD, *self._sums(time))
        assert self.folded_2D is not None, "fold comes first"
        return modulate(x_LD, *self.folded_2D)

    def fold(self, time: TimeSlots) -> None:
        """Keep the sums for one timestep, so that calls at it need not make them."""
        self.folded_2D = torch.stack(self._sums(time))

    def _sums(self, time: TimeSlots) -> tuple[Tensor, Tensor]:
        # The released 3B weights expect the attention slot of the timestep here: the reference reaches it
        # through a shared cache entry. A slot of its own would load cleanly and change the picture.
        # Guarded by test_the_output_layer_reads_the_attention_slot.
        return time.attn.shift_D + self.out_shift, time.attn.scale_D + self.out_scale


class SeedVR2Transformer(nn.Module):
    """Predicts v = noise - latent from a noisy latent, a condition latent, a text and a timestep.

    Names and shapes of parameters and buffers are those of the released checkpoints.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.folded_timestep: float | None = None
        """The timestep whose modulation is ready, after :func:`fold_timestep`."""
        self.vid_in = PatchIn(config)
        self.txt_in = nn.Linear(config.text_dim, config.width)
        self.emb_in = TimeEmbedding(config.width)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        if config.has_output_modulation:
            self.vid_out_norm = Scale(config.width, config.norm_eps)
            self.vid_out_ada = OutputModulation(config.width)
        self.vid_out = PatchOut(config)

    @property
    def dtype(self) -> torch.dtype:
        """Of the linear weights, and so of the activations outside autocast."""
        return self.txt_in.weight.dtype

    def forward(
        self, clip_THWC: Tensor, text_LC: Tensor, timestep: float, *, execution: Execution = DEFAULT_EXECUTION
    ) -> Tensor:
        """Predict v for one clip.

        Args:
            clip_THWC: channels are the noisy latent, the condition latent and the mask.
            text_LC: the text's embedding.
            timestep: in 0..1000.

        Returns:
            Latent channels [T, H, W, C].

        Raises:
            DeploymentError: the attention kernel asked for cannot run here.
        """
        self._require_consistent(clip_THWC, text_LC)
        size_THW = (clip_THWC.shape[0], clip_THWC.shape[1], clip_THWC.shape[2])
        grid = self.config.patched(size_THW)
        device = self.txt_in.weight.device
        exchange = execution.sharing.begin(
            self.config, grid, len(text_LC), band_tokens=execution.band_tokens, device=device
        )
        video_LD: Tensor = self.vid_in(exchange.take(self.vid_in.cut(clip_THWC.to(self.dtype))))
        text_LD: Tensor = self.txt_in(text_LC.to(self.dtype))
        require_backend(execution.attention, video_LD.device, video_LD.dtype)
        time = None if timestep == self.folded_timestep else self.embed_timestep(timestep)
        for layer, block in enumerate(self.blocks):
            video_LD = exchange.enter(video_LD, layer)
            plan = exchange.plans[layer % 2]
            video_LD, text_LD = block(video_LD, text_LD, time, plan, execution, exchange)
        if self.config.has_output_modulation:
            video_LD = self.vid_out_ada(self.vid_out_norm(video_LD), time)
        out_THWC: Tensor = self.vid_out.join(exchange.join(self.vid_out(video_LD)), size_THW)
        return out_THWC

    def embed_timestep(self, timestep: float) -> TimeSlots:
        """Return what a timestep adds to every layer's modulation."""
        timestep_B = torch.full((1,), timestep, device=self.txt_in.weight.device)
        slots = self.emb_in(timestep_B)[0].unflatten(-1, (self.config.width, 6)).unbind(-1)
        return TimeSlots(Slot(*slots[:3]), Slot(*slots[3:]))

    def _require_consistent(self, clip_THWC: Tensor, text_LC: Tensor) -> None:
        if clip_THWC.ndim != 4 or clip_THWC.shape[3] != self.config.in_channels:
            raise ValueError(f"a clip must be T x H x W x {self.config.in_channels}, got {tuple(clip_THWC.shape)}")
        if text_LC.ndim != 2 or text_LC.shape[1] != self.config.text_dim or not len(text_LC):
            raise ValueError(f"a text must be tokens x {self.config.text_dim}, got {tuple(text_LC.shape)}")


def time_sinusoid(timestep_B: Tensor) -> Tensor:
    """Return [B, 256] float32: sines, then cosines, of frequencies from 1 down to 1/10000."""
    half = TIME_CHANNELS // 2
    steps = torch.arange(half, dtype=torch.float32, device=timestep_B.device)
    frequencies = torch.exp(-math.log(10_000.0) * steps / half)
    angles = timestep_B.float()[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


@torch.no_grad()
def fold_timestep(transformer: SeedVR2Transformer, timestep: float = 1000.0) -> None:
    """Make every modulation's sums for one timestep now, in place.

    One-step inference always runs at t = 1000. Exact: the same sums are only made earlier. Other
    timesteps and the state dict stay as they were. To be repeated when the weights or their dtype change.
    """
    time = transformer.embed_timestep(timestep)
    for module in transformer.modules():
        if isinstance(module, AdaLN | OutputModulation):
            module.fold(time)
    transformer.folded_timestep = timestep
