import json
from dataclasses import fields, replace

import pytest

from seedvr2_ray.errors import DeviceMemoryError, SettingsError
from seedvr2_ray.models.seedvr2.config import SEEDVR2_3B
from seedvr2_ray.models.seedvr2.vae.config import SEEDVR2_VAE
from seedvr2_ray.restoration.planning.gang import choose_gang
from seedvr2_ray.restoration.planning.memory import MemoryCosts, MemoryDemand
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.address import jsonable
from tests.restoration import plans

GIB = 2**30
COSTS = MemoryCosts.for_device("NVIDIA H200")
DEMAND = MemoryDemand(
    transformer=SEEDVR2_3B,
    vae=SEEDVR2_VAE,
    transformer_bytes=int(1e9),
    vae_bytes=int(0.5e9),
    encode_cache_bytes=3885,
    decode_cache_bytes=7313,
    item_bytes=2,
    cuts_convolutions=True,
    padded_height=736,
    padded_width=1280,
    num_frames=240,
    chunk_frames=21,
    chunk_overlap=2,
)


def _choose(gib, node_gpus=8, demand=DEMAND, **options):
    return choose_gang(demand, COSTS, int(gib * GIB), node_gpus=node_gpus, **options)


@pytest.mark.slow
def test_one_gpu_is_taken_where_it_fits_and_the_fewest_that_do_otherwise():
    sizes = [_choose(gib).size for gib in range(30, 5, -2)]
    assert sizes[0] == 1
    assert sizes == sorted(sizes)
    assert {1, 2, 4} <= set(sizes) <= {1, 2, 4, 8}
    for gib in (20, 9, 7, 6):
        choice = _choose(gib)
        assert choice.bytes_per_rank < gib * GIB
        if choice.size > 1:
            with pytest.raises(DeviceMemoryError):
                _choose(gib, asked=choice.size // 2)


def test_a_machine_of_another_size_is_used_whole_before_anything_is_refused():
    gib = next(gib for gib in range(30, 4, -1) if _choose(gib).size == 4)
    assert _choose(gib, node_gpus=3).size == 3
    with pytest.raises(DeviceMemoryError, match="a gang of 4 GPUs like this one would do, in a machine with so many"):
        _choose(gib, node_gpus=2)


def test_the_size_asked_for_wins_if_it_fits_and_is_refused_with_the_size_that_would_if_not():
    for size in range(1, 9):
        assert _choose(100, asked=size).size == size
    gib = next(gib for gib in range(30, 4, -1) if _choose(gib).size == 2)
    with pytest.raises(DeviceMemoryError, match=r"GiB can be used; .*; a gang of 2 GPUs like this one would do$"):
        _choose(gib, asked=1)


def test_what_no_gang_can_do_is_refused_without_naming_one():
    with pytest.raises(DeviceMemoryError) as caught:
        _choose(3)
    assert "gang" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "node_gpus", "words"),
    [
        (4, 2, "gang_size 4 needs 4 GPUs in one machine and there are 2; ask for at most 2"),
        (2, 1, "gang_size 2 needs 2 GPUs in one machine and there is 1; ask for at most 1"),
        (0, 8, "at least 1 GPU"),
        (5, 8, "4 rows of latents cannot be spread over 5 ranks.*use at most 4 GPUs"),
    ],
)
def test_ranks_that_a_machine_or_a_picture_does_not_have_are_refused(asked, node_gpus, words):
    tiny = replace(DEMAND, padded_height=32, padded_width=64)
    with pytest.raises(SettingsError, match=words):
        _choose(100, node_gpus, tiny, asked=asked)


def test_the_size_of_a_gang_is_in_no_address():
    plan = plans.a_plan()
    hashed = json.dumps(jsonable(plan.recipe)).lower()
    names = [field.name for field in fields(RestoreSettings)]
    for word in ("gang", "rank", "gpu", "sp_size"):
        assert word not in hashed
        assert not any(word in name for name in names)


def test_a_choice_of_size_is_not_lost_on_the_way_to_the_rank():
    choice = _choose(8)
    assert choice.memory.changes == ()
    assert choice.memory.chunk_frames == DEMAND.chunk_frames
