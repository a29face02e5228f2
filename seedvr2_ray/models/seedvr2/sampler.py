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
    if not 0.0 <= cfg_rescale <= 1.0:
        raise SettingsError(f"cfg_rescale must lie in 0..1, got {cfg_rescale}")
    if noise_THWC.shape != condition_THWC.shape:
        raise ValueError(f"noise is {tuple(noise_THWC.shape)} but the condition {tuple(condition_THWC.shape)}")

    def predict(x_THWC: Tensor, text_LC: Tensor, timestep: float) -> Tensor:
        check_cancelled()
        clip_THWC = model_input(x_THWC, condition_THWC, transformer.dtype)
        v_THWC: Tensor = transformer(clip_THWC, text_LC, timestep, execution=execution)
        return v_THWC.float()

    def guide(x_THWC: Tensor, timestep: float) -> Tensor:
        positive = predict(x_THWC, positive_text_LC, timestep)
        if negative_text_LC is None or not guided:
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


def integrate(predict: Callable[[Tensor, float], Tensor], noise: Tensor, schedule: tuple[float, ...]) -> Tensor:
    """Follow the predicted v from noise at the first timestep to 0 in Euler steps, in float32.

    Args:
        predict: maps (x, timestep) to v.
    """
    x = noise.float()
    for now, then in pairwise((*schedule, 0.0)):
        x = x - (now - then) / LAST_TIMESTEP * predict(x, now).float()
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
