"""The SwiftVR diffusion transformer: from degraded latents to the velocity that leads away from them.

Shapes: B samples, C channels, T latent frames, H and W latent pixels, L tokens, K prompt tokens, D model width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seedvr2_ray.models.attention import require_backend
from seedvr2_ray.models.swiftvr.block import Block
from seedvr2_ray.models.swiftvr.conditioning import ConditionEmbedder
from seedvr2_ray.models.swiftvr.config import TIMESTEP, TransformerConfig
from seedvr2_ray.models.swiftvr.execution import DEFAULT_EXECUTION, Execution
from seedvr2_ray.models.swiftvr.windows import GridTHW, plan_grid


class SwiftVRTransformer(nn.Module):
    """Predicts v = degraded - restored latents. Names and shapes are those of the released checkpoint until folded."""

    output_2D: Tensor | None

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        patch = (1, config.patch, config.patch)
        self.patch_embedding = nn.Conv3d(config.latent_channels, config.width, patch, stride=patch)
        self.condition_embedder: ConditionEmbedder | None = ConditionEmbedder(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.scale_shift_table: nn.Parameter | None = nn.Parameter(torch.zeros(1, 2, config.width))
        self.proj_out = nn.Linear(config.width, config.patch**2 * config.latent_channels)
        # Derived by fold(), never part of the checkpoint: shift and 1 + scale before the output projection.
        self.register_buffer("output_2D", None, persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """Of the linear weights, and so of the activations."""
        return self.proj_out.weight.dtype

    @torch.no_grad()
    def fold(self, prompt_KC: Tensor) -> None:
        """Turn the constant timestep and prompt into the few numbers they amount to, in place and for good.

        Keys and values of the prompt, and every modulation's sum, are made here once. The weights that made them are
        dropped: a ninth of the transformer.

        Args:
            prompt_KC: the stored embedding of the prompt.
        """
        embedder = self.condition_embedder
        assert embedder is not None and self.scale_shift_table is not None, "folded already"
        weight = embedder.time_proj.weight
        embedded_1D, time_16D = embedder.embed_time(torch.tensor([TIMESTEP], device=weight.device))
        prompt_KD = embedder.text_embedder(prompt_KC.to(weight))
        for block in self.blocks:
            assert isinstance(block, Block)
            block.fold(time_16D[0], prompt_KD)
        output_2D = self.scale_shift_table[0].float() + embedded_1D.float()
        output_2D[1] += 1.0
        self.output_2D = output_2D.to(self.dtype)
        self.scale_shift_table = None
        self.condition_embedder = None

    def forward(self, latents_BCTHW: Tensor, execution: Execution = DEFAULT_EXECUTION) -> Tensor:
        """Predict the velocity of a chunk, in the shape of its latents.

        Raises:
            DeploymentError: the attention kernel asked for cannot run here.
        """
        grid_THW = self._require_grid(latents_BCTHW)
        require_backend(execution.attention, latents_BCTHW.device, self.dtype)
        plan = plan_grid(self.config, grid_THW, latents_BCTHW.device)
        tokens_BLD = self.to_tokens(latents_BCTHW.to(self.dtype))
        for layer, block in enumerate(self.blocks):
            tokens_BLD = block(tokens_BLD, plan.tables[layer % 2], plan.rotations_LP2, execution)
        return self.to_latents(self.project_out(tokens_BLD), grid_THW)

    def to_tokens(self, latents_BCTHW: Tensor) -> Tensor:
        """Turn squares of latent pixels into tokens; inside a token the order is channel, row, column."""
        batch, channels, frames, height, width = latents_BCTHW.shape
        p = self.config.patch
        squares = latents_BCTHW.reshape(batch, channels, frames, height // p, p, width // p, p)
        squares = squares.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)
        return F.linear(squares, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)

    def project_out(self, tokens_BLD: Tensor) -> Tensor:
        """Return the numbers of every token's square; inside a token the order is row, column, channel."""
        assert self.output_2D is not None, "fold comes first"
        shift_D, scale_D = self.output_2D
        out: Tensor = self.proj_out(
            F.layer_norm(tokens_BLD, tokens_BLD.shape[-1:], scale_D, shift_D, self.config.norm_eps)
        )
        return out

    def to_latents(self, squares_BLC: Tensor, grid_THW: GridTHW) -> Tensor:
        """Put the squares of all tokens back into place."""
        frames, height, width = grid_THW
        p = self.config.patch
        squares = squares_BLC.view(len(squares_BLC), frames, height, width, p, p, -1)
        return squares.permute(0, 6, 1, 2, 4, 3, 5).reshape(len(squares), -1, frames, height * p, width * p)

    def _require_grid(self, latents_BCTHW: Tensor) -> GridTHW:
        p, channels = self.config.patch, self.config.latent_channels
        if latents_BCTHW.ndim != 5 or latents_BCTHW.shape[1] != channels or latents_BCTHW.shape[2] < 1:
            raise ValueError(f"latents must be B x {channels} x T x H x W, got {tuple(latents_BCTHW.shape)}")
        _, _, frames, height, width = latents_BCTHW.shape
        if height % p or width % p:
            raise ValueError(f"latents of {width}x{height} cannot be cut into squares of {p}; pad the picture first")
        return frames, height // p, width // p


def parameter_dtype(dtype: torch.dtype, name: str) -> torch.dtype:
    """Return what type a parameter is loaded in: what is folded away is worth its full precision until then."""
    is_folded = name.startswith("condition_embedder.") or name.endswith("scale_shift_table")
    return torch.float32 if is_folded else dtype
