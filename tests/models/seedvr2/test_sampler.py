"""From noise to a latent: published steps, guidance and conditions."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.models.seedvr2.sampler import apply_guidance, integrate, model_input, sample, timesteps
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer, fold_timestep
from seedvr2_ray.models.seedvr2.transformer.layer_steps import TimeSlots

Golden = Callable[[str], dict[str, Tensor]]


def _pipeline(golden: Golden, variant: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return golden("pipeline"), golden(f"pipeline.{variant}")


@pytest.mark.parametrize(
    ("name", "settings", "atol"),
    [
        ("s1_cfg1", {}, 5e-5),
        ("s4_cfg1", {"steps": 4}, 5e-5),
        ("s1_cfg6.5", {"cfg_scale": 6.5}, 3e-4),
        ("s1_cfg6.5_rescale0.5", {"cfg_scale": 6.5, "cfg_rescale": 0.5}, 3e-4),
    ],
)
def test_samples_are_the_published_ones(
    tiny: SeedVR2Transformer, variant: str, golden: Golden, name: str, settings: dict[str, float], atol: float
) -> None:
    given, expected = _pipeline(golden, variant)
    texts = given["text_pos"], given["text_neg"]
    restored = sample(tiny, given["noise"], given["latent"], *texts, **settings)  # type: ignore[arg-type]
    torch.testing.assert_close(restored, expected[f"{name}.x0"], atol=atol, rtol=1e-4)


def published_condition(latent_THWC: Tensor, noise_THWC: Tensor, scale: float) -> Tensor:
    """Blend noise into a condition as the published script can; this project never does.

    More pixels get more noise. The script takes the latent's height, width and channels for frames, height and width.
    """
    _, h, w, c = latent_THWC.shape
    pixels = ((h - 1) * 4 + 1) * 64 * w * c
    low, high = 256 * 256 * 37, 1280 * 720 * 145
    factor = 1.0 + (pixels - low) * 4.0 / (high - low)
    share = factor * scale / (1.0 + (factor - 1.0) * scale)
    return (1.0 - share) * latent_THWC + share * noise_THWC


def test_a_noisy_condition_gives_the_published_sample(tiny: SeedVR2Transformer, variant: str, golden: Golden) -> None:
    given, expected = _pipeline(golden, variant)
    condition = published_condition(given["latent"], given["aug_noise"], 0.1)
    texts = given["text_pos"], given["text_neg"]
    restored = sample(tiny, given["noise"], condition, *texts, steps=2, cfg_scale=6.5)
    torch.testing.assert_close(restored, expected["s2_cfg6.5_cond0.1.x0"], atol=3e-4, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 50])
def test_timesteps_are_the_published_ones(golden: Golden, steps: int) -> None:
    expected = golden("diffusion")[f"timesteps.{steps}"]
    torch.testing.assert_close(torch.tensor(timesteps(steps)), expected, atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("steps", [49, 98, 103, 107, 196, 197])
def test_there_are_as_many_timesteps_as_steps(steps: int) -> None:
    schedule = timesteps(steps)
    assert len(schedule) == steps
    assert schedule[0] == 1000.0
    assert schedule[-1] == pytest.approx(1000 / steps)


@pytest.mark.parametrize("timestep", [1000, 750, 250])
def test_the_path_is_the_published_one(golden: Golden, timestep: int) -> None:
    vectors = golden("diffusion")
    noise, v = vectors["x_T"], vectors["pred"]
    latent = vectors[f"endpoint.{timestep}"]
    ours = integrate(lambda x, t: v, noise, (float(timestep),))
    torch.testing.assert_close(ours, latent, atol=2e-6, rtol=1e-6)
    # One step of the published sampler from t to 100 is the same straight line, stopped early.
    stopped = noise - (timestep - 100) / 1000 * v
    torch.testing.assert_close(stopped, vectors[f"step.{timestep}_to_100"], atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_integration_is_the_published_one(golden: Golden, steps: int) -> None:
    vectors = golden("diffusion")
    weight = vectors["fake_model_W"]
    ours = integrate(lambda x, t: x @ weight + t / 1000, vectors["x_T"], timesteps(steps))
    torch.testing.assert_close(ours, vectors[f"euler.{steps}"], atol=2e-6, rtol=1e-5)


def test_exact_predictions_lead_to_the_latent_in_any_number_of_steps() -> None:
    latent, noise = torch.randn(2, 7, 4, dtype=torch.float32)
    for steps in (1, 3, 49):
        restored = integrate(lambda x, t: noise - latent, noise, timesteps(steps))
        torch.testing.assert_close(restored, latent, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", ["1", "2", "6.5", "7.5"])
@pytest.mark.parametrize("rescale", ["0", "0.7"])
def test_guidance_is_the_published_one(golden: Golden, scale: str, rescale: str) -> None:
    vectors = golden("cfg")
    ours = apply_guidance(vectors["pos"], vectors["neg"], float(scale), float(rescale))
    expected = vectors[f"cfg.scale{scale}.rescale{rescale}"]
    torch.testing.assert_close(ours, expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_conditions_are_the_published_ones(golden: Golden, scale: float) -> None:
    vectors = golden("diffusion.cond")
    condition = published_condition(vectors["latent"], vectors["aug_noise"], scale)
    joined = model_input(vectors["noise"], condition, torch.float32)
    expected = torch.cat((vectors["noise"], vectors[f"{scale:g}.condition"]), dim=-1)
    torch.testing.assert_close(joined, expected, atol=2e-6, rtol=1e-6)


def test_sampling_can_be_stopped_between_steps(tiny: SeedVR2Transformer, variant: str, golden: Golden) -> None:
    given, _ = _pipeline(golden, variant)
    calls: list[None] = []

    def stop_at_the_third() -> None:
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(tiny, given["noise"], given["latent"], given["text_pos"], steps=9, check_cancelled=stop_at_the_third)
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "sample_steps must be at least 1"),
        ({"cfg_scale": 2.0}, "needs a negative text"),
        ({"cfg_rescale": 1.5}, "must lie in 0..1"),
    ],
)
def test_impossible_settings_are_refused(
    tiny: SeedVR2Transformer, variant: str, golden: Golden, settings: dict[str, float], message: str
) -> None:
    given, _ = _pipeline(golden, variant)
    with pytest.raises(SettingsError, match=message):
        sample(tiny, given["noise"], given["latent"], given["text_pos"], **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [1, 2])
def test_the_sampler_uses_a_folded_timestep_and_changes_no_bit(
    tiny: SeedVR2Transformer, variant: str, golden: Golden, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, _ = _pipeline(golden, variant)
    inputs = given["noise"], given["latent"], given["text_pos"]
    expected = sample(tiny, *inputs, steps=steps)
    fold_timestep(tiny)
    asked: list[float] = []
    embed = tiny.embed_timestep

    def watched(timestep: float) -> TimeSlots:
        asked.append(timestep)
        return embed(timestep)

    monkeypatch.setattr(tiny, "embed_timestep", watched)
    assert torch.equal(sample(tiny, *inputs, steps=steps), expected)
    assert asked == [500.0][: steps - 1]
