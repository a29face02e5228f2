import pytest
import torch

from seedvr2_ray.restoration import device
from seedvr2_ray.restoration.device import default_dtype, device_name, free_bytes, is_out_of_memory

CPU = torch.device("cpu")


def test_a_cpu_has_a_name_a_type_and_some_memory():
    assert device_name(CPU) == "cpu"
    assert default_dtype(CPU) == torch.float32
    assert 2**20 < free_bytes(CPU) < 2**50


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    (tmp_path / "max").write_text("1000\n")
    (tmp_path / "current").write_text("400\n")
    monkeypatch.setattr(device, "_GROUP_LIMITS", ((tmp_path / "max", tmp_path / "current"),))
    assert free_bytes(CPU) == 600
    (tmp_path / "max").write_text("max\n")
    assert free_bytes(CPU) > 600


def test_a_failed_allocation_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
