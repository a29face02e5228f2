"""How far restored clips are from clean ones, in units of how far the input was.

Dividing by each clip's own input error makes a flat clip count as much as a busy one; else the model
would learn to help where the error is large and to harm a little where it is small.
"""

from torch import Tensor

RAW_WEIGHT = 0.15
"""Of the output before colour matching: without it the raw low band drifts, and other matching methods suffer."""
_SMOOTHING = 1e-3
_FLOOR = 0.01
"""Least input error, about one 8-bit code: nearly perfect clips do not take over."""


def clip_loss(restored_BCTHW: Tensor, target_BCTHW: Tensor, input_BCTHW: Tensor) -> Tensor:
    """Add up relative Charbonnier, squared and difference errors.

    Differences along width and height keep edges sharp, those along time keep still pictures still.

    Returns:
        About 2.75 for the input itself; less is better.
    """
    error, reference = restored_BCTHW - target_BCTHW, (input_BCTHW - target_BCTHW).detach()
    absolute = (error.square() + _SMOOTHING**2).sqrt()
    loss = _mean(absolute) / (_mean(reference.abs()) + _FLOOR)
    loss = loss + _mean(error.square()) / (_mean(reference.square()) + _FLOOR**2)
    for dim in (2, 3, 4):
        loss = loss + 0.25 * _mean(error.diff(dim=dim).abs()) / (_mean(reference.diff(dim=dim).abs()) + _FLOOR)
    return loss.mean()


def _mean(values_BCTHW: Tensor) -> Tensor:
    return values_BCTHW.flatten(1).mean(dim=1)
