"""How a forward pass of the transformer is carried out, apart from what it computes.

Shapes: L tokens, D model width, N heads, E head width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from seedvr2_ray.models.attention import Heads
from seedvr2_ray.models.backends import AttentionBackend
from seedvr2_ray.models.seedvr2.transformer import layer_steps
from seedvr2_ray.models.seedvr2.transformer.layer_steps import Branch
from seedvr2_ray.models.seedvr2.transformer.ranks.exchange import OneDevice, Sharing

_MOST_GRAPHS = 32
"""Of one step: video and text, with weights of their own or shared, at the folded timestep or another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSteps:
    """What every layer does around attention: functions of tensors and one branch's parts."""

    project: Callable[[Tensor, Branch, Tensor | None], Heads] = layer_steps.project
    project_back: Callable[[Tensor, Branch], Tensor] = layer_steps.project_back
    mlp_change: Callable[[Tensor, Branch], Tensor] = layer_steps.mlp_change


def compiled_steps() -> LayerSteps:
    """Return steps whose norms, modulation, rotation and activations are fused with ``torch.compile``.

    Attention itself stays as it is: its kernels are called once per window shape, and a graph of all of them would be
    compiled anew for every picture size. All layers and timesteps share what is compiled. Where it
    cannot be one graph, or would be compiled too often, the call fails: nothing falls back in silence.
    """
    fuse = partial(torch.compile, dynamic=True, fullgraph=True, isolate_recompiles=True, recompile_limit=_MOST_GRAPHS)
    return LayerSteps(
        project=fuse(layer_steps.project),
        project_back=fuse(layer_steps.project_back),
        mlp_change=fuse(layer_steps.mlp_change),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """Choices of the machine. None of them changes the result beyond rounding."""

    attention: AttentionBackend = "sdpa"
    band_tokens: int = 131_072
    """Video tokens whose queries, keys, values and hidden activations exist at one time. The
    residual stream is whole; this bounds what comes on top of it."""
    skip_unused_text: bool = True
    """Leave out what the last layer computes for text, which nothing reads."""
    steps: LayerSteps = LayerSteps()
    """As they are, or compiled."""
    sharing: Sharing = field(default_factory=OneDevice)
    """How a clip is spread over devices."""

    def __post_init__(self) -> None:
        if self.band_tokens < 1:
            raise ValueError(f"band_tokens must be at least 1, got {self.band_tokens}")


DEFAULT_EXECUTION = Execution()
