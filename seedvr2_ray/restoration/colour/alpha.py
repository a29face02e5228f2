"""Transparency: the model sees three channels, so alpha is scaled beside it, along the restored picture's edges.

Shape letters: T frames, H height, W width.
"""

import torch
from torch import Tensor

from seedvr2_ray.restoration.resize import resize_frames

_EDGE_VARIANCE = 1e-3
"""Variance of luma, in 0..1 squared, from which on a neighbourhood counts as an edge."""
_NO_EDGE_VARIANCE = 1e-5
"""Keeps the fit finite."""
_RADIUS = 1
"""Of the neighbourhoods, in pixels of the source."""
_LUMA = (0.2126, 0.7152, 0.0722)


def fill_transparent(colours_T3HW: Tensor, alpha_T1HW: Tensor) -> Tensor:
    """Give invisible pixels the colours of visible ones nearby.

    What a file holds under zero alpha is arbitrary, often black; a resize and a network with a wide view would mix it
    into the visible border. Colours are averaged over visible pixels at ever coarser scales until none is left out.

    Args:
        colours_T3HW: float32 in 0..1, not multiplied by alpha.
        alpha_T1HW: float32 in 0..1.

    Returns:
        The colours where alpha is above zero, the fill elsewhere.
    """
    hidden_T1HW = alpha_T1HW <= 0
    # Asked only where the answer is at hand: a GPU would be waited for, and its fill goes nowhere then.
    if alpha_T1HW.is_cpu and not hidden_T1HW.any():
        return colours_T3HW
    fill_T3HW = _fill(colours_T3HW * alpha_T1HW, alpha_T1HW)
    return torch.where(hidden_T1HW, fill_T3HW, colours_T3HW)


def scale_alpha(alpha_T1HW: Tensor, restored_T3HW: Tensor) -> Tensor:
    """Scale alpha to the restored picture's size, its edges drawn to the picture's own.

    A guided filter in its fast form (He, Sun and Tang, 2010; He and Sun, 2015, arXiv:1505.00996): at the source's size
    alpha is fitted as a linear function of luma in each neighbourhood, and the fit is applied to the luma at full
    size. Where the picture has no edge a fit says nothing, so there the scaled alpha itself is taken.

    Args:
        alpha_T1HW: float32 in 0..1 at the source's size.
        restored_T3HW: float32 in 0..1 at the output's size.

    Returns:
        float32 in 0..1 at the output's size; the argument itself when the size is the same.
    """
    source_size, (height, width) = alpha_T1HW.shape[-2:], restored_T3HW.shape[-2:]
    if source_size == (height, width):
        return alpha_T1HW
    weights_311 = torch.tensor(_LUMA, device=restored_T3HW.device).reshape(3, 1, 1)
    luma_T1HW = (restored_T3HW * weights_311).sum(1, keepdim=True)
    fit = _fit_to_luma(alpha_T1HW, resize_frames(luma_T1HW, source_size[0], source_size[1]))
    slope, offset, edge = (
        torch.nn.functional.interpolate(part, size=(height, width), mode="bilinear", align_corners=False)
        for part in fit
    )
    scaled_T1HW = resize_frames(alpha_T1HW, height, width).clamp_(0.0, 1.0)
    return torch.lerp(scaled_T1HW, slope * luma_T1HW + offset, edge).clamp_(0.0, 1.0)


def _fit_to_luma(alpha_T1HW: Tensor, luma_T1HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return slope and offset of alpha over luma, and from 0 to 1 how much of an edge there is."""
    mean_alpha, mean_luma = _box(alpha_T1HW, _RADIUS), _box(luma_T1HW, _RADIUS)
    variance = (_box(luma_T1HW * luma_T1HW, _RADIUS) - mean_luma * mean_luma).clamp_min_(0.0)
    covariance = _box(luma_T1HW * alpha_T1HW, _RADIUS) - mean_luma * mean_alpha
    slope = covariance / (variance + _NO_EDGE_VARIANCE)
    offset = mean_alpha - slope * mean_luma
    return _box(slope, _RADIUS), _box(offset, _RADIUS), variance / (variance + _EDGE_VARIANCE)


def _box(x_T1HW: Tensor, radius: int) -> Tensor:
    padded = torch.nn.functional.pad(x_T1HW, (radius,) * 4, mode="replicate")
    return torch.nn.functional.avg_pool2d(padded, 2 * radius + 1, stride=1)


def _fill(premultiplied_T3HW: Tensor, alpha_T1HW: Tensor) -> Tensor:
    """Divide out alpha where there is some, and take the fill of the picture at half the size where there is none."""
    known_T3HW = premultiplied_T3HW / alpha_T1HW.clamp_min(1e-6)
    height, width = alpha_T1HW.shape[-2:]
    if (height, width) == (1, 1) or (alpha_T1HW.is_cpu and (alpha_T1HW > 0).all()):
        return known_T3HW
    half_premultiplied = torch.nn.functional.avg_pool2d(premultiplied_T3HW, 2, ceil_mode=True)
    half_alpha = torch.nn.functional.avg_pool2d(alpha_T1HW, 2, ceil_mode=True)
    coarse_T3HW = torch.nn.functional.interpolate(
        _fill(half_premultiplied, half_alpha), size=(height, width), mode="bilinear", align_corners=False
    )
    return torch.where(alpha_T1HW > 0, known_T3HW, coarse_T3HW)
