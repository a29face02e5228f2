"""What moves tokens and heads between the devices that compute one clip together.

The transformer asks the same of every exchange: which tokens this device begins with, which it works on in a layer,
what it attends to, and what all devices made in the end. With one device all answers are the argument itself.

Text is short: every device holds all of it, and only its result over all windows is put together.

Shapes: L tokens, D model width, N heads, E head width, X any channels.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from seedvr2_ray.models.attention import Heads
from seedvr2_ray.models.seedvr2.config import DiTConfig
from seedvr2_ray.models.seedvr2.transformer.packing import BandPlan, PackingPlan, Size, plan_packing


class Exchange(Protocol):
    """One clip's tokens on their way through the layers."""

    @property
    def plans(self) -> Sequence[PackingPlan]:
        """What this device attends to in layers with regular windows, and in those with shifted ones."""

    def take(self, all_LX: Tensor) -> Tensor:
        """Of all tokens, those that this device begins with."""

    def enter(self, video_LD: Tensor, layer: int) -> Tensor:
        """From the tokens after the layer before to those that this device works on in a layer."""

    def before(self, heads: Heads, band: BandPlan) -> Heads:
        """From this device's tokens of a band to what it attends to."""

    def after(self, out_LNE: Tensor, band: BandPlan) -> Tensor:
        """The opposite of :meth:`before`, for what attention returns."""

    def before_text(self, heads: Heads) -> Heads:
        """From the text's heads to those that this device attends with."""

    def after_text(self, sum_LNE: Tensor) -> Tensor:
        """From what this device's windows and heads add up to, to the sum over all windows for all heads."""

    def join(self, mine_LX: Tensor) -> Tensor:
        """From what this device made of its tokens in the last layer, to all of them in order."""


class Sharing(Protocol):
    """How clips are spread over devices."""

    def begin(
        self, config: DiTConfig, grid: Size, text_length: int, *, band_tokens: int, device: torch.device
    ) -> Exchange:
        """Plan one clip, patched (T, Y, X), or return what was planned before for the same size.

        Raises:
            SettingsError: this network cannot be spread in this way.
        """


class OneDevice:
    """All tokens and heads are here already."""

    def begin(
        self, config: DiTConfig, grid: Size, text_length: int, *, band_tokens: int, device: torch.device
    ) -> Exchange:
        """Plan both kinds of layers for the whole clip."""
        return Whole(
            [
                plan_packing(config, grid, text_length, shifted=shifted, band_tokens=band_tokens, device=device)
                for shifted in (False, True)
            ]
        )


class Whole:
    """A clip on one device: nothing moves."""

    def __init__(self, plans: Sequence[PackingPlan]) -> None:
        self.plans = plans

    def take(self, all_LX: Tensor) -> Tensor:
        return all_LX

    def enter(self, video_LD: Tensor, layer: int) -> Tensor:
        return video_LD

    def before(self, heads: Heads, band: BandPlan) -> Heads:
        return heads

    def after(self, out_LNE: Tensor, band: BandPlan) -> Tensor:
        return out_LNE

    def before_text(self, heads: Heads) -> Heads:
        return heads

    def after_text(self, sum_LNE: Tensor) -> Tensor:
        return sum_LNE

    def join(self, mine_LX: Tensor) -> Tensor:
        return mine_LX
