"""The parts of a layer of the SwiftVR transformer: attention inside windows, attention to the prompt, an MLP.

Shapes: B samples, L tokens, W windows, G tokens of a window, K prompt tokens, D model width, N heads, E head width,
P rotated pairs of channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seedvr2_ray.models.attention import attend_batch
from seedvr2_ray.models.backends import AttentionBackend
from seedvr2_ray.models.seedvr2.transformer.rope import rotate
from seedvr2_ray.models.swiftvr.config import TransformerConfig
from seedvr2_ray.models.swiftvr.windows import WindowTables


class RMSNorm(nn.Module):
    """Normalises over all heads together, with a learned weight."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.width))
        self.eps = config.norm_eps

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Normalise every token."""
        return F.rms_norm(x_BLD, self.weight.shape, self.weight, self.eps)


class WindowAttention(nn.Module):
    """Attention among the tokens of each window."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = (config.num_heads, config.head_dim)
        # Three products instead of one: the norms and the kernels want each of them contiguous.
        self.to_q = nn.Linear(config.width, config.width)
        self.to_k = nn.Linear(config.width, config.width)
        self.to_v = nn.Linear(config.width, config.width)
        self.norm_q = RMSNorm(config)
        self.norm_k = RMSNorm(config)
        self.to_out = nn.ModuleList([nn.Linear(config.width, config.width)])

    def project(self, x_BLD: Tensor, rotations_LP2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys, normalised and rotated, and values; each [B, L, N, E]."""
        queries_BLNE = rotate(self.norm_q(self.to_q(x_BLD)).unflatten(-1, self.heads), rotations_LP2)
        keys_BLNE = rotate(self.norm_k(self.to_k(x_BLD)).unflatten(-1, self.heads), rotations_LP2)
        return queries_BLNE, keys_BLNE, self.to_v(x_BLD).unflatten(-1, self.heads)

    def forward(
        self, heads: tuple[Tensor, Tensor, Tensor], tables: WindowTables, *, attention: AttentionBackend
    ) -> Tensor:
        """Return what attention adds to every token, before its gate.

        Args:
            heads: from :meth:`project`.
        """
        batch = len(heads[0])
        if tables.num_windows == 1:
            out_BLNE = attend_batch(*heads, backend=attention)
        else:
            windows = (
                heads_BLNE.index_select(1, tables.gather_L).view(batch * tables.num_windows, -1, *self.heads)
                for heads_BLNE in heads
            )
            out_WGNE = attend_batch(*windows, backend=attention)
            out_BLNE = out_WGNE.reshape(batch, -1, *self.heads).index_select(1, tables.owner_L)
        out_BLD: Tensor = self.to_out[0](out_BLNE.flatten(2))
        return out_BLD


class PromptAttention(nn.Module):
    """Attention of every token to the prompt, whose keys and values are constants."""

    prompt_k_KNE: Tensor | None
    prompt_v_KNE: Tensor | None

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = (config.num_heads, config.head_dim)
        self.to_q = nn.Linear(config.width, config.width)
        self.to_k: nn.Linear | None = nn.Linear(config.width, config.width)
        self.to_v: nn.Linear | None = nn.Linear(config.width, config.width)
        self.norm_q = RMSNorm(config)
        self.norm_k: RMSNorm | None = RMSNorm(config)
        self.to_out = nn.ModuleList([nn.Linear(config.width, config.width)])
        # Derived by fold(), never part of the checkpoint.
        self.register_buffer("prompt_k_KNE", None, persistent=False)
        self.register_buffer("prompt_v_KNE", None, persistent=False)

    def fold(self, prompt_KD: Tensor) -> None:
        """Keep the keys and values of the prompt instead of the weights that make them."""
        assert self.to_k is not None and self.to_v is not None and self.norm_k is not None, "folded already"
        prompt_KD = prompt_KD.to(self.to_k.weight.dtype)
        self.prompt_k_KNE = self.norm_k(self.to_k(prompt_KD)).unflatten(-1, self.heads)
        self.prompt_v_KNE = self.to_v(prompt_KD).unflatten(-1, self.heads)
        self.to_k = self.to_v = self.norm_k = None

    def forward(self, x_BLD: Tensor, *, attention: AttentionBackend) -> Tensor:
        """Return what attention adds to every token."""
        assert self.prompt_k_KNE is not None and self.prompt_v_KNE is not None, "fold comes first"
        queries_BLNE = self.norm_q(self.to_q(x_BLD)).unflatten(-1, self.heads)
        prompt = (heads_KNE.expand(len(x_BLD), -1, -1, -1) for heads_KNE in (self.prompt_k_KNE, self.prompt_v_KNE))
        out_BLD: Tensor = self.to_out[0](attend_batch(queries_BLNE, *prompt, backend=attention).flatten(2))
        return out_BLD


class GeluIn(nn.Module):
    """First half of the MLP."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(config.width, config.ffn_width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Widen every token and apply the tanh form of GELU."""
        return F.gelu(self.proj(x_BLD), approximate="tanh")


class FeedForward(nn.Module):
    """MLP; the empty place in ``net`` is the checkpoint's."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.net = nn.Sequential(GeluIn(config), nn.Identity(), nn.Linear(config.ffn_width, config.width))

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Map every token by itself."""
        out_BLD: Tensor = self.net(x_BLD)
        return out_BLD
