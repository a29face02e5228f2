"""Laws of places that owners share."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable
from typing import Any

import pytest

from seedvr2_ray.serve.problems import RateRefusal
from seedvr2_ray.serve.service.shares import SharedPlaces
from tests.waiting import within


def run(scenario: Awaitable[Any]) -> None:
    asyncio.run(within(240, scenario))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_nobody_has_more_than_his_share_nor_all_together_more_than_there_is_and_everybody_has_his_turn(
    seed: int,
) -> None:
    chance = random.Random(seed)
    total, per_owner = chance.randint(1, 6), chance.randint(1, 4)
    held: Counter[str] = Counter()
    most_held: Counter[str] = Counter()
    done: list[str] = []

    async def use(places: SharedPlaces, owner: str) -> None:
        await asyncio.sleep(chance.random() / 100)
        async with places.place(owner):
            held[owner] += 1
            most_held[owner] = max(most_held[owner], held[owner])
            most_held["all"] = max(most_held["all"], held.total())
            try:
                await asyncio.sleep(chance.random() / 100)
            finally:
                held[owner] -= 1
        done.append(owner)

    async def scenario() -> None:
        places = SharedPlaces(total, per_owner=per_owner)
        tasks = [asyncio.create_task(use(places, chance.choice("abc"))) for _ in range(40)]
        await asyncio.sleep(0.005)
        for task in chance.sample(tasks, 10):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(use(places, owner) for owner in "abcabc"))

    run(scenario())
    assert len(done) >= 36
    assert most_held.pop("all") <= total and max(most_held.values()) <= per_owner


def test_whoever_waits_for_himself_keeps_nobody_waiting() -> None:
    async def scenario() -> None:
        places = SharedPlaces(4, per_owner=2, most_waiting=3)
        never = asyncio.Event()

        async def hold() -> None:
            async with places.place("greedy"):
                await never.wait()

        tasks = [asyncio.create_task(hold()) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(RateRefusal, match="3 of your files"):
            async with places.place("greedy"):
                pass
        async with places.place("other"), places.place("other"):
            pass
        for task in tasks:
            task.cancel()

    run(scenario())
