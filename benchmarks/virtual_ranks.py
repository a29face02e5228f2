"""One rank of a gang on a GPU that is not there: what it holds, while the others exist in name only.

What others would hand it is made without data, of the shapes they would send; so a single process tells what each of
any number of ranks needs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from benchmarks.virtual_device import virtual_device
from seedvr2_ray.models.parallel import SequenceParallel
from seedvr2_ray.models.seedvr2.transformer import memory
from seedvr2_ray.models.seedvr2.transformer.ranks import by_heads, by_windows, choice, traffic


class VirtualRank(SequenceParallel):
    """A rank whose others always agree, and send tensors without data."""

    def agree(self, number: int) -> list[int]:
        """Return the number for each of them."""
        return [number] * self.size

    def _swap(self, pieces: Sequence[Tensor], received: Sequence[Tensor]) -> None:
        """Whatever comes is there already."""


@contextmanager
def sharing_planned() -> Iterator[None]:
    """Let who shares what with whom be worked out with numbers, where all other tensors are without."""
    with ExitStack() as patches:
        for module in (by_windows, choice, traffic, memory):
            for name in ("assign_windows", "cheaper_strategy"):
                if hasattr(module, name):
                    patches.enter_context(patch.object(module, name, _with_numbers(getattr(module, name))))
        for module in (by_windows, by_heads):
            patches.enter_context(patch.object(module, "_plan_rank", _placed(module._plan_rank)))
        yield


def _with_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        with _disable_current_modes():
            return function(*args, **options)

    return call


def _placed(plan_rank: Callable[..., Any]) -> Callable[..., Any]:
    """Have a plan's tensors on the virtual device, once per plan as they would be on another."""
    made: dict[tuple[Any, ...], Any] = {}

    def call(*args: Any) -> Any:
        if args not in made:
            on_host = tuple(torch.device("cpu") if isinstance(each, torch.device) else each for each in args)
            with _disable_current_modes():
                plan = plan_rank(*on_host)
            with torch.inference_mode(False):
                made[args] = _without_numbers(plan)
        return made[args]

    return call


def _without_numbers(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty(value.shape, dtype=value.dtype, device=virtual_device())
    if isinstance(value, tuple):
        return tuple(_without_numbers(each) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _without_numbers(getattr(value, field.name)) for field in fields(value)})
    return value
