"""How many GPUs restore something is settled by its plan, before anything is loaded."""

import pytest
import torch

from seedvr2_ray.errors import DeviceMemoryError, SettingsError
from seedvr2_ray.restoration.gang import choice
from seedvr2_ray.restoration.gang.choice import ModelToLoad, settle_gang
from seedvr2_ray.restoration.load import LoadOptions
from seedvr2_ray.restoration.planning.device_memory import DeviceMemory
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.restoration.planning.plan import plan_video
from seedvr2_ray.restoration.restorer import RestorerIdentity, SegmentTask
from seedvr2_ray.settings import RestoreSettings
from tests.media.masters import a_source

NANO = RestoreSettings(model="nano", resolution="1280x720")
TASK = SegmentTask(
    first_frame=0,
    num_frames=61,
    geometry=Geometry(source_width=640, source_height=360, width=1280, height=720),
    settings=NANO,
    output_depth=8,
)
MIB = 2**20


@pytest.fixture
def machine(monkeypatch):
    """A machine of GPUs as the planner sees it."""

    def of(free_mib, num_devices=8):
        gpu = DeviceMemory(
            name="gpu", kind="cuda", dtype=torch.bfloat16, free_bytes=free_mib * MIB, num_devices=num_devices
        )
        monkeypatch.setattr(choice, "look_at_device", lambda device: gpu)
        monkeypatch.setattr(choice, "choose_devices", lambda size, device: None)

    return of


def _settled(gpus=None, settings=NANO):
    return settle_gang(settings, LoadOptions(gpus=gpus), TASK).gpus


def test_one_gpu_is_taken_where_it_fits_else_the_fewest_that_can(machine):
    sizes = []
    for free_mib in (100_000, 1500, 1000, 800, 600):
        machine(free_mib)
        try:
            sizes.append(_settled())
        except DeviceMemoryError:
            sizes.append(99)
    assert sizes == sorted(sizes)
    assert sizes[0] == 1 and set(sizes) & {2, 4, 8}


def test_the_size_asked_for_is_taken_if_it_fits_and_refused_with_the_size_that_would_otherwise(machine):
    machine(100_000)
    assert _settled(3) == 3
    needed = next(size for free_mib in range(2000, 500, -100) if (size := _size_in(machine, free_mib)) > 1)
    with pytest.raises(DeviceMemoryError, match=f"a gang of {needed} GPUs like this one would do"):
        _settled(1)
    with pytest.raises(SettingsError, match="needs 9 GPUs in one machine and there are 8"):
        _settled(9)


def _size_in(machine, free_mib):
    machine(free_mib)
    return _settled()


def test_one_device_is_left_to_its_restorer_and_a_filter_never_needs_two(machine):
    machine(1, num_devices=1)
    assert _settled() == 1
    machine(1)
    assert _settled(settings=RestoreSettings(model="lanczos")) == 1
    with pytest.raises(SettingsError, match="lanczos runs on one device"):
        _settled(2, RestoreSettings(model="lanczos"))


def test_a_plan_settles_what_is_loaded(machine, monkeypatch):
    loaded = []
    monkeypatch.setattr(choice, "load_restorer", lambda settings, options: loaded.append(options.gpus))
    needed = next(size for free_mib in range(2000, 500, -100) if (size := _size_in(machine, free_mib)) > 1)
    plan = plan_video(
        a_source(pts=range(61), width=640, height=360),
        NANO,
        source="in.mp4",
        fingerprint="f",
        shots=(0,),
        restorer=RestorerIdentity("nano", "0"),
        target="out.mp4",
        max_pixels=10**8,
    )
    model = ModelToLoad(NANO, LoadOptions())
    model.accept(plan)
    model.load()
    assert loaded == [needed] == [model.num_gpus]
