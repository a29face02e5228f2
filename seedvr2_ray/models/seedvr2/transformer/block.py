"""One layer of the SeedVR2 transformer: windowed joint attention of video and text, then an MLP.

Shapes: L tokens, D model width, N heads, E head width.
"""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seedvr2_ray.models.attention import attend_windows
from seedvr2_ray.models.seedvr2.config import DiTConfig
from seedvr2_ray.models.seedvr2.transformer.execution import Execution
from seedvr2_ray.models.seedvr2.transformer.layer_steps import Branch, Slot, TimeSlots, rms_norm
from seedvr2_ray.models.seedvr2.transformer.packing import PackingPlan
from seedvr2_ray.models.seedvr2.transformer.ranks.exchange import Exchange
from seedvr2_ray.models.seedvr2.transformer.rope import rope_frequencies

Part = TypeVar("Part", bound=nn.Module)


class PerBranch(nn.ModuleDict, Generic[Part]):
    """One module each for video and text, or one for both; the names of the entries are the checkpoints'."""

    def __init__(self, build: Callable[[], Part], *, dual: bool) -> None:
        super().__init__({name: build() for name in (("vid", "txt") if dual else ("all",))})

    @property
    def video(self) -> Part:
        """What video passes through."""
        return cast(Part, self["vid" if "vid" in self else "all"])

    @property
    def text(self) -> Part:
        """What text passes through."""
        return cast(Part, self["txt" if "txt" in self else "all"])


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

    def slots(self, time: TimeSlots | None) -> TimeSlots:
        """Add up what was learned and what the timestep brings; ``None`` stands for the folded one."""
        if time is None:
            assert self.folded_6D is not None, "fold comes first"
            return TimeSlots(Slot(*self.folded_6D[:3]), Slot(*self.folded_6D[3:]))
        return TimeSlots(self._sum("attn", time.attn), self._sum("mlp", time.mlp))

    def _sum(self, layer: str, time: Slot) -> Slot:
        learned = (self.get_parameter(f"{layer}_{name}") for name in ("shift", "scale", "gate"))
        return Slot(*(a + b for a, b in zip(time, learned, strict=True)))

    def fold(self, time: TimeSlots) -> None:
        """Keep the sums for one timestep, so that calls at it need not make them."""
        attn, mlp = self.slots(time)
        self.folded_6D = torch.stack([*attn, *mlp])


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

    def __init__(self, config: DiTConfig, *, dual: bool) -> None:
        super().__init__()
        inner, width, head, eps = config.inner_width, config.width, config.head_dim, config.norm_eps
        self.proj_qkv = PerBranch(lambda: nn.Linear(width, 3 * inner, bias=False), dual=dual)
        self.proj_out = PerBranch(lambda: nn.Linear(inner, width), dual=dual)
        self.norm_q = PerBranch(lambda: Scale(head, eps), dual=dual)
        self.norm_k = PerBranch(lambda: Scale(head, eps), dual=dual)
        self.rope = nn.ModuleDict({"rope": _StoredFrequencies(config)})


class Block(nn.Module):
    """One layer. The text passes through every window's attention and is averaged over them."""

    def __init__(self, config: DiTConfig, layer: int) -> None:
        super().__init__()
        dual = config.has_dual_weights(layer)
        self.is_last = layer == config.num_layers - 1
        self.has_plain_text = self.is_last and not config.modulates_last_text
        self.head_dim, self.eps = config.head_dim, config.norm_eps
        build_mlp = SwiGLU if config.mlp == "swiglu" else GeluMLP
        self.attn = Attention(config, dual=dual)
        self.mlp: PerBranch[nn.Module] = PerBranch(lambda: build_mlp(config.width, config.mlp_width), dual=dual)
        self.ada = PerBranch(lambda: AdaLN(config.width), dual=dual)

    def forward(
        self,
        video_LD: Tensor,
        text_LD: Tensor,
        time: TimeSlots | None,
        plan: PackingPlan,
        execution: Execution,
        exchange: Exchange,
    ) -> tuple[Tensor, Tensor]:
        """Return the residual streams after this layer.

        Args:
            time: the timestep's share of the modulation, or ``None`` for the folded timestep.
            execution: how the steps are carried out.
            exchange: what stands around attention where other devices hold tokens too.
        """
        video, text, steps = self._video(time), self._text(time), execution.steps
        text_asks = not (self.is_last and execution.skip_unused_text)
        text_heads = exchange.before_text(steps.project(text_LD, text, plan.text_rotations_LP2))
        changes: list[Tensor] = []
        text_sums: list[Tensor] = []
        for band in plan.bands:
            rotations_LP2 = plan.video_rotations_LP2.index_select(0, band.rotation_rows_L)
            heads = exchange.before(steps.project(video_LD.index_select(0, band.rows_L), video, rotations_LP2), band)
            out_LNE, text_sum_LNE = attend_windows(
                heads, text_heads, band.windows, backend=execution.attention, text_queries=text_asks
            )
            changes.append(steps.project_back(exchange.after(out_LNE, band), video))
            if text_sum_LNE is not None:
                text_sums.append(text_sum_LNE)
        video_LD = video_LD + _joined(changes).index_select(0, plan.inverse_L)
        video_LD = self._add_mlp(video_LD, video, execution)
        if not text_asks:
            return video_LD, text_LD
        sum_LNE = exchange.after_text(sum(text_sums[1:], start=text_sums[0]))
        mean_LNE = sum_LNE / plan.text_windows_L[:, None, None]
        text_LD = text_LD + steps.project_back(mean_LNE.to(text_heads.v_LNE.dtype), text)
        if self.has_plain_text:
            return video_LD, text_LD
        return video_LD, self._add_mlp(text_LD, text, execution)

    def _video(self, time: TimeSlots | None) -> Branch:
        attn = self.attn
        parts = (attn.proj_qkv.video, attn.norm_q.video, attn.norm_k.video, attn.proj_out.video)
        return Branch(*parts, self.mlp.video, self.ada.video.slots(time), self.head_dim, self.eps)

    def _text(self, time: TimeSlots | None) -> Branch:
        attn = self.attn
        parts = (attn.proj_qkv.text, attn.norm_q.text, attn.norm_k.text, attn.proj_out.text)
        slots = None if self.has_plain_text else self.ada.text.slots(time)
        return Branch(*parts, self.mlp.text, slots, self.head_dim, self.eps)

    def _add_mlp(self, x_LD: Tensor, branch: Branch, execution: Execution) -> Tensor:
        bands_LD = torch.split(x_LD, execution.band_tokens)
        return _joined([band_LD + execution.steps.mlp_change(band_LD, branch) for band_LD in bands_LD])


def _joined(pieces: Sequence[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))
