import pytest
import torch
from torch import nn

from seedvr2_ray.restoration.diffusion import placement
from seedvr2_ray.restoration.diffusion.placement import Placement

GPU = torch.device("cuda")


class Network(nn.Module):
    """Says where it is and writes down where it goes, without the device being there."""

    def __init__(self, name, log, place="cpu"):
        super().__init__()
        self.name, self.log, self.place = name, log, torch.device(place)
        self.weight = nn.Parameter(torch.zeros(5))

    def parameters(self, recurse=True):
        class Parameter:
            device = self.place

        return iter([Parameter()])

    def to(self, device):
        self.place = device
        self.log.append(f"{self.name} to {device.type}")
        return self


@pytest.fixture
def log(monkeypatch):
    moves = []
    monkeypatch.setattr(placement, "release_memory", lambda device: moves.append(f"release {device.type}"))
    return moves


def _place(log, device=GPU, place="cpu"):
    return Placement({name: Network(name, log, place) for name in ("vae", "transformer")}, device)


def test_networks_that_fit_together_are_moved_once_each(log):
    networks = _place(log)
    for name in ("vae", "transformer", "vae", "vae", "transformer"):
        networks.bring(name, alone=False)
    assert log == ["vae to cuda", "transformer to cuda"]


def test_a_network_that_must_be_alone_waits_until_the_other_has_left(log):
    networks = _place(log)
    for name in ("vae", "vae", "transformer", "vae"):
        networks.bring(name, alone=True)
    assert log == [
        "vae to cuda",
        *("vae to cpu", "release cuda", "transformer to cuda"),
        *("transformer to cpu", "release cuda", "vae to cuda"),
    ]


def test_what_is_there_already_stays_there(log):
    networks = _place(log, place="cuda")
    networks.bring("vae", alone=False)
    assert log == []
    networks.bring("vae", alone=True)
    assert log == ["transformer to cpu", "release cuda"]


def test_nothing_leaves_a_cpu_which_has_no_other_memory(log):
    networks = _place(log, torch.device("cpu"))
    networks.bring("transformer", alone=True)
    assert log == []


def test_the_memory_that_networks_occupy_counts_only_on_the_device(log):
    networks = _place(log)
    assert networks.resident_bytes() == 0
    networks.bring("vae", alone=True)
    assert networks.resident_bytes() == 20
    networks.bring("transformer", alone=False)
    assert networks.resident_bytes() == 40
