"""The SeedVR2 diffusion transformer, 3B and 7B, on packed native-resolution batches.

Shapes: L packed tokens or latent pixels, C channels, D model width, B samples; T frames, H and W
latent pixels, Y and X patches.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seedvr2_ray.models.attention import require_backend
from seedvr2_ray.models.seedvr2.config import TIME_CHANNELS, DiTConfig
from seedvr2_ray.models.seedvr2.transformer.block import AdaLN, Block, Scale, Slot, TimeSlots
from seedvr2_ray.models.seedvr2.transformer.execution import DEFAULT_EXECUTION, Execution
from seedvr2_ray.models.seedvr2.transformer.packing import Size, plan_packing


class PatchIn(nn.Module):
    """Turn squares of latent pixels into tokens; inside a token the order is row, column, channel."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.proj = nn.Linear(config.patch**2 * config.in_channels, config.width)

    def forward(self, video_LC: Tensor, sizes: tuple[Size, ...]) -> Tensor:
        """Return the tokens of all samples, packed."""
        p = self.patch
        pieces = []
        for sample_LC, (t, h, w) in zip(torch.split(video_LC, [t * h * w for t, h, w in sizes]), sizes, strict=True):
            squares = sample_LC.reshape(t, h // p, p, w // p, p, -1).transpose(2, 3)
            pieces.append(squares.reshape(t * (h // p) * (w // p), -1))
        tokens_LD: Tensor = self.proj(torch.cat(pieces))
        return tokens_LD


class PatchOut(nn.Module):
    """Turn tokens back into squares of latent pixels."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.proj = nn.Linear(config.width, config.patch**2 * config.latent_channels)

    def forward(self, tokens_LD: Tensor, sizes: tuple[Size, ...]) -> Tensor:
        """Return the latent pixels of all samples, packed."""
        p = self.patch
        flat = self.proj(tokens_LD)
        pieces = []
        for sample, (t, h, w) in zip(torch.split(flat, [t * h * w // p**2 for t, h, w in sizes]), sizes, strict=True):
            squares = sample.reshape(t, h // p, w // p, p, p, -1).transpose(2, 3)
            pieces.append(squares.reshape(t * h * w, -1))
        return torch.cat(pieces)


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

    def forward(self, x_LD: Tensor, time: TimeSlots | None, samples_L: Tensor | None) -> Tensor:
        """Modulate in place; ``time`` is ``None`` for the folded timestep."""
        if time is None:
            assert self.folded_2D is not None, "fold comes first"
            shift_BD, scale_BD = self.folded_2D[:, None]
        else:
            shift_BD, scale_BD = self._sums(time)
        if samples_L is not None and len(scale_BD) > 1:
            scale_BD, shift_BD = scale_BD.index_select(0, samples_L), shift_BD.index_select(0, samples_L)
        return x_LD.mul_(scale_BD).add_(shift_BD)

    def fold(self, time: TimeSlots) -> None:
        """Keep the sums for one timestep, so that calls without one need not make them."""
        self.folded_2D = torch.cat(self._sums(time))

    def _sums(self, time: TimeSlots) -> tuple[Tensor, Tensor]:
        # The released 3B weights expect the attention slot of the timestep here: the reference reaches it
        # through a shared cache entry. A slot of its own would load cleanly and change the picture.
        # Guarded by test_the_output_layer_reads_the_attention_slot.
        return time.attn.shift_BD + self.out_shift, time.attn.scale_BD + self.out_scale


class SeedVR2Transformer(nn.Module):
    """Predicts v = noise - latent from a noisy latent, a condition latent, a text and a timestep.

    Names and shapes of parameters and buffers are those of the released checkpoints.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.folded_timestep: float | None = None
        """What a call without a timestep means, after :func:`fold_timestep`."""
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
        self,
        video_LC: Tensor,
        video_sizes: tuple[Size, ...],
        text_LC: Tensor,
        text_lengths: tuple[int, ...],
        timestep_B: Tensor | None = None,
        *,
        execution: Execution = DEFAULT_EXECUTION,
    ) -> Tensor:
        """Predict v for a packed batch. Samples do not see each other.

        Args:
            video_LC: latent pixels of all samples one after the other, each in T, H, W order;
                channels are the noisy latent, the condition latent and the mask.
            video_sizes: latent (T, H, W) of every sample.
            text_LC: text embeddings of all samples one after the other.
            text_lengths: tokens of every sample's text.
            timestep_B: in 0..1000, one per sample. Left out for the folded timestep.

        Returns:
            One vector of latent channels per latent pixel, packed like the input.

        Raises:
            DeploymentError: the attention kernel asked for cannot run here.
        """
        self._require_consistent(video_LC, video_sizes, text_LC, text_lengths, timestep_B)
        grids = tuple(self.config.patched(size) for size in video_sizes)
        video_LD: Tensor = self.vid_in(video_LC.to(self.dtype), video_sizes)
        text_LD: Tensor = self.txt_in(text_LC.to(self.dtype))
        require_backend(execution.attention, video_LD.device, video_LD.dtype)
        time = None if timestep_B is None else self.embed_timestep(timestep_B)
        plans = [
            plan_packing(
                self.config,
                grids,
                text_lengths,
                shifted=shifted,
                band_tokens=execution.band_tokens,
                device=video_LD.device,
            )
            for shifted in (False, True)
        ]
        for layer, block in enumerate(self.blocks):
            video_LD, text_LD = block(video_LD, text_LD, time, plans[layer % 2], execution)
        if self.config.has_output_modulation:
            video_LD = self.vid_out_ada(self.vid_out_norm(video_LD), time, plans[0].video_samples_L)
        out_LC: Tensor = self.vid_out(video_LD, video_sizes)
        return out_LC

    def embed_timestep(self, timestep_B: Tensor) -> TimeSlots:
        """Return what a timestep adds to every layer's modulation."""
        vectors_BD6 = self.emb_in(timestep_B).unflatten(-1, (self.config.width, 6))
        slots = vectors_BD6.unbind(-1)
        return TimeSlots(Slot(*slots[:3]), Slot(*slots[3:]))

    def _require_consistent(
        self,
        video_LC: Tensor,
        video_sizes: tuple[Size, ...],
        text_LC: Tensor,
        text_lengths: tuple[int, ...],
        timestep_B: Tensor | None,
    ) -> None:
        if len(video_sizes) != len(text_lengths) or not video_sizes:
            raise ValueError(
                f"a batch needs one text per clip, got {len(video_sizes)} clips and {len(text_lengths)} texts"
            )
        num_pixels = sum(t * h * w for t, h, w in video_sizes)
        if tuple(video_LC.shape) != (num_pixels, self.config.in_channels):
            raise ValueError(
                f"sizes {video_sizes} hold {num_pixels} latent pixels of {self.config.in_channels} channels, "
                f"got {tuple(video_LC.shape)}"
            )
        if tuple(text_LC.shape) != (sum(text_lengths), self.config.text_dim) or min(text_lengths) < 1:
            raise ValueError(
                f"text lengths {text_lengths} of {self.config.text_dim} channels do not fit {tuple(text_LC.shape)}"
            )
        if timestep_B is None and self.folded_timestep is None:
            raise ValueError("a model without a folded timestep needs timestep_B")
        if timestep_B is not None and timestep_B.shape != (len(video_sizes),):
            raise ValueError(f"got {len(video_sizes)} clips but timesteps of shape {tuple(timestep_B.shape)}")


def time_sinusoid(timestep_B: Tensor) -> Tensor:
    """Return [B, 256] float32: sines, then cosines, of frequencies from 1 down to 1/10000."""
    half = TIME_CHANNELS // 2
    steps = torch.arange(half, dtype=torch.float32, device=timestep_B.device)
    frequencies = torch.exp(-math.log(10_000.0) * steps / half)
    angles = timestep_B.float()[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def cast_weights(transformer: SeedVR2Transformer, dtype: torch.dtype) -> None:
    """Store the weights in a narrower dtype, in place.

    Modulation vectors and rotary frequencies stay in float32. What comes out is bit for bit what
    autocast to the same dtype computes from float32 weights, at half the memory.
    """
    for module in transformer.modules():
        if isinstance(module, nn.Linear | Scale):
            module.to(dtype)


@torch.no_grad()
def fold_timestep(transformer: SeedVR2Transformer, timestep: float = 1000.0) -> None:
    """Make every modulation's sums for one timestep now, in place, for calls that leave the timestep out.

    One-step inference always runs at t = 1000. Exact: the same sums are only made earlier. Other
    timesteps and the state dict stay as they were. To be repeated when the weights or their dtype change.
    """
    device = transformer.txt_in.weight.device
    time = transformer.embed_timestep(torch.tensor([timestep], device=device))
    for module in transformer.modules():
        if isinstance(module, AdaLN | OutputModulation):
            module.fold(time)
    transformer.folded_timestep = timestep


def compile_layers(transformer: SeedVR2Transformer) -> None:
    """Fuse norms, modulation, rotation and activations of every layer with ``torch.compile``, in place.

    Attention itself stays as it is: its kernels are called once per window shape, and a graph of
    all of them would be compiled anew for every picture size. The first call is slow.
    """
    for block in transformer.blocks:
        assert isinstance(block, Block)
        for name in ("enter_attention", "leave_attention", "mlp_change"):
            setattr(block, name, torch.compile(getattr(block, name), dynamic=True))
