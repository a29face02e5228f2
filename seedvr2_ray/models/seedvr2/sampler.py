"""From noise and a condition to a restored latent: Euler steps along a straight path.

x_t = (1 - t/1000) x_0 + (t/1000) x_T with noise x_T, and the network predicts v = x_T - x_0.
Lipman et al., 2022, arXiv:2210.02747; guidance: Ho & Salimans, 2022, arXiv:2207.12598, with the
rescaling of Lin et al., 2023, arXiv:2305.08891.

Shapes: T latent frames, H, W latent pixels, C channels, L tokens.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.transformer.execution import DEFAULT_EXECUTION, Execution

LAST_TIMESTEP = 1000.0
_SHIFT_VIDEO_LOW = 256 * 256 * 37
_SHIFT_VIDEO_HIGH = 1280 * 720 * 145
_SHIFT_IMAGE_LOW = 256 * 256
_SHIFT_IMAGE_HIGH = 1024 * 1024


def sample(
    transformer: SeedVR2Transformer,
    noise_THWC: Tensor,
    condition_THWC: Tensor,
    positive_text_LC: Tensor,
    negative_text_LC: Tensor | None = None,
    *,
    steps: int = 1,
    cfg_scale: float = 1.0,
    cfg_rescale: float = 0.0,
    cfg_partial: float = 1.0,
    execution: Execution = DEFAULT_EXECUTION,
    check_cancelled: Callable[[], None] = lambda: None,
) -> Tensor:
    """Restore one latent clip.

    Args:
        noise_THWC: standard normal; decides the result together with the other inputs.
        condition_THWC: latent of the degraded clip.
        negative_text_LC: what to move away from; read only where ``cfg_scale`` is not 1.
        steps: network evaluations; the released models are distilled for one.
        cfg_scale: 1 evaluates the positive text only.
        cfg_rescale: share in 0..1 of the guided prediction's spread that is pulled back to the positive one's.
        cfg_partial: share of the steps, from the first, in which guidance acts.
        check_cancelled: called before every network evaluation; raises to stop.

    Returns:
        The restored latent, float32 [T, H, W, C].

    Raises:
        SettingsError: the settings contradict each other.
    """
    schedule = timesteps(steps)
    guided = cfg_scale != 1.0
    if guided and negative_text_LC is None:
        raise SettingsError(f"cfg_scale {cfg_scale} needs a negative text embedding; load one or use cfg_scale 1")
    if not 0.0 <= cfg_rescale <= 1.0 or not 0.0 <= cfg_partial <= 1.0:
        raise SettingsError(f"cfg_rescale and cfg_partial must lie in 0..1, got {cfg_rescale} and {cfg_partial}")
    if noise_THWC.shape != condition_THWC.shape:
        raise ValueError(f"noise is {tuple(noise_THWC.shape)} but the condition {tuple(condition_THWC.shape)}")

    def predict(x_THWC: Tensor, text_LC: Tensor, timestep: float) -> Tensor:
        check_cancelled()
        size = (x_THWC.shape[0], x_THWC.shape[1], x_THWC.shape[2])
        is_folded = timestep == transformer.folded_timestep
        timestep_B = None if is_folded else torch.full((1,), timestep, device=x_THWC.device)
        out_LC = transformer(
            model_input(x_THWC, condition_THWC, transformer.dtype).flatten(0, 2),
            (size,),
            text_LC,
            (len(text_LC),),
            timestep_B,
            execution=execution,
        )
        v_THWC: Tensor = out_LC.float().view(*size, -1)
        return v_THWC

    def guide(x_THWC: Tensor, timestep: float, step: int) -> Tensor:
        positive = predict(x_THWC, positive_text_LC, timestep)
        if negative_text_LC is None or not guided or (step + 1) / steps > cfg_partial:
            return positive
        return apply_guidance(positive, predict(x_THWC, negative_text_LC, timestep), cfg_scale, cfg_rescale)

    return integrate(guide, noise_THWC, schedule)


def timesteps(steps: int) -> tuple[float, ...]:
    """Return evenly spaced timesteps from 1000 down, without the final 0.

    Raises:
        SettingsError: fewer than one step.
    """
    if steps < 1:
        raise SettingsError(f"sample_steps must be at least 1, got {steps}")
    return tuple(LAST_TIMESTEP * (1 - step / steps) for step in range(steps))


def integrate(predict: Callable[[Tensor, float, int], Tensor], noise: Tensor, schedule: tuple[float, ...]) -> Tensor:
    """Follow the predicted v from noise at the first timestep to 0 in Euler steps, in float32.

    Args:
        predict: maps (x, timestep, number of the step) to v.
    """
    x = noise.float()
    for step, (now, then) in enumerate(pairwise((*schedule, 0.0))):
        x = x - (now - then) / LAST_TIMESTEP * predict(x, now, step).float()
    return x


def apply_guidance(positive: Tensor, negative: Tensor, scale: float, rescale: float) -> Tensor:
    """Move the prediction away from the negative one, and pull its spread back.

    The spread is the standard deviation over the channels of each token by itself, as in the
    published sampler on its packed layout.
    """
    if scale == 1.0:
        return positive
    guided = negative + scale * (positive - negative)
    if rescale == 0.0:
        return guided
    ratio = positive.std(dim=-1, keepdim=True) / guided.std(dim=-1, keepdim=True)
    return guided * (rescale * ratio + (1.0 - rescale))


def model_input(x_THWC: Tensor, condition_THWC: Tensor, dtype: torch.dtype) -> Tensor:
    """Join the noisy latent, the condition and a mask of ones: every frame is conditioned."""
    mask = torch.ones_like(x_THWC[..., :1], dtype=dtype)
    return torch.cat((x_THWC.to(dtype), condition_THWC.to(dtype), mask), dim=-1)


def interpolate(latent: Tensor, noise: Tensor, timestep: float) -> Tensor:
    """Return the point of the path from a latent to noise at a timestep."""
    share = timestep / LAST_TIMESTEP
    return (1.0 - share) * latent + share * noise


def add_condition_noise(
    condition_THWC: Tensor, noise_THWC: Tensor, scale: float, *, shift_as_published: bool = False
) -> Tensor:
    """Blend noise into the condition, which lets the network change more. 0 leaves it untouched.

    Args:
        scale: in 0..1; more pixels mean more noise at the same scale.
        shift_as_published: read the size as (H, W, C) instead of (T, H, W), as the published scripts do.

    Raises:
        SettingsError: the scale is out of range.
    """
    if not 0.0 <= scale <= 1.0:
        raise SettingsError(f"the condition noise scale must lie in 0..1, got {scale}")
    if scale == 0.0:
        return condition_THWC
    t, h, w, c = condition_THWC.shape
    size = (h, w, c) if shift_as_published else (t, h, w)
    return interpolate(condition_THWC, noise_THWC, shift_timestep(LAST_TIMESTEP * scale, size))


def shift_timestep(timestep: float, size_THW: tuple[int, int, int]) -> float:
    """Move a timestep towards noise for large clips, where the same noise hides less.

    Linear in the number of pixels between two fixed sizes, for images and for videos; below the
    smaller one it moves the other way.
    """
    t, h, w = size_THW
    frames, pixels = (t - 1) * 4 + 1, 64 * h * w
    if frames > 1:
        slope = 4.0 / (_SHIFT_VIDEO_HIGH - _SHIFT_VIDEO_LOW)
        factor = 1.0 + (pixels * frames - _SHIFT_VIDEO_LOW) * slope
    else:
        slope = 2.2 / (_SHIFT_IMAGE_HIGH - _SHIFT_IMAGE_LOW)
        factor = 1.0 + (pixels - _SHIFT_IMAGE_LOW) * slope
    share = timestep / LAST_TIMESTEP
    return LAST_TIMESTEP * factor * share / (1.0 + (factor - 1.0) * share)
