import pytest

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.restoration.planning.gpus import find_gpu, known_gpus


def test_every_gpu_names_the_source_of_its_figures():
    assert set(known_gpus()) == {"H100", "H200", "A100", "L40S", "RTX 4090", "RTX 5090"}
    assert all("NVIDIA" in gpu.source and gpu.memory_gib > 20 for gpu in known_gpus().values())


@pytest.mark.parametrize("name", ["h100", "H100", "h100-80g", "H100 80GB", "h100_80gb"])
def test_a_gpu_is_found_by_its_name_however_it_is_written(name):
    assert find_gpu(name) is known_gpus()["H100"]


@pytest.mark.parametrize("name", ["", "h10", "h100-40g", "4090"])
def test_an_unknown_gpu_is_refused_with_those_that_are_known(name):
    with pytest.raises(SettingsError, match="choose one of h100, .*rtx-4090"):
        find_gpu(name)


def test_the_longer_of_arithmetic_and_traffic_counts():
    h100 = known_gpus()["H100"]
    assert h100.seconds(989.4e12, 0, is_fp32=False) == pytest.approx(1)
    assert h100.seconds(66.9e12, 0, is_fp32=True) == pytest.approx(1)
    assert h100.seconds(1, 3350 * 10**9, is_fp32=False) == pytest.approx(1)
    assert 0 < h100.seconds(0, 0, is_fp32=False) < 1e-5
