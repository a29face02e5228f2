import pytest
import torch

from seedvr2_ray.models.weights.catalogue import find_entry
from seedvr2_ray.restoration.planning.device_memory import DeviceMemory, look_at_device
from seedvr2_ray.restoration.planning.forecast import forecast_memory
from seedvr2_ray.settings import RestoreSettings
from tests.restoration import plans


def a_device(free_bytes):
    return DeviceMemory(name="cpu", kind="cpu", dtype=torch.float32, free_bytes=free_bytes)


def a_plan(resolution):
    return plans.a_plan(RestoreSettings(resolution=resolution))


def test_a_filter_needs_no_forecast():
    assert forecast_memory(a_plan("x2"), find_entry("lanczos"), a_device(10**12)) is None


@pytest.mark.slow
def test_what_fits_is_told_from_what_does_not_without_any_weights():
    entry = find_entry("seedvr2-3b")
    small, large = (forecast_memory(a_plan(size), entry, a_device(10**12)) for size in ("x2", "720p"))
    # Three thousand million weights of four bytes, and the pictures on top of them.
    assert 12e9 < small.peak_bytes < large.peak_bytes
    refused = forecast_memory(a_plan("x2"), entry, a_device(10**9))
    assert refused.peak_bytes is None
    assert str(refused).startswith("does not fit: ")
    assert "GiB" in refused.refusal


@pytest.mark.slow
def test_what_swiftvr_needs_is_told_without_any_weights():
    entry = find_entry("swiftvr")
    small, large = (forecast_memory(a_plan(size), entry, a_device(10**12)) for size in ("x2", "720p"))
    # Less than the five thousand million weights of four bytes, a ninth of which is folded away.
    assert 17e9 < small.peak_bytes < large.peak_bytes < 40e9
    assert "not measured" in small.costs
    refused = forecast_memory(a_plan("x2"), entry, a_device(10**9))
    assert refused.peak_bytes is None
    assert str(refused).startswith("does not fit: ")


def test_a_device_is_described_by_what_decides_over_memory():
    here = look_at_device(torch.device("cpu"))
    assert (here.name, here.kind, here.dtype) == ("cpu", "cpu", torch.float32)
    assert here.free_bytes > 2**20
