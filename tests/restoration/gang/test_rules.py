"""What a gang cannot be is said before anything starts."""

import pytest

from seedvr2_ray.errors import DeploymentError, SettingsError
from seedvr2_ray.models.weights.catalogue import find_entry
from seedvr2_ray.restoration.gang.rules import choose_devices, require_gang


@pytest.mark.parametrize(
    ("model", "size", "strategy", "words"),
    [
        ("seedvr2-3b", 8, "ulysses", "20 heads .* 8 ranks, only to 2, 4, 5, 10, 20; .windows"),
        ("lanczos", 2, "auto", "lanczos runs on one device"),
        ("swiftvr", 2, "ulysses", "swiftvr have whole chunks.* no use for .ulysses"),
        ("nano", 0, "auto", "1 to 64"),
        ("nano", 65, "auto", "1 to 64"),
    ],
)
def test_a_gang_that_a_model_cannot_be_shared_by_is_refused(model, size, strategy, words):
    with pytest.raises(SettingsError, match=words):
        require_gang(find_entry(model), size, strategy)


@pytest.mark.parametrize(
    ("model", "size", "strategy"),
    [("seedvr2-3b", 4, "ulysses"), ("seedvr2-3b", 8, "windows"), ("seedvr2-7b", 8, "ulysses"), ("lanczos", 1, "auto")],
)
def test_a_gang_that_a_model_can_be_shared_by_is_taken(model, size, strategy):
    require_gang(find_entry(model), size, strategy)


def test_a_machine_with_fewer_gpus_is_told_of_in_one_sentence_and_the_cpu_is_taken_only_when_asked_for():
    with pytest.raises(SettingsError, match="4 GPUs .* has 2; ask for at most 2, or say --device cpu"):
        choose_devices(4, "cuda", num_gpus=lambda: 2)
    with pytest.raises(SettingsError, match="2 GPUs .* has 0; say --device cpu"):
        choose_devices(2, "cuda", num_gpus=lambda: 0)
    assert choose_devices(4, "cpu", num_gpus=lambda: 0) is None


def test_a_build_without_nccl_is_told_of():
    with pytest.raises(DeploymentError, match="has no NCCL"):
        choose_devices(2, "cuda", num_gpus=lambda: 2, has_nccl=lambda: False)


def test_ranks_get_the_gpus_that_this_process_may_use(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1,2")
    assert choose_devices(2, "cuda", num_gpus=lambda: 3, has_nccl=lambda: True) == ("3", "1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert choose_devices(2, "cuda", num_gpus=lambda: 3, has_nccl=lambda: True) == ("0", "1")
