"""Bring a restored picture's colours back to its source's, frame by frame.

Shapes: T frames, C the three channels R'G'B', H height, W width, N pixels of one frame.
Pictures are in -1..1; restored and source have the same size.

Every method looks at one frame at a time. Statistics taken over a batch would jump where one batch
ends and the next begins, and depend on how long the batches are.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.restoration.colour.colour_spaces import (
    NUM_HUE_BINS,
    hsv_to_rgb,
    hue_bins,
    lab_to_rgb,
    match_ranks,
    match_ranks_in_bins,
    rgb_to_hsv,
    rgb_to_lab,
)
from seedvr2_ray.settings import ColourMatch

NUM_LEVELS = 5
LUMINANCE_WEIGHT = 0.8
"""Share of the restored lightness that ``lab`` keeps; the rest is matched to the source's."""
FEWEST_HUE_PIXELS = 101
"""A hue bin with fewer pixels, in either picture, keeps its saturation."""


def match_colour(restored_TCHW: Tensor, source_TCHW: Tensor, method: ColourMatch) -> Tensor:
    """Give the restored frames the colours of the source frames.

    Args:
        restored_TCHW: the network's output in -1..1, not necessarily clamped; any float type.
        source_TCHW: the resized input in -1..1, the same shape.
        method: see the functions of this module; ``none`` returns the restored frames themselves.

    Returns:
        fp32 frames, a frame at a time: nothing depends on how many come in one call.
    """
    if method == "none":
        return restored_TCHW
    if method not in METHODS:
        raise SettingsError(f"colour_match must be one of {', '.join([*METHODS, 'none'])}; got {method!r}")
    if restored_TCHW.shape != source_TCHW.shape or restored_TCHW.ndim != 4 or restored_TCHW.shape[1] != 3:
        raise ValueError(
            f"colours are matched between pictures T x 3 x H x W of one size, got "
            f"{tuple(restored_TCHW.shape)} and {tuple(source_TCHW.shape)}"
        )
    match_one = METHODS[method]
    matched = [
        match_one(restored_TCHW[t : t + 1].float(), source_TCHW[t : t + 1].float()) for t in range(len(restored_TCHW))
    ]
    return torch.cat(matched) if matched else restored_TCHW.float()


def wavelet(restored_TCHW: Tensor, source_TCHW: Tensor) -> Tensor:
    """Keep the restored detail and take everything coarser from the source; clamped to -1..1.

    Small pictures cap the blur's radius at an eighth of the shorter side.
    """
    largest_radius = max(1, min(restored_TCHW.shape[-2:]) // 8)
    return swap_low_band(restored_TCHW, source_TCHW, largest_radius=largest_radius).clamp_(-1.0, 1.0)


def wavelet_original(restored_TCHW: Tensor, source_TCHW: Tensor) -> Tensor:
    """The same as the published script has it: no cap on the radius and no clamp."""
    return swap_low_band(restored_TCHW.float(), source_TCHW.float())


def swap_low_band(
    restored_TCHW: Tensor, source_TCHW: Tensor, *, levels: int = NUM_LEVELS, largest_radius: int | None = None
) -> Tensor:
    """Replace what remains of the restored frames after ``levels`` blurs by what remains of the source.

    Detail is the sum of what each blur removes, that is, the picture minus its last blur. So the
    result is ``restored + low(source - restored)``: one chain of blurs, not two.
    """
    low_TCHW = source_TCHW - restored_TCHW
    for level in range(levels):
        radius = 2**level if largest_radius is None else min(2**level, largest_radius)
        low_TCHW = blur(low_TCHW, radius)
    return low_TCHW.add_(restored_TCHW)


def blur(x_TCHW: Tensor, radius: int) -> Tensor:
    """Smooth with 1/4, 1/2, 1/4 at a distance of ``radius`` along rows and columns; edges repeat."""
    return _blur_axis(_blur_axis(x_TCHW, radius, -1), radius, -2)


def _blur_axis(x_TCHW: Tensor, radius: int, dim: int) -> Tensor:
    # Added in place and without padding: a blur is a matter of memory passes, above all on a CPU.
    length = x_TCHW.shape[dim]
    inside = max(length - radius, 0)
    edge = length - inside
    out_TCHW = x_TCHW * 0.5
    out_TCHW.narrow(dim, edge, inside).add_(x_TCHW.narrow(dim, 0, inside), alpha=0.25)
    out_TCHW.narrow(dim, 0, edge).add_(x_TCHW.narrow(dim, 0, 1), alpha=0.25)
    out_TCHW.narrow(dim, 0, inside).add_(x_TCHW.narrow(dim, edge, inside), alpha=0.25)
    out_TCHW.narrow(dim, inside, edge).add_(x_TCHW.narrow(dim, length - 1, 1), alpha=0.25)
    return out_TCHW


def adain(restored_TCHW: Tensor, source_TCHW: Tensor) -> Tensor:
    """Shift and stretch every channel to the source's mean and spread (adaptive instance normalisation)."""
    restored_var, restored_mean = torch.var_mean(restored_TCHW, dim=(2, 3), keepdim=True)
    source_var, source_mean = torch.var_mean(source_TCHW, dim=(2, 3), keepdim=True)
    gain = torch.sqrt((source_var + 1e-5) / (restored_var + 1e-5))
    return (restored_TCHW - restored_mean) * gain + source_mean


def lab(restored_TCHW: Tensor, source_TCHW: Tensor) -> Tensor:
    """Wavelet first; then give CIELAB's colour axes, and a fifth of the lightness, the source's histogram."""
    return match_lab(wavelet(restored_TCHW, source_TCHW), source_TCHW, luminance_weight=LUMINANCE_WEIGHT)


def match_lab(restored_TCHW: Tensor, source_TCHW: Tensor, *, luminance_weight: float) -> Tensor:
    """Match the CIELAB histograms of every frame; ``luminance_weight`` 1 leaves lightness alone."""
    lab_TCN = rgb_to_lab(_to_unit(restored_TCHW)).flatten(2)
    source_TCN = rgb_to_lab(_to_unit(source_TCHW)).flatten(2)
    first = 1 if luminance_weight >= 1 else 0
    matched_TCN = match_ranks(lab_TCN[:, first:], source_TCN[:, first:])
    if first == 0:
        matched_TCN[:, 0].lerp_(lab_TCN[:, 0], luminance_weight)
    lab_TCN[:, first:] = matched_TCN
    return lab_to_rgb(lab_TCN.view_as(restored_TCHW)).mul_(2).sub_(1)


def hsv(restored_TCHW: Tensor, source_TCHW: Tensor) -> Tensor:
    """Give every range of hues the source's distribution of saturation; hue and value stay.

    The first range is red from both sides of hue 0, so that the last range's pixels belong to it
    too; those keep its result only where the last range itself has too few pixels.
    """
    restored_TCN = rgb_to_hsv(_to_unit(restored_TCHW)).flatten(2)
    source_TCN = rgb_to_hsv(_to_unit(source_TCHW)).flatten(2)
    bins_TN, source_bins_TN = hue_bins(restored_TCN[:, 0]), hue_bins(source_TCN[:, 0])
    last = NUM_HUE_BINS - 1
    around_zero = match_ranks_in_bins(
        restored_TCN[:, 1], bins_TN % last, source_TCN[:, 1], source_bins_TN % last, fewest=FEWEST_HUE_PIXELS
    )
    by_itself = match_ranks_in_bins(
        restored_TCN[:, 1], bins_TN, source_TCN[:, 1], source_bins_TN, fewest=FEWEST_HUE_PIXELS, unmatched=around_zero
    )
    restored_TCN[:, 1] = torch.where(bins_TN == last, by_itself, around_zero)
    return hsv_to_rgb(restored_TCN.view_as(restored_TCHW)).mul_(2).sub_(1)


def wavelet_adaptive(restored_TCHW: Tensor, source_TCHW: Tensor) -> Tensor:
    """Wavelet, with ``hsv`` mixed in where the result is still more saturated than the source."""
    return mix_by_saturation(
        wavelet(restored_TCHW, source_TCHW), hsv(restored_TCHW, source_TCHW), restored_TCHW, source_TCHW
    )


def mix_by_saturation(wavelet_TCHW: Tensor, hsv_TCHW: Tensor, restored_TCHW: Tensor, source_TCHW: Tensor) -> Tensor:
    """Mix two corrections of a picture by how much more saturated than the source it was and is."""
    source_T1HW = _saturation(source_TCHW)
    weight_T1HW = torch.sigmoid(5 * (_saturation(restored_TCHW) - source_T1HW - 0.15))
    still_over_T1HW = _saturation(wavelet_TCHW) - source_T1HW > 0.075
    weight_T1HW = weight_T1HW * still_over_T1HW
    return wavelet_TCHW * (1 - weight_T1HW) + hsv_TCHW * weight_T1HW


def _saturation(x_TCHW: Tensor) -> Tensor:
    return rgb_to_hsv(_to_unit(x_TCHW))[:, 1:2]


def _to_unit(x_TCHW: Tensor) -> Tensor:
    return (x_TCHW * 0.5 + 0.5).clamp_(0.0, 1.0)


METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "lab": lab,
    "wavelet": wavelet,
    "wavelet_adaptive": wavelet_adaptive,
    "hsv": hsv,
    "adain": adain,
}
