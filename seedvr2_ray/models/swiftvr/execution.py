"""How a forward pass of the transformer is carried out, apart from what it computes.

Shapes: B samples, L tokens, D model width, P rotated pairs of channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from seedvr2_ray.models.backends import AttentionBackend
from seedvr2_ray.models.swiftvr.layers import FeedForward, WindowAttention

_MOST_GRAPHS = 8
"""Of one step: all layers share one, and sizes that are 1 have their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSteps:
    """What every layer does around attention: functions of a part of the layer and tensors."""

    project: Callable[[WindowAttention, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] = WindowAttention.project
    feed_forward: Callable[[FeedForward, Tensor], Tensor] = FeedForward.forward


def compiled_steps() -> LayerSteps:
    """Return steps whose norms, rotation and activations are fused with ``torch.compile``.

    Attention itself stays as it is: its kernels are fast. All layers and sizes share what is compiled. Where
    it cannot be one graph, or would be compiled too often, the call fails: nothing falls back in silence.
    """
    fuse = partial(torch.compile, dynamic=True, fullgraph=True, isolate_recompiles=True, recompile_limit=_MOST_GRAPHS)
    return LayerSteps(project=fuse(WindowAttention.project), feed_forward=fuse(FeedForward.forward))


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """Choices of the machine. None of them changes the result beyond rounding."""

    attention: AttentionBackend = "sdpa"
    band_tokens: int = 16_384
    """Tokens whose hidden activations of the MLP exist at one time."""
    steps: LayerSteps = LayerSteps()

    def __post_init__(self) -> None:
        if self.band_tokens < 1:
            raise ValueError(f"band_tokens must be at least 1, got {self.band_tokens}")


DEFAULT_EXECUTION = Execution()
