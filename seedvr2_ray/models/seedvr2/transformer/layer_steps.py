"""The steps of a transformer layer around attention, as functions: project, project back, MLP.

They know nothing of windows and see one modality at a time, so that they can be compiled once for all layers, and
heads can be exchanged between devices before and after attention.

Shapes: L tokens, D model width, N heads, E head width, P rotated pairs.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seedvr2_ray.models.attention import Heads
from seedvr2_ray.models.seedvr2.transformer.rope import rotate


class Slot(NamedTuple):
    """Modulation of one half of a layer: x * scale + shift before it, times gate after it."""

    shift_D: Tensor
    scale_D: Tensor
    gate_D: Tensor


class TimeSlots(NamedTuple):
    """Modulation of both halves; the timestep's share of it, or the sum that gets applied."""

    attn: Slot
    mlp: Slot


class Branch(NamedTuple):
    """What one modality passes through in one layer at one timestep."""

    proj_qkv: nn.Linear
    norm_q: nn.Module
    norm_k: nn.Module
    proj_out: nn.Linear
    mlp: nn.Module
    slots: TimeSlots | None
    """``None`` leaves modulation and gate of attention out, and the MLP."""
    head_dim: int
    eps: float


def project(x_LD: Tensor, branch: Branch, rotations_LP2: Tensor | None) -> Heads:
    """Return normalised and rotated queries and keys, and values."""
    x_LD = rms_norm(x_LD, branch.eps)
    if branch.slots is not None:
        x_LD = modulate(x_LD, branch.slots.attn.shift_D, branch.slots.attn.scale_D)
    # Three products instead of one: the norm and the kernels want each of them contiguous.
    q_LNE, k_LNE, v_LNE = (
        torch.unflatten(F.linear(x_LD, weight), -1, (-1, branch.head_dim)) for weight in branch.proj_qkv.weight.chunk(3)
    )
    q_LNE, k_LNE = branch.norm_q(q_LNE), branch.norm_k(k_LNE)
    if rotations_LP2 is not None:
        q_LNE, k_LNE = rotate(q_LNE, rotations_LP2), rotate(k_LNE, rotations_LP2)
    return Heads(q_LNE, k_LNE, v_LNE)


def project_back(heads_LNE: Tensor, branch: Branch) -> Tensor:
    """Return what attention adds to the residual stream."""
    change_LD: Tensor = branch.proj_out(heads_LNE.flatten(1))
    return change_LD if branch.slots is None else change_LD.mul_(branch.slots.attn.gate_D)


def mlp_change(x_LD: Tensor, branch: Branch) -> Tensor:
    """Return what the MLP adds to the residual stream."""
    assert branch.slots is not None, "without modulation there is no MLP"
    slot = branch.slots.mlp
    inner_LD: Tensor = branch.mlp(modulate(rms_norm(x_LD, branch.eps), slot.shift_D, slot.scale_D))
    return inner_LD.mul_(slot.gate_D)


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """Divide by the root mean square of the last dimension; statistics in float32, result as ``x``."""
    return F.rms_norm(x, x.shape[-1:], eps=eps).to(x.dtype)


def modulate(x_LD: Tensor, shift_D: Tensor, scale_D: Tensor) -> Tensor:
    """Scale and shift in place, rounding to the dtype of ``x`` after each; ``x`` must be a fresh tensor."""
    return x_LD.mul_(scale_D).add_(shift_D)
