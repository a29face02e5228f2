"""One layer of the SwiftVR transformer: windows among themselves, then the prompt, then an MLP.

Timestep and prompt never change, so :meth:`Block.fold` turns what they contribute into constants and drops the
weights that made them. A layer runs folded only.

Shapes: B samples, L tokens, K prompt tokens, D model width, P rotated pairs of channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seedvr2_ray.models.swiftvr.config import TransformerConfig
from seedvr2_ray.models.swiftvr.execution import DEFAULT_EXECUTION, Execution
from seedvr2_ray.models.swiftvr.layers import FeedForward, PromptAttention, WindowAttention
from seedvr2_ray.models.swiftvr.windows import WindowTables


class Block(nn.Module):
    """One layer; works on the residual stream in place."""

    modulation_6D: Tensor | None

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.scale_shift_table: nn.Parameter | None = nn.Parameter(torch.zeros(1, 6, config.width))
        self.attn1 = WindowAttention(config)
        self.norm2 = nn.LayerNorm(config.width, config.norm_eps)
        self.attn2 = PromptAttention(config)
        self.ffn = FeedForward(config)
        # Derived by fold(), never part of the checkpoint: shift, 1 + scale and gate of attention, then of the MLP.
        self.register_buffer("modulation_6D", None, persistent=False)

    def fold(self, time_6D: Tensor, prompt_KD: Tensor) -> None:
        """Turn timestep and prompt into constants, in place and for good."""
        assert self.scale_shift_table is not None, "folded already"
        modulation_6D = self.scale_shift_table[0].float() + time_6D.float()
        modulation_6D[1::3] += 1.0
        self.modulation_6D = modulation_6D.to(self.norm2.weight.dtype)
        self.scale_shift_table = None
        self.attn2.fold(prompt_KD)

    def forward(
        self, x_BLD: Tensor, tables: WindowTables, rotations_LP2: Tensor, execution: Execution = DEFAULT_EXECUTION
    ) -> Tensor:
        """Return the residual stream after this layer, in the memory of ``x_BLD``."""
        assert self.modulation_6D is not None, "fold comes first"
        attention_gate_D, ffn_gate_D = self.modulation_6D[2], self.modulation_6D[5]
        steps, attention = execution.steps, execution.attention
        heads = steps.project(self.attn1, self.enter_attention(x_BLD), rotations_LP2)
        x_BLD.addcmul_(self.attn1(heads, tables, attention=attention), attention_gate_D)
        del heads
        x_BLD.add_(self.attn2(self.norm2(x_BLD), attention=attention))
        for band_BLD in torch.split(x_BLD, execution.band_tokens, dim=1):
            band_BLD.addcmul_(steps.feed_forward(self.ffn, self.enter_ffn(band_BLD)), ffn_gate_D)
        return x_BLD

    def enter_attention(self, x_BLD: Tensor) -> Tensor:
        """Normalise and modulate for attention."""
        return self._enter(x_BLD, 0)

    def enter_ffn(self, x_BLD: Tensor) -> Tensor:
        """Normalise and modulate for the MLP."""
        return self._enter(x_BLD, 3)

    def _enter(self, x_BLD: Tensor, first: int) -> Tensor:
        assert self.modulation_6D is not None, "fold comes first"
        # Modulation is what a layer norm does with its own weight and bias: one kernel instead of three.
        return F.layer_norm(x_BLD, x_BLD.shape[-1:], self.modulation_6D[first + 1], self.modulation_6D[first], self.eps)
