"""One model in gangs of several sizes: which of them takes a job."""

import pytest

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.restoration.planning.forecast import MemoryForecast
from seedvr2_ray.serve.config import GangPool, ModelPool, ServiceConfig
from seedvr2_ray.serve.pools import choose_pool
from seedvr2_ray.settings import RestoreSettings
from tests.restoration import plans

POOL = ModelPool(
    num_gpus=1, num_cpus=4, max_replicas=8, megapixels_per_second=2.0, gangs={8: GangPool(num_cpus=16), 2: GangPool()}
)


@pytest.fixture(scope="module")
def plan():
    return plans.a_plan(RestoreSettings(model="seedvr2-3b"))


@pytest.fixture
def needs(monkeypatch):
    """Have a job fit gangs from some size on."""

    def gangs_of(least):
        def foresee(plan, memory_bytes, size):
            fits = size >= least
            return MemoryForecast(
                device="gpu",
                peak_bytes=1 if fits else None,
                free_bytes=memory_bytes,
                refusal="" if fits else f"too large for {size}",
                costs="",
                gang_size=size,
            )

        monkeypatch.setattr("seedvr2_ray.restoration.planning.forecast.foresee_on_gpus", foresee)

    return gangs_of


def test_further_gangs_are_pools_that_are_like_the_models_but_for_what_is_said_of_them():
    assert list(POOL.sizes) == [1, 2, 8]
    two, eight = POOL.sizes[2], POOL.sizes[8]
    assert (two.num_gpus, two.num_cpus, two.max_replicas, two.min_replicas) == (1, 4, 1, 0)
    assert (eight.num_cpus, eight.megapixels_per_second, eight.gang_size, eight.gangs) == (16, 16.0, 8, {})
    config = ServiceConfig(models={"seedvr2-3b": POOL, "nano": ModelPool()}, default_model="nano")
    assert list(config.pools) == ["seedvr2-3b", "seedvr2-3b-gang-2", "seedvr2-3b-gang-8", "nano"]


@pytest.mark.parametrize(("least", "size"), [(1, 1), (2, 2), (3, 8), (8, 8)])
def test_the_smallest_gang_that_can_hold_a_job_takes_it(plan, needs, least, size):
    needs(least)
    known = POOL.model_copy(update={"gpu_memory_bytes": 80 * 2**30})
    chosen = choose_pool(plan, known)
    assert (chosen.pool.gang_size, chosen.memory.refusal) == (size, "")


def test_what_fits_none_is_refused_and_a_size_that_is_asked_for_is_taken_or_refused_as_it_is(plan, needs):
    needs(9)
    known = POOL.model_copy(update={"gpu_memory_bytes": 80 * 2**30})
    assert choose_pool(plan, known).memory.refusal == "too large for 1"
    assert choose_pool(plan, known, 2).memory.refusal == "too large for 2"
    needs(1)
    assert choose_pool(plan, known, 8).pool.gang_size == 8
    with pytest.raises(SettingsError, match="seedvr2-3b is deployed here in gangs of 1 or 2 or 8, not of 4"):
        choose_pool(plan, known, 4)


def test_where_nobody_said_what_gpus_hold_the_models_own_pool_takes_it(plan):
    chosen = choose_pool(plan, POOL)
    assert (chosen.pool, chosen.memory) == (POOL, None)
