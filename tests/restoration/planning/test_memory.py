from dataclasses import replace
from itertools import pairwise

import pytest

from seedvr2_ray.errors import CapacityError, DeviceMemoryError
from seedvr2_ray.models.seedvr2.config import SEEDVR2_3B, SEEDVR2_7B
from seedvr2_ray.models.seedvr2.vae.config import SEEDVR2_VAE
from seedvr2_ray.restoration.planning.memory import (
    LADDER,
    MemoryCosts,
    MemoryDemand,
    MemoryLesson,
    plan_memory,
    predict,
)

GIB = 2**30
COSTS = MemoryCosts.for_device("NVIDIA H200")
DEMAND = MemoryDemand(
    transformer=SEEDVR2_7B,
    vae=SEEDVR2_VAE,
    transformer_bytes=int(16.5e9),
    vae_bytes=int(0.5e9),
    encode_cache_bytes=3885,
    decode_cache_bytes=7313,
    item_bytes=2,
    cuts_convolutions=True,
    padded_height=1104,
    padded_width=1920,
    num_frames=240,
    chunk_frames=21,
    chunk_overlap=2,
)


def _plan(available, demand=DEMAND, **options):
    return plan_memory(demand, COSTS, int(available * GIB), **{"may_offload": True, **options})


def test_less_memory_only_ever_means_a_smaller_setting_and_never_another_picture():
    steps = []
    for available in range(300, 0, -1):
        try:
            plan = _plan(available)
        except CapacityError:
            break
        assert plan.stages.peak <= available * GIB
        assert plan.chunk_frames == 21
        assert plan.changes == ()
        steps.append(LADDER.index(plan.knobs))
    assert steps == sorted(steps)
    assert len(set(steps)) > 3


def test_every_rung_of_the_ladder_has_its_use():
    peaks = [predict(DEMAND, COSTS, knobs).peak for knobs in LADDER]
    assert min(peaks) == peaks[-1]
    assert len(set(peaks)) == len(peaks)


def test_a_picture_is_only_changed_where_that_was_allowed_and_it_is_said_so():
    demand = replace(DEMAND, padded_height=2192, padded_width=3840, num_frames=600, chunk_frames=301)
    smallest = min(predict(replace(demand, chunk_frames=5), COSTS, knobs).peak for knobs in LADDER) / GIB * 1.2
    with pytest.raises(CapacityError, match=r"chunk_frames \d+ would fit"):
        _plan(smallest, demand)
    plan = _plan(smallest, demand, may_change_picture=True)
    assert plan.chunk_frames < 301
    assert plan.chunk_frames % 4 == 1
    assert plan.changes == (f"chunk_frames 301 -> {plan.chunk_frames}, the longest that fits",)


def test_what_cannot_fit_at_all_is_refused_with_numbers_and_the_way_out():
    with pytest.raises(
        CapacityError, match=r"1920x1104 .*needs \d+\.\d GiB \(in.*'decode'\) and 0\.9 GiB.*smaller res"
    ):
        _plan(3)


@pytest.mark.slow
def test_offloading_needs_another_memory():
    only_offloaded = min(available for available in range(1, 200) if _fits(available)) + 0.5
    assert _plan(only_offloaded).knobs.offload
    with pytest.raises(CapacityError):
        _plan(only_offloaded, may_offload=False)


def _fits(available):
    try:
        _plan(available)
    except CapacityError:
        return False
    return True


def test_what_once_ran_out_is_not_planned_again_nor_anything_as_large():
    first = _plan(200)
    lesson = MemoryLesson(knobs=first.knobs, stage="decode", planned_bytes=first.stages.decode)
    second = _plan(200, lessons=[lesson])
    assert LADDER.index(second.knobs) > LADDER.index(first.knobs)
    larger = replace(DEMAND, padded_height=1472, padded_width=2560)
    assert _plan(500, larger, lessons=[lesson]).knobs != first.knobs
    smaller = replace(DEMAND, padded_height=752, padded_width=1280)
    assert _plan(200, smaller, lessons=[lesson]).knobs == first.knobs
    last = MemoryLesson(knobs=LADDER[-1], stage="decode", planned_bytes=0)
    with pytest.raises(DeviceMemoryError, match="memory ran out in the stage 'decode' with 0.0 GiB planned"):
        _plan(200, lessons=[last])


@pytest.mark.parametrize("model", [(SEEDVR2_3B, 6.8e9), (SEEDVR2_7B, 16.5e9)])
def test_2160p_fits_an_80_gb_card_whole_and_exactly(model):
    demand = replace(
        DEMAND, transformer=model[0], transformer_bytes=int(model[1]), padded_height=2192, padded_width=3840
    )
    plan = _plan(78.5, demand)
    assert plan.changes == ()
    assert plan.stages.peak < 75 * GIB


@pytest.mark.parametrize("size", [(736, 1280), (1088, 1920), (2176, 3840), (4352, 7680)])
@pytest.mark.parametrize("knobs", LADDER)
def test_fewer_rows_or_smaller_bands_never_need_more(size, knobs):
    demand = replace(DEMAND, padded_height=size[0], padded_width=size[1])
    whole = predict(demand, COSTS, knobs)
    halves = predict(replace(demand, padded_height=size[0] // 2), COSTS, knobs)
    banded = predict(demand, COSTS, replace(knobs, conv_elements=knobs.conv_elements // 4))
    assert halves.decode < whole.decode
    assert banded.decode <= whole.decode
    assert banded.encode <= whole.encode


def test_tiles_that_the_refusal_names_do_fit_and_larger_ones_do_not():
    demand = replace(DEMAND, padded_height=2192, padded_width=3840)
    with pytest.raises(CapacityError, match=r"GiB can be used; vae_tile 1024 would fit"):
        _plan(30, demand)
    assert _plan(30, replace(demand, vae_tile=1024)).stages.peak < 30 * GIB
    with pytest.raises(CapacityError, match="vae_tile 1024 would fit"):
        _plan(30, replace(demand, vae_tile=1536))


@pytest.mark.parametrize("knobs", LADDER)
def test_smaller_tiles_never_need_more_and_one_that_holds_the_frame_changes_nothing(knobs):
    peaks = [predict(replace(DEMAND, vae_tile=tile), COSTS, knobs) for tile in (256, 512, 1024)]
    assert [stages.decode for stages in peaks] == sorted(stages.decode for stages in peaks)
    assert predict(replace(DEMAND, vae_tile=1920), COSTS, knobs) == predict(DEMAND, COSTS, knobs)


def test_an_image_needs_no_memory_of_the_past():
    image = replace(DEMAND, num_frames=1)
    costly = replace(image, encode_cache_bytes=10**9, decode_cache_bytes=10**9)
    assert predict(costly, COSTS, LADDER[0]) == predict(image, COSTS, LADDER[0])


def test_the_length_of_a_segment_hardly_matters_once_all_stages_alternate():
    short, long = (predict(replace(DEMAND, num_frames=n), COSTS, LADDER[0]).peak for n in (97, 240))
    assert 0 <= long - short < 0.5 * GIB


@pytest.mark.parametrize("knobs", LADDER)
def test_more_ranks_need_less_each_and_never_less_than_their_share(knobs):
    demand = replace(DEMAND, padded_height=736, padded_width=1280)
    peaks = [predict(replace(demand, num_ranks=size), COSTS, knobs) for size in range(1, 9)]
    weights = demand.vae_bytes + demand.transformer_bytes
    for before, after in pairwise(peaks):
        assert after.decode < before.decode
        assert after.peak < before.peak
    for size, stages in enumerate(peaks, start=1):
        assert stages.peak > weights * (0 if knobs.offload else 1)
        assert stages.peak * size >= peaks[0].peak


def test_the_stated_target_is_met_on_paper():
    """3B at 2560x1440 in less than 60 GiB."""
    demand = replace(
        DEMAND, transformer=SEEDVR2_3B, transformer_bytes=int(6.8e9), padded_height=1472, padded_width=2560
    )
    resident = [knobs for knobs in LADDER if not knobs.offload]
    assert predict(demand, COSTS, resident[-1]).peak < 60 * GIB


def test_devices_without_a_measurement_get_the_estimate_and_say_so():
    assert MemoryCosts.for_device("Some GPU").source.startswith("estimate")
    assert MemoryCosts.for_device("cpu") != MemoryCosts.for_device("Some GPU")
