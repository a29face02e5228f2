"""Networks move to the device and back in whole or not at all; the device here is one of these tests' own."""

import pytest
import torch
from torch import nn

from seedvr2_ray.restoration.diffusion import placement
from seedvr2_ray.restoration.diffusion.placement import Placement

CPU, GPU = torch.device("cpu"), torch.device("cuda")
NAMES = ("vae", "transformer")


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.register_buffer("derived", torch.arange(4.0), persistent=False)
        self.register_buffer("absent", None, persistent=False)
        self.last = nn.Linear(3, 1)


NUM_BYTES = 4 * (2 * 3 + 3 + 4 + 3 + 1)


class Device:
    """A device that is not there: host memory under another name, which may run out."""

    def __init__(self):
        self.room = 1000
        self.log = []
        self._held = {}

    def of(self, tensor):
        return GPU if tensor.data_ptr() in self._held else CPU

    def copied(self, tensor, device):
        if device.type == "cuda":
            if self.room == 0:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.room -= 1
        copy = tensor.detach().clone()
        self.log.append(device.type)
        if device.type == "cuda":
            # Held, so that no other tensor gets the same address.
            self._held[copy.data_ptr()] = copy
        return copy

    def holds(self, network):
        tensors = [*network.parameters(), *network.buffers()]
        return {self.of(tensor).type for tensor in tensors}


@pytest.fixture
def device(monkeypatch):
    device = Device()
    monkeypatch.setattr(placement, "device_of", device.of)
    monkeypatch.setattr(placement, "copied", device.copied)
    monkeypatch.setattr(placement, "release_memory", lambda device: None)
    return device


@pytest.fixture
def networks():
    return {name: Network() for name in NAMES}


def test_networks_that_fit_together_are_copied_once_each(device, networks):
    placed = Placement(networks, GPU)
    for name in ("vae", "transformer", "vae", "vae", "transformer"):
        placed.bring(name, alone=False)
    assert device.log == ["cuda"] * 10
    assert all(device.holds(network) == {"cuda"} for network in networks.values())


def test_a_network_that_must_be_alone_enters_when_the_other_has_left(device, networks):
    placed = Placement(networks, GPU)
    for name, other in (("vae", "transformer"), ("vae", "transformer"), ("transformer", "vae"), ("vae", "transformer")):
        placed.bring(name, alone=True)
        assert (device.holds(networks[name]), device.holds(networks[other])) == ({"cuda"}, {"cpu"})
        assert placed.resident_bytes() == NUM_BYTES


def test_weights_that_leave_are_not_copied_back(device, networks):
    placed = Placement(networks, GPU)
    before = {name: [p.detach().clone() for p in networks[name].parameters()] for name in NAMES}
    for name in ("vae", "transformer", "vae", "transformer"):
        placed.bring(name, alone=True)
    assert "cpu" not in device.log
    for name in NAMES:
        assert all(torch.equal(*pair) for pair in zip(networks[name].parameters(), before[name], strict=True))


def test_weights_that_began_on_the_device_are_copied_back_once(device, networks):
    Placement(networks, GPU).bring("vae", alone=False)
    placed = Placement(networks, GPU)
    device.log.clear()
    for name in ("transformer", "vae", "transformer"):
        placed.bring(name, alone=True)
    assert device.log == ["cpu"] * 5 + ["cuda"] * 5 + ["cuda"] * 5 + ["cuda"] * 5


@pytest.mark.parametrize("room", range(5))
def test_running_out_of_memory_leaves_a_network_whole_where_it_was(device, networks, room):
    placed = Placement(networks, GPU)
    device.room = room
    with pytest.raises(torch.OutOfMemoryError):
        placed.bring("vae", alone=False)
    assert device.holds(networks["vae"]) == {"cpu"}
    assert placed.resident_bytes() == 0
    device.room = 5
    placed.bring("vae", alone=False)
    assert placed.resident_bytes() == NUM_BYTES


def test_what_is_there_in_part_counts_in_part_and_is_completed(device, networks):
    weight = networks["vae"].first.weight
    weight.data = device.copied(weight, GPU)
    placed = Placement(networks, GPU)
    assert placed.resident_bytes() == 24
    placed.bring("vae", alone=True)
    assert device.holds(networks["vae"]) == {"cuda"}
    placed.bring("transformer", alone=True)
    assert device.holds(networks["vae"]) == {"cpu"}


def test_nothing_leaves_a_cpu_which_has_no_other_memory(device, networks):
    placed = Placement(networks, CPU)
    placed.bring("transformer", alone=True)
    assert device.log == []
    assert placed.resident_bytes() == 2 * NUM_BYTES


@pytest.mark.gpu
def test_a_network_goes_to_a_gpu_and_comes_back(networks):
    placed = Placement(networks, GPU)
    expected = networks["vae"].last.weight.detach().clone()
    for name in ("vae", "transformer", "vae"):
        placed.bring(name, alone=True)
    assert networks["vae"].last.weight.is_cuda
    assert not networks["transformer"].last.weight.is_cuda
    assert torch.equal(networks["vae"].last.weight.cpu(), expected)
    assert placed.resident_bytes() == NUM_BYTES
