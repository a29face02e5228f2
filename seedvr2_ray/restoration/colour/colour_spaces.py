"""CIELAB, HSV and rank matching on tensors: the pieces that colour matching is made of.

Shapes: T frames, C three channels, H height, W width, N values of one set, in any number of sets.
Pictures are R'G'B' in 0..1, fp32.
"""

import torch
from torch import Tensor

# ITU-R BT.709 primaries with the D65 white point, as sRGB has them (IEC 61966-2-1).
_RGB_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_XYZ_TO_RGB = (
    (3.2404542, -1.5371385, -0.4985314),
    (-0.9692660, 1.8760108, 0.0415560),
    (0.0556434, -0.2040259, 1.0572252),
)
_WHITE_XYZ = (0.95047, 1.0, 1.08883)
_LAB_DELTA = 6 / 29
_LAB_KAPPA = (29 / 3) ** 3
NUM_HUE_BINS = 12


def rgb_to_lab(rgb_TCHW: Tensor) -> Tensor:
    """CIE 1976 L*a*b*: lightness 0..100 and two colour axes."""
    linear = torch.where(rgb_TCHW <= 0.04045, rgb_TCHW / 12.92, ((rgb_TCHW + 0.055) / 1.055) ** 2.4)
    t = _mix_channels(linear, _RGB_TO_XYZ) / _channel_column(_WHITE_XYZ, rgb_TCHW)
    f = torch.where(t > _LAB_DELTA**3, t ** (1 / 3), (_LAB_KAPPA * t + 16) / 116)
    fx, fy, fz = f.unbind(1)
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], dim=1)


def lab_to_rgb(lab_TCHW: Tensor) -> Tensor:
    """The opposite of :func:`rgb_to_lab`, clamped to 0..1."""
    lightness, a, b = lab_TCHW.unbind(1)
    fy = (lightness + 16) / 116
    f = torch.stack([fy + a / 500, fy, fy - b / 200], dim=1)
    t = torch.where(f > _LAB_DELTA, f**3, (116 * f - 16) / _LAB_KAPPA)
    linear = _mix_channels(t * _channel_column(_WHITE_XYZ, lab_TCHW), _XYZ_TO_RGB)
    curved = 1.055 * linear.clamp_min(0) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, curved, 12.92 * linear).clamp_(0.0, 1.0)


def _mix_channels(x_TCHW: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    # Written out: a 3 x 3 product is a sum of scaled planes, and no matrix unit may round it.
    x, y, z = x_TCHW.unbind(1)
    return torch.stack([row[0] * x + row[1] * y + row[2] * z for row in matrix], dim=1)


def _channel_column(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]


def rgb_to_hsv(rgb_TCHW: Tensor) -> Tensor:
    """Hue, saturation and value, all 0..1; grey has hue 0. Equal maxima count as blue, then green."""
    r, g, b = rgb_TCHW.unbind(1)
    value, low = rgb_TCHW.amax(1), rgb_TCHW.amin(1)
    spread = value - low
    divisor = torch.where(spread > 1e-10, spread, 1)
    hue = torch.where(value == r, ((g - b) / divisor) % 6, 0)
    hue = torch.where(value == g, (b - r) / divisor + 2, hue)
    hue = torch.where(value == b, (r - g) / divisor + 4, hue)
    hue = torch.where(spread > 1e-10, hue / 6, 0)
    saturation = torch.where(value > 1e-10, spread / value.clamp_min(1e-10), 0)
    return torch.stack([hue, saturation, value], dim=1)


def hsv_to_rgb(hsv_TCHW: Tensor) -> Tensor:
    """The opposite of :func:`rgb_to_hsv`, clamped to 0..1."""
    hue, saturation, value = hsv_TCHW.unbind(1)
    # Each channel is the value, less a share of the saturation that rises and falls once around
    # the hue circle: a third of the circle apart for the three channels.
    channels = []
    for offset in (5.0, 3.0, 1.0):
        position = (offset + hue * 6) % 6
        share = torch.minimum(position, 4 - position).clamp_(0.0, 1.0)
        channels.append(value - value * saturation * share)
    return torch.stack(channels, dim=1).clamp_(0.0, 1.0)


def hue_bins(hue_TN: Tensor) -> Tensor:
    """Number of the twelfth of the circle, from 0, that each hue lies in."""
    edges = torch.arange(1, NUM_HUE_BINS, device=hue_TN.device, dtype=hue_TN.dtype) / NUM_HUE_BINS
    return torch.bucketize(hue_TN, edges, right=True)


def match_ranks(values_N: Tensor, reference_N: Tensor) -> Tensor:
    """Give the i-th smallest value the i-th smallest reference, along the last dimension.

    Where the numbers of values differ, ranks are stretched. Equal values keep their order, so
    that two runs agree.
    """
    order_N = values_N.argsort(dim=-1, stable=True)
    sorted_N = reference_N.sort(dim=-1).values
    num, num_reference = values_N.shape[-1], reference_N.shape[-1]
    if num != num_reference:
        ranks = torch.arange(num, device=values_N.device)
        sorted_N = sorted_N[..., ranks * (num_reference - 1) // max(num - 1, 1)]
    return torch.empty_like(values_N).scatter_(-1, order_N, sorted_N)


def match_ranks_in_bins(
    values_TN: Tensor,
    bins_TN: Tensor,
    reference_TN: Tensor,
    reference_bins_TN: Tensor,
    *,
    fewest: int,
    unmatched: Tensor | None = None,
) -> Tensor:
    """Match ranks within every bin of every frame by itself, all in two sorts.

    Args:
        values_TN, reference_TN: what is matched to what.
        bins_TN, reference_bins_TN: the bin that each belongs to, 0 to 11.
        fewest: a bin with fewer values, on either side, is left as it is.
        unmatched: what the values of such bins become; None keeps them.
    """
    order_TN, sorted_bins_TN = _sort_by_bin(values_TN, bins_TN)
    reference_order_TN, _ = _sort_by_bin(reference_TN, reference_bins_TN)
    counts_TK, reference_counts_TK = _count(bins_TN), _count(reference_bins_TN)
    # In sorted order a bin is a run; a value's rank is its distance from where its run begins.
    starts_TK = counts_TK.cumsum(1) - counts_TK
    reference_starts_TK = reference_counts_TK.cumsum(1) - reference_counts_TK
    places_N = torch.arange(values_TN.shape[1], device=values_TN.device)
    ranks_TN = places_N - starts_TK.gather(1, sorted_bins_TN)
    stretch_to_TN = (reference_counts_TK - 1).gather(1, sorted_bins_TN)
    stretch_from_TN = (counts_TK - 1).clamp_min(1).gather(1, sorted_bins_TN)
    picked_TN = reference_starts_TK.gather(1, sorted_bins_TN) + ranks_TN * stretch_to_TN // stretch_from_TN
    picked_TN = picked_TN.clamp_(0, reference_TN.shape[1] - 1)
    matched_TN = reference_TN.gather(1, reference_order_TN.gather(1, picked_TN))
    enough_TK = (counts_TK >= fewest) & (reference_counts_TK >= fewest)
    kept_TN = (values_TN if unmatched is None else unmatched).gather(1, order_TN)
    chosen_TN = torch.where(enough_TK.gather(1, sorted_bins_TN), matched_TN, kept_TN)
    return torch.empty_like(values_TN).scatter_(1, order_TN, chosen_TN)


def _sort_by_bin(values_TN: Tensor, bins_TN: Tensor) -> tuple[Tensor, Tensor]:
    by_value_TN = values_TN.argsort(dim=1, stable=True)
    # The second sort is stable: within a bin the order by value survives.
    sorted_bins_TN, by_bin_TN = bins_TN.gather(1, by_value_TN).sort(dim=1, stable=True)
    return by_value_TN.gather(1, by_bin_TN), sorted_bins_TN


def _count(bins_TN: Tensor) -> Tensor:
    counts_TK = torch.zeros(len(bins_TN), NUM_HUE_BINS, dtype=torch.int64, device=bins_TN.device)
    return counts_TK.scatter_add_(1, bins_TN, torch.ones_like(bins_TN))
