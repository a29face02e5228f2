import pytest
import torch

from seedvr2_ray.models.catalogue import find_entry
from seedvr2_ray.restoration import forecast
from seedvr2_ray.restoration.forecast import forecast_memory
from seedvr2_ray.restoration.plan import plan_video
from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.settings import RestoreSettings
from tests.media.masters import a_source

CPU = torch.device("cpu")


def a_plan(resolution):
    return plan_video(
        a_source(),
        RestoreSettings(resolution=resolution),
        source="in.mp4",
        fingerprint="f",
        shots=(0,),
        restorer=RestorerIdentity("seedvr2-3b", "0"),
        target="out.mp4",
        max_pixels=10**8,
    )


def test_a_filter_needs_no_forecast():
    assert forecast_memory(a_plan("x2"), find_entry("lanczos"), CPU) is None


@pytest.mark.slow
def test_what_fits_is_told_from_what_does_not_without_any_weights(monkeypatch):
    entry = find_entry("seedvr2-3b")
    monkeypatch.setattr(forecast, "free_bytes", lambda device: 10**12)
    small, large = (forecast_memory(a_plan(size), entry, CPU) for size in ("x2", "720p"))
    # Three thousand million weights of four bytes, and the pictures on top of them.
    assert 12e9 < small.peak_bytes < large.peak_bytes
    monkeypatch.setattr(forecast, "free_bytes", lambda device: 10**9)
    refused = forecast_memory(a_plan("x2"), entry, CPU)
    assert refused.peak_bytes is None
    assert str(refused).startswith("does not fit: ")
    assert "GiB" in refused.refusal
