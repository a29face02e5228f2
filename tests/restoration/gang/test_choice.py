"""How many GPUs restore something is settled by its plan, before anything is loaded."""

from dataclasses import replace

import pytest
import torch

from seedvr2_ray.errors import DeviceMemoryError, SettingsError
from seedvr2_ray.models.weights.catalogue import find_entry
from seedvr2_ray.restoration.families import facts_of
from seedvr2_ray.restoration.gang import choice
from seedvr2_ray.restoration.gang.choice import ModelToLoad, settle_gang
from seedvr2_ray.restoration.load import LoadOptions
from seedvr2_ray.restoration.planning.device_memory import DeviceMemory
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.restoration.planning.memory import LADDER, MemoryCosts, predict
from seedvr2_ray.restoration.planning.segment_plan import describe_segment
from seedvr2_ray.restoration.restorer import RestorerIdentity, SegmentTask
from seedvr2_ray.settings import RestoreSettings
from tests.media.masters import a_source
from tests.restoration import plans

NANO = RestoreSettings(model="nano", resolution="320x240")
TASK = SegmentTask(
    first_frame=0,
    num_frames=29,
    geometry=Geometry(source_width=160, source_height=120, width=320, height=240),
    settings=NANO,
    output_depth=8,
)
COSTS = MemoryCosts.for_device("gpu")

pytestmark = pytest.mark.slow  # The sizes of networks take a second to find out.


def a_gpu(usable_bytes, num_devices=8):
    free_bytes = int((usable_bytes + COSTS.workspace_bytes) / (1 - COSTS.reserve_share)) + 1
    return DeviceMemory(name="gpu", kind="cuda", dtype=torch.bfloat16, free_bytes=free_bytes, num_devices=num_devices)


@pytest.fixture(scope="module")
def needed():
    """The least that one GPU, and each of two, can do with."""
    demand = describe_segment(TASK, facts_of(find_entry("nano").seedvr2, "cuda", torch.bfloat16))
    return {
        size: min(predict(replace(demand, num_ranks=size), COSTS, knobs).peak for knobs in LADDER) for size in (1, 2)
    }


@pytest.fixture
def machine(monkeypatch):
    """A machine of GPUs as the planner sees it."""

    def of(usable_bytes, num_devices=8):
        monkeypatch.setattr(choice, "look_at_device", lambda device: a_gpu(usable_bytes, num_devices))
        monkeypatch.setattr(choice, "choose_devices", lambda size, device: None)

    return of


def _settled(gpus=None, settings=NANO):
    return settle_gang(settings, LoadOptions(gpus=gpus), TASK).gpus


def test_one_gpu_is_taken_where_it_fits_else_the_fewest_that_can(machine, needed):
    assert needed[2] < needed[1]
    machine(needed[1])
    assert _settled() == 1
    machine(needed[1] - 1)
    assert _settled() == 2
    machine(needed[2])
    assert _settled() == 2


def test_the_size_asked_for_is_taken_if_it_fits_and_refused_with_the_size_that_would_otherwise(machine, needed):
    machine(needed[1] - 1)
    assert _settled(3) == 3
    with pytest.raises(DeviceMemoryError, match="a gang of 2 GPUs like this one would do"):
        _settled(1)
    with pytest.raises(SettingsError, match="needs 9 GPUs in one machine and there are 8"):
        _settled(9)


def test_one_device_is_left_to_its_restorer_and_a_filter_never_needs_two(machine):
    machine(1, num_devices=1)
    assert _settled() == 1
    machine(1)
    assert _settled(settings=RestoreSettings(model="lanczos")) == 1
    with pytest.raises(SettingsError, match="lanczos runs on one device"):
        _settled(2, RestoreSettings(model="lanczos"))


def test_a_plan_settles_what_is_loaded(machine, needed, monkeypatch):
    loaded = []
    monkeypatch.setattr(choice, "load_restorer", lambda settings, options: loaded.append(options.gpus))
    machine(needed[1] - 1)
    plan = plans.a_plan(NANO, RestorerIdentity("nano", "0"), media=a_source(pts=range(29), width=160, height=120))
    model = ModelToLoad(NANO, LoadOptions())
    model.accept(plan)
    model.load()
    assert loaded == [2] == [model.num_gpus]
