"""One layer of the SeedVR2 transformer: windowed joint attention of video and text, then an MLP.

Shapes: L packed tokens, D model width, N heads, E head width, P rotated pairs, B samples.
"""

from collections.abc import Sequence
from typing import Generic, Literal, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seedvr2_ray.models.attention import Heads, attend_windows
from seedvr2_ray.models.seedvr2.config import DiTConfig
from seedvr2_ray.models.seedvr2.transformer.execution import Execution
from seedvr2_ray.models.seedvr2.transformer.packing import PackingPlan
from seedvr2_ray.models.seedvr2.transformer.rope import rope_frequencies, rotate

Branch = Literal["vid", "txt", "all"]


_Part = TypeVar("_Part", bound=nn.Module)


class PerBranch(nn.ModuleDict, Generic[_Part]):
    """One module each for video and text, or one for both."""

    def of(self, branch: Branch) -> _Part:
        """Return the module of a branch."""
        return cast(_Part, self[branch])


class Slot(NamedTuple):
    """Modulation of one half of a layer: x * scale + shift before it, times gate after it."""

    shift_BD: Tensor
    scale_BD: Tensor
    gate_BD: Tensor


class TimeSlots(NamedTuple):
    """What the timestep adds to the modulation of every layer."""

    attn: Slot
    mlp: Slot


class AdaLN(nn.Module):
    """Learned modulation of one branch of one layer, to which the timestep's is added.

    There is no implicit one: scales are learned around one. The vectors stay in float32 when the
    rest is cast, because their sum with the timestep's is what gets applied.
    """

    folded_6D: Tensor | None

    def __init__(self, width: int) -> None:
        super().__init__()
        for layer in ("attn", "mlp"):
            for name, centre in (("shift", 0.0), ("scale", 1.0), ("gate", 0.0)):
                vector = nn.Parameter(torch.empty(width))
                nn.init.normal_(vector, centre, width**-0.5)
                self.register_parameter(f"{layer}_{name}", vector)
        # Derived by fold(), never part of the checkpoint.
        self.register_buffer("folded_6D", None, persistent=False)

    def slot(self, layer: Literal["attn", "mlp"], time: TimeSlots | None) -> Slot:
        """Add up what was learned and what the timestep brings; ``None`` stands for the folded one."""
        if time is None:
            assert self.folded_6D is not None, "fold comes first"
            rows_3D = self.folded_6D[:3] if layer == "attn" else self.folded_6D[3:]
            return Slot(*rows_3D[:, None])
        learned = (self.get_parameter(f"{layer}_{name}") for name in ("shift", "scale", "gate"))
        return Slot(*(a + b for a, b in zip(getattr(time, layer), learned, strict=True)))

    def fold(self, time: TimeSlots) -> None:
        """Keep the sums for one timestep, so that calls without one need not make them."""
        self.folded_6D = torch.cat([*self.slot("attn", time), *self.slot("mlp", time)])


class SwiGLU(nn.Module):
    """Gated MLP (Shazeer, 2020, arXiv:2002.05202) without biases."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj_in_gate = nn.Linear(width, hidden, bias=False)
        self.proj_out = nn.Linear(hidden, width, bias=False)
        self.proj_in = nn.Linear(width, hidden, bias=False)

    def forward(self, x_LD: Tensor) -> Tensor:
        """Map every token by itself."""
        hidden: Tensor = F.silu(self.proj_in_gate(x_LD)).mul_(self.proj_in(x_LD))
        out_LD: Tensor = self.proj_out(hidden)
        return out_LD


class GeluMLP(nn.Module):
    """MLP with the tanh form of GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(width, hidden)
        self.proj_out = nn.Linear(hidden, width)

    def forward(self, x_LD: Tensor) -> Tensor:
        """Map every token by itself."""
        out_LD: Tensor = self.proj_out(F.gelu(self.proj_in(x_LD), approximate="tanh"))
        return out_LD


class Scale(nn.Module):
    """The learned weight of an RMS normalisation."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension; both roundings happen in the dtype of ``x``."""
        return rms_norm(x, self.eps) * self.weight.to(x.dtype)


class _StoredFrequencies(nn.Module):
    """Takes the rotary frequencies of a checkpoint, so that it loads strictly. Nothing reads them."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.register_buffer("freqs", rope_frequencies(config))


class Attention(nn.Module):
    """Projections of joint attention; windows and kernels are applied from outside."""

    def __init__(self, config: DiTConfig, branches: tuple[Branch, ...]) -> None:
        super().__init__()
        inner, width, head = config.inner_width, config.width, config.head_dim
        self.num_heads = config.num_heads
        eps = config.norm_eps
        self.proj_qkv: PerBranch[nn.Linear] = PerBranch({b: nn.Linear(width, 3 * inner, bias=False) for b in branches})
        self.proj_out: PerBranch[nn.Linear] = PerBranch({b: nn.Linear(inner, width) for b in branches})
        self.norm_q: PerBranch[Scale] = PerBranch({b: Scale(head, eps) for b in branches})
        self.norm_k: PerBranch[Scale] = PerBranch({b: Scale(head, eps) for b in branches})
        self.rope = nn.ModuleDict({"rope": _StoredFrequencies(config)})

    def project(self, x_LD: Tensor, branch: Branch, rotations_LP2: Tensor | None) -> Heads:
        """Return normalised and rotated queries and keys, and values."""
        # Three products instead of one: the norm and the kernels want each of them contiguous.
        weights = self.proj_qkv.of(branch).weight.chunk(3)
        q_LNE, k_LNE, v_LNE = (F.linear(x_LD, weight).view(len(x_LD), self.num_heads, -1) for weight in weights)
        q_LNE, k_LNE = self.norm_q.of(branch)(q_LNE), self.norm_k.of(branch)(k_LNE)
        if rotations_LP2 is not None:
            q_LNE, k_LNE = rotate(q_LNE, rotations_LP2), rotate(k_LNE, rotations_LP2)
        return Heads(q_LNE, k_LNE, v_LNE)


class Block(nn.Module):
    """One layer. The text passes through every window's attention and is averaged over them."""

    def __init__(self, config: DiTConfig, layer: int) -> None:
        super().__init__()
        dual = config.has_dual_weights(layer)
        branches: tuple[Branch, ...] = ("vid", "txt") if dual else ("all",)
        self.video: Branch = branches[0]
        self.text: Branch = branches[-1]
        self.is_last = layer == config.num_layers - 1
        self.has_plain_text = self.is_last and not config.modulates_last_text
        self.eps = config.norm_eps
        mlp: type[nn.Module] = SwiGLU if config.mlp == "swiglu" else GeluMLP
        self.attn = Attention(config, branches)
        self.mlp: PerBranch[nn.Module] = PerBranch({b: mlp(config.width, config.mlp_width) for b in branches})
        self.ada: PerBranch[AdaLN] = PerBranch({b: AdaLN(config.width) for b in branches})

    def forward(
        self, video_LD: Tensor, text_LD: Tensor, time: TimeSlots | None, plan: PackingPlan, execution: Execution
    ) -> tuple[Tensor, Tensor]:
        """Return the residual streams after this layer.

        Args:
            time: the timestep's share of the modulation, or ``None`` for the folded timestep.
        """
        asks = not (self.is_last and execution.skip_unused_text)
        change_LD, text_mean_LNE = self._attend(video_LD, text_LD, time, plan, execution, text_queries=asks)
        video_LD = self._apply_mlp(video_LD + change_LD, self.video, time, plan.video_samples_L, execution.band_tokens)
        if text_mean_LNE is None:
            return video_LD, text_LD
        change_LD = self.leave_attention(text_mean_LNE, self.text, time, plan.text_samples_L, plain=self.has_plain_text)
        text_LD = text_LD + change_LD
        if self.has_plain_text:
            return video_LD, text_LD
        return video_LD, self._apply_mlp(text_LD, self.text, time, plan.text_samples_L, execution.band_tokens)

    def enter_attention(
        self,
        x_LD: Tensor,
        branch: Branch,
        time: TimeSlots | None,
        samples_L: Tensor | None,
        rotations_LP2: Tensor | None,
        *,
        plain: bool = False,
    ) -> Heads:
        """Return queries, keys and values of tokens; ``plain`` leaves the modulation out."""
        x_LD = rms_norm(x_LD, self.eps)
        if not plain:
            x_LD = modulate(x_LD, self.ada.of(branch).slot("attn", time), samples_L)
        return self.attn.project(x_LD, branch, rotations_LP2)

    def leave_attention(
        self,
        heads_LNE: Tensor,
        branch: Branch,
        time: TimeSlots | None,
        samples_L: Tensor | None,
        *,
        plain: bool = False,
    ) -> Tensor:
        """Return what attention adds to the residual stream; ``plain`` leaves the gate out."""
        change_LD: Tensor = self.attn.proj_out.of(branch)(heads_LNE.flatten(1))
        if plain:
            return change_LD
        return gate(change_LD, self.ada.of(branch).slot("attn", time), samples_L)

    def mlp_change(self, x_LD: Tensor, branch: Branch, time: TimeSlots | None, samples_L: Tensor | None) -> Tensor:
        """Return what the MLP adds to the residual stream."""
        slot = self.ada.of(branch).slot("mlp", time)
        inner_LD = self.mlp.of(branch)(modulate(rms_norm(x_LD, self.eps), slot, samples_L))
        return gate(inner_LD, slot, samples_L)

    def _attend(
        self,
        video_LD: Tensor,
        text_LD: Tensor,
        time: TimeSlots | None,
        plan: PackingPlan,
        execution: Execution,
        *,
        text_queries: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the change of the video, and the text's heads averaged over the windows of its sample."""
        text = self.enter_attention(
            text_LD, self.text, time, plan.text_samples_L, plan.text_rotations_LP2, plain=self.has_plain_text
        )
        changes: list[Tensor] = []
        text_sums: list[Tensor] = []
        for band in plan.bands:
            rotations_LP2 = plan.video_rotations_LP2.index_select(0, band.rotation_rows_L)
            rows_LD = video_LD.index_select(0, band.rows_L)
            video = self.enter_attention(rows_LD, self.video, time, band.samples_L, rotations_LP2)
            out_LNE, text_sum_LNE = attend_windows(
                video, text, band.windows, backend=execution.attention, text_queries=text_queries
            )
            changes.append(self.leave_attention(out_LNE, self.video, time, band.samples_L))
            if text_sum_LNE is not None:
                text_sums.append(text_sum_LNE)
        change_LD = _joined(changes).index_select(0, plan.inverse_L)
        if not text_queries:
            return change_LD, None
        mean_LNE = sum(text_sums[1:], start=text_sums[0]) / plan.text_windows_L[:, None, None]
        return change_LD, mean_LNE.to(text.v_LNE.dtype)

    def _apply_mlp(
        self, x_LD: Tensor, branch: Branch, time: TimeSlots | None, samples_L: Tensor | None, band_tokens: int
    ) -> Tensor:
        pieces: list[Tensor] = []
        for start in range(0, len(x_LD), band_tokens):
            rows = slice(start, start + band_tokens)
            samples = None if samples_L is None else samples_L[rows]
            pieces.append(x_LD[rows] + self.mlp_change(x_LD[rows], branch, time, samples))
        return _joined(pieces)


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """Divide by the root mean square of the last dimension; statistics in float32, result as ``x``."""
    return F.rms_norm(x, x.shape[-1:], eps=eps).to(x.dtype)


def modulate(x_LD: Tensor, slot: Slot, samples_L: Tensor | None) -> Tensor:
    """Scale and shift in place, rounding to the dtype of ``x`` after each; ``x`` must be a fresh tensor."""
    return x_LD.mul_(_per_token(slot.scale_BD, samples_L)).add_(_per_token(slot.shift_BD, samples_L))


def gate(x_LD: Tensor, slot: Slot, samples_L: Tensor | None) -> Tensor:
    """Multiply a layer's output by its gate, in place."""
    return x_LD.mul_(_per_token(slot.gate_BD, samples_L))


def _joined(pieces: Sequence[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))


def _per_token(vectors_BD: Tensor, samples_L: Tensor | None) -> Tensor:
    """One sample, or vectors without a timestep, broadcast; otherwise every token gets its sample's."""
    if samples_L is None or len(vectors_BD) == 1:
        return vectors_BD
    return vectors_BD.index_select(0, samples_L)
