"""Whatever the catalogue lists can be identified, planned and restored without asking of which family it is."""

from dataclasses import replace

import pytest
import torch

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.models.weights.catalogue import CATALOGUE
from seedvr2_ray.restoration.families import family_of
from seedvr2_ray.restoration.planning.device_memory import DeviceMemory
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.restoration.planning.memory import MemoryCosts
from seedvr2_ray.restoration.restorer import SegmentTask
from seedvr2_ray.settings import RestoreSettings

COSTS = MemoryCosts.for_device("cpu")
STREAM = SegmentTask(
    first_frame=0,
    num_frames=None,
    geometry=Geometry(source_width=64, source_height=48, width=128, height=96),
    settings=RestoreSettings(),
    output_depth=8,
)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_model_has_an_identity_of_its_own_name(name):
    entry = CATALOGUE[name]
    hashes = {part.role: "0" * 64 for part in entry.components}
    assert family_of(entry).identify(entry, hashes, torch.float32).name == name


@pytest.mark.parametrize("name", [name for name in CATALOGUE if not name.startswith("seedvr2-")])
def test_a_model_that_takes_streams_says_so_in_the_catalogue_and_others_refuse_them(name):
    entry = CATALOGUE[name]
    family = family_of(entry)

    def foresee(task):
        device = DeviceMemory(name="cpu", kind="cpu", dtype=torch.bfloat16, free_bytes=10**12)
        return family.foresee_memory(entry, task, COSTS, device, gang_size=None)

    if entry.takes_streams:
        # What it needs does not grow with the length.
        assert foresee(STREAM) == foresee(replace(STREAM, num_frames=10_000))
    else:
        with pytest.raises(SettingsError, match="choose a model that takes streams"):
            foresee(STREAM)


def test_an_entry_is_of_one_family_only():
    with pytest.raises(ValueError, match="no model of SwiftVR's family"):
        _ = CATALOGUE["nano"].swiftvr
    with pytest.raises(ValueError, match="no model of SeedVR2's family"):
        _ = CATALOGUE["swiftvr"].seedvr2


def test_a_rank_of_swiftvr_needs_what_one_gpu_needs_and_a_gang_beyond_the_machine_is_refused():
    entry = CATALOGUE["swiftvr"]

    def foresee(gang_size):
        device = DeviceMemory(name="cpu", kind="cuda", dtype=torch.bfloat16, free_bytes=10**12, num_devices=4)
        return family_of(entry).foresee_memory(entry, STREAM, COSTS, device, gang_size=gang_size)

    alone = foresee(None)
    assert alone.gang_size == 1
    assert foresee(4) == replace(alone, gang_size=4)
    with pytest.raises(SettingsError, match="gang_size 8 needs 8 GPUs in one machine and there are 4"):
        foresee(8)
