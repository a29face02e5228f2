"""Estimates learn from what runs took."""

import random

import pytest

from seedvr2_ray.serve.config import ModelPool
from seedvr2_ray.serve.db.database import Database
from seedvr2_ray.serve.db.usage_store import UsageStore, Use
from seedvr2_ray.serve.service.rates import Rates, learned_rate
from tests.serve.conftest import HandClock

POOL = ModelPool(megapixels_per_second=2.0)


def record(usage: UsageStore, number: int, *, megapixels: float, gpu_seconds: float, model: str = "nano") -> None:
    numbers = {"megapixels": megapixels, "gpu_seconds": gpu_seconds, "output_seconds": 1.0, "cost": 0.0}
    usage.record(Use(reference=f"{model}-{number}", owner="ada", job_id=f"job_{number}", model=model, **numbers))


@pytest.mark.parametrize("seed", range(20))
def test_what_was_learned_lies_between_the_assumption_and_the_truth_and_nears_the_truth(seed: int) -> None:
    chance = random.Random(seed)
    assumed, true = chance.uniform(0.05, 50), chance.uniform(0.05, 50)
    seconds, distance = 0.0, abs(assumed - true)
    for _ in range(30):
        seconds += chance.uniform(0, 100)
        rate = learned_rate(assumed, true * seconds, seconds)
        assert min(assumed, true) - 1e-9 <= rate <= max(assumed, true) + 1e-9
        assert abs(rate - true) <= distance + 1e-9
        distance = abs(rate - true)
    assert rate == pytest.approx(true, rel=0.6 * assumed / true + 0.05)


@pytest.mark.parametrize("gang_size", [1, 4])
def test_an_estimate_follows_what_jobs_took_whatever_the_configuration_said(
    database: Database, clock: HandClock, gang_size: int
) -> None:
    usage, now = UsageStore(database), [0.0]
    pool = ModelPool(megapixels_per_second=2.0, gang_size=gang_size)
    rates = Rates(usage, {"nano": pool, "lanczos": POOL}, now=lambda: now[0])
    assert rates.gpu_seconds("nano", 100.0) == pytest.approx(50.0 * gang_size)
    chance = random.Random(7)
    for number in range(40):
        clock.pass_by(60)
        megapixels = chance.uniform(10, 200)
        # A replica makes half of what was assumed of it.
        record(usage, number, megapixels=megapixels, gpu_seconds=megapixels * gang_size * chance.uniform(0.9, 1.1))
    assert rates.gpu_seconds("nano", 100.0) == pytest.approx(50.0 * gang_size), "looked up a moment ago"
    now[0] = 60.0
    assert rates.gpu_seconds("nano", 100.0) == pytest.approx(100.0 * gang_size, rel=0.1)
    assert rates.gpu_seconds("lanczos", 100.0) == pytest.approx(50.0)


def test_what_ran_lately_counts_and_what_ran_long_ago_does_not(database: Database, clock: HandClock) -> None:
    usage = UsageStore(database)
    for number in range(20):
        record(usage, number, megapixels=1.0, gpu_seconds=100.0)
    for number in range(20, 40):
        clock.pass_by(60)
        record(usage, number, megapixels=400.0, gpu_seconds=100.0)
    assert Rates(usage, {"nano": POOL}).pool("nano").megapixels_per_second == pytest.approx(4.0, rel=0.02)
