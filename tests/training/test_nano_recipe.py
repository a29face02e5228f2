"""The recipe of nano: generated data, the start, the optimiser, resuming."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from seedvr2_ray.restoration.colour.colour_match import wavelet
from training.canvases import dead_leaves
from training.clips import draw_clip
from training.dataset import Dataset, DatasetPlan, build_dataset
from training.degradation import Degradation, degrade, enlarge
from training.initialise import OPPONENT, haar_filters
from training.network import Nano, latent_shape, match_colours
from training.photographs import FOR_EVALUATION, FOR_TRAINING
from training.regression import fit_linear_restoration
from training.train import Recipe, Trainer, psnr, train

TINY = DatasetPlan(num_clips=4, num_canvases=1, canvas_size=96, size=64, num_frames=5, photograph_share=0.0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("nano")
    build_dataset(folder, TINY)
    return Dataset.open(folder)


def test_no_photograph_serves_both_training_and_evaluation() -> None:
    assert not set(FOR_TRAINING) & set(FOR_EVALUATION)


@pytest.mark.slow
def test_a_seed_decides_a_canvas_and_a_clip() -> None:
    canvas = dead_leaves(np.random.default_rng(3), 64)
    assert (canvas == dead_leaves(np.random.default_rng(3), 64)).all()
    clips = [draw_clip(np.random.default_rng(4), [canvas], size=32, num_frames=3) for _ in range(2)]
    assert torch.equal(*clips)


@pytest.mark.parametrize(
    "recipe", [Degradation(scale=2, h264_crf=28), Degradation(scale=4, blur=0.6, noise=3, jpeg=60)]
)
def test_degrading_shrinks_exactly_and_repeatably(recipe: Degradation) -> None:
    clean = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    spoilt = degrade(clean, recipe)
    assert spoilt.shape == (3, 3, 64 // recipe.scale, 64 // recipe.scale)
    assert torch.equal(spoilt, degrade(clean, recipe))


@pytest.mark.slow
def test_compressing_a_moving_picture_again_gives_the_same_frames() -> None:
    """x264 left to itself does not, on processors with AVX-512."""
    canvas = dead_leaves(np.random.default_rng(3), 160)
    clip = draw_clip(np.random.default_rng(4), [canvas], size=128, num_frames=7)
    recipes = [Degradation(scale=2, h264_crf=crf, noise=3) for crf in (17, 22, 28)]
    assert all(len({degrade(clip, recipe).numpy().tobytes() for _ in range(6)}) == 1 for recipe in recipes)


@pytest.mark.slow
def test_a_batch_depends_on_seed_and_step_alone(dataset: Dataset) -> None:
    first, again, other = (dataset.batch(step, size=2, crop=32, num_frames=3, seed=1)[0] for step in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_haar_filters_and_opponent_colours_are_orthonormal() -> None:
    filters = haar_filters().flatten(1)
    assert torch.allclose(filters @ filters.T, torch.eye(24), atol=1e-6)
    assert torch.allclose(OPPONENT @ OPPONENT.T, torch.eye(3), atol=1e-6)


@pytest.mark.slow
def test_the_untrained_model_returns_its_input() -> None:
    # Grey: of colour the latents keep half the resolution.
    smooth = torch.rand(1, 1, 5, 12, 12, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1, -1)
    clip = enlarge(smooth[0].transpose(0, 1), 48, 48).transpose(0, 1)[None] * 2 - 1
    noise = torch.randn(latent_shape(1, 5, 48, 48), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        restored = Nano(0)(clip, noise)
    assert psnr(restored.matched_BCTHW, clip).item() > 28


def test_colours_are_matched_as_the_restorer_matches_them() -> None:
    generator = torch.Generator().manual_seed(2)
    raw, source = (torch.rand(2, 3, 1, 48, 40, generator=generator) - 0.5 for _ in range(2))
    matched = match_colours(raw, source)[:, :, 0]
    torch.testing.assert_close(matched.clamp(-1, 1), wavelet(raw[:, :, 0], source[:, :, 0]))


def test_more_steps_continue_a_run_until_its_learning_rate_falls() -> None:
    short, long = (Recipe(steps=steps, decay=10, transformer=5) for steps in (30, 50))
    assert [short.learning_rate(step) for step in range(20)] == [long.learning_rate(step) for step in range(20)]
    assert long.continues(short, 20)
    assert not long.continues(short, 21)
    assert not replace(long, seed=1).continues(short, 5)


@pytest.mark.slow
def test_the_linear_start_helps(dataset: Dataset) -> None:
    inputs, targets = dataset.batch(1, size=4, crop=64, num_frames=5, seed=0)
    nano = Nano(0)
    with torch.no_grad():
        before = psnr(nano(inputs, None).matched_BCTHW, targets)
        fit_linear_restoration(nano, [(inputs, targets)])
        assert psnr(nano(inputs, None).matched_BCTHW, targets).mean() > before.mean()


@pytest.mark.slow
@pytest.mark.parametrize("transformer", [0, 1])
def test_a_resumed_run_equals_an_uninterrupted_one(dataset: Dataset, tmp_path: Path, transformer: int) -> None:
    recipe = Recipe(steps=2, decay=1, batch=2, crop=32, num_frames=3, fit_batches=1, transformer=transformer)
    whole = Trainer(recipe, dataset, torch.device("cpu"))
    train(whole, tmp_path / "whole", report=lambda line: None)
    first = Trainer(recipe, dataset, torch.device("cpu"))
    first.fit_start()
    first.train_step()
    (tmp_path / "parts").mkdir()
    first.save(tmp_path / "parts" / "checkpoint.pt")
    second = Trainer(recipe, dataset, torch.device("cpu"))
    train(second, tmp_path / "parts", report=lambda line: None)
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, second.average.state_dict()[name]), name


@pytest.mark.slow
def test_a_checkpoint_of_another_recipe_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    Trainer(Recipe(steps=2), dataset, torch.device("cpu")).save(tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="was made by"):
        Trainer(Recipe(steps=2, lr=1.0), dataset, torch.device("cpu")).load(tmp_path / "checkpoint.pt")
