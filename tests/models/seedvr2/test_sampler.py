"""From noise to a latent: published steps, guidance and conditions."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.models.seedvr2.sampler import (
    add_condition_noise,
    apply_guidance,
    integrate,
    interpolate,
    model_input,
    sample,
    shift_timestep,
    timesteps,
)
from seedvr2_ray.models.seedvr2.transformer.block import TimeSlots
from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer, fold_timestep

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


def test_a_noisy_condition_gives_the_published_sample(tiny: SeedVR2Transformer, variant: str, golden: Golden) -> None:
    given, expected = _pipeline(golden, variant)
    condition = add_condition_noise(given["latent"], given["aug_noise"], 0.1, shift_as_published=True)
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
    ours = integrate(lambda x, t, step: v, noise, (float(timestep),))
    torch.testing.assert_close(ours, latent, atol=2e-6, rtol=1e-6)
    # One step of the published sampler from t to 100 is the same straight line, stopped early.
    stopped = noise - (timestep - 100) / 1000 * v
    torch.testing.assert_close(stopped, vectors[f"step.{timestep}_to_100"], atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_integration_is_the_published_one(golden: Golden, steps: int) -> None:
    vectors = golden("diffusion")
    weight = vectors["fake_model_W"]
    ours = integrate(lambda x, t, step: x @ weight + t / 1000, vectors["x_T"], timesteps(steps))
    torch.testing.assert_close(ours, vectors[f"euler.{steps}"], atol=2e-6, rtol=1e-5)


def test_exact_predictions_lead_to_the_latent_in_any_number_of_steps() -> None:
    latent, noise = torch.randn(2, 7, 4, dtype=torch.float32)
    for steps in (1, 3, 49):
        restored = integrate(lambda x, t, step: noise - latent, noise, timesteps(steps))
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
    condition = add_condition_noise(vectors["latent"], vectors["aug_noise"], scale, shift_as_published=True)
    joined = model_input(vectors["noise"], condition, torch.float32)
    expected = torch.cat((vectors["noise"], vectors[f"{scale:g}.condition"]), dim=-1)
    torch.testing.assert_close(joined, expected, atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 0.1, 0.25])
def test_timestep_shifts_are_the_published_and_the_intended_ones(golden: Golden, scale: float) -> None:
    vectors = golden("diffusion.cond")
    t, h, w, c = vectors["latent"].shape
    name = f"{scale:g}"
    assert shift_timestep(1000 * scale, (h, w, c)) == pytest.approx(vectors[f"{name}.t_as_called_hwc"].item(), abs=1e-3)
    assert shift_timestep(1000 * scale, (t, h, w)) == pytest.approx(vectors[f"{name}.t_intended_thw"].item(), abs=1e-3)


def test_timestep_shifts_of_many_sizes_are_the_published_ones(golden: Golden) -> None:
    vectors = golden("diffusion.ttrans")
    for row, timestep in enumerate(vectors["t_in"].tolist()):
        for column, size in enumerate(vectors["latent_shapes"].tolist()):
            expected = vectors["t_out"][row, column].item()
            assert shift_timestep(timestep, tuple(size)) == pytest.approx(expected, rel=1e-5, abs=1e-3)


def test_condition_noise_uses_the_true_size_unless_asked_otherwise() -> None:
    latent, noise = torch.randn(2, 6, 90, 160, 2)
    shared = interpolate(latent, noise, 144.2)
    torch.testing.assert_close(add_condition_noise(latent, noise, 0.1), shared, atol=1e-3, rtol=0)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_condition_noise_ends_are_the_latent_and_the_noise(scale: float) -> None:
    latent, noise = torch.randn(2, 3, 4, 4, 16)
    torch.testing.assert_close(add_condition_noise(latent, noise, scale), (latent, noise)[int(scale)])


def test_guidance_stops_where_told(tiny: SeedVR2Transformer, variant: str, golden: Golden) -> None:
    given, _ = _pipeline(golden, variant)
    calls: list[None] = []
    sample(
        tiny,
        given["noise"],
        given["latent"],
        given["text_pos"],
        given["text_neg"],
        steps=4,
        cfg_scale=2.0,
        cfg_partial=0.5,
        check_cancelled=lambda: calls.append(None),
    )
    assert len(calls) == 2 + 2 + 1 + 1


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
        ({"cfg_partial": -0.1}, "must lie in 0..1"),
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

    def watched(timestep_B: Tensor) -> TimeSlots:
        asked.append(timestep_B.item())
        return embed(timestep_B)

    monkeypatch.setattr(tiny, "embed_timestep", watched)
    assert torch.equal(sample(tiny, *inputs, steps=steps), expected)
    assert asked == [500.0][: steps - 1]


def test_condition_noise_out_of_range_is_refused() -> None:
    with pytest.raises(SettingsError, match="0..1, got 1.5"):
        add_condition_noise(torch.zeros(1, 2, 2, 16), torch.zeros(1, 2, 2, 16), 1.5)
