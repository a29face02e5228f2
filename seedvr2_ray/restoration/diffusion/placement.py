"""Which networks are on the device, and which wait in host memory."""

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from seedvr2_ray.restoration.device import release_memory

Name = TypeVar("Name", bound=str)
_HOST = torch.device("cpu")


class Placement(Generic[Name]):
    """The networks of a model, brought to the device and taken off it as stages begin.

    A move happens in whole or not at all: all tensors are copied before the first one is exchanged, so that running out
    of memory leaves a network where it was. Weights never change, so those of a network that will leave again stay in
    host memory as well, and leaving copies nothing back.
    """

    def __init__(self, networks: Mapping[Name, nn.Module], device: torch.device) -> None:
        """Take over networks wherever their weights lie."""
        self._networks = networks
        self._device = device
        self._host_copies: dict[Name, list[Tensor]] = {}

    def bring(self, name: Name, *, alone: bool) -> None:
        """Have a network on the device.

        Called outside inference mode, in which moved weights could not be used anywhere else.

        Args:
            alone: take the others off the device first, so that no two are on it at a time.
        """
        if self._device.type == _HOST.type:
            return
        if alone:
            leaving = [other for other in self._networks if other != name and self._bytes_on_device(other)]
            for other in leaving:
                self._leave(other)
            if leaving:
                release_memory(self._device)
        self._enter(name, returns=alone)

    def resident_bytes(self) -> int:
        """Return what the networks occupy on the device now."""
        return sum(self._bytes_on_device(name) for name in self._networks)

    def _enter(self, name: Name, *, returns: bool) -> None:
        tensors = list(_tensors(self._networks[name]))
        if all(self._is_there(tensor) for tensor in tensors):
            return
        left_behind = [tensor.data for tensor in tensors]
        _exchange(tensors, [tensor if self._is_there(tensor) else copied(tensor, self._device) for tensor in tensors])
        if returns and not any(self._is_there(tensor) for tensor in left_behind):
            self._host_copies[name] = left_behind

    def _leave(self, name: Name) -> None:
        tensors = list(_tensors(self._networks[name]))
        kept = self._host_copies.pop(name, None)
        _exchange(tensors, kept or [copied(tensor, _HOST) for tensor in tensors])

    def _bytes_on_device(self, name: Name) -> int:
        there = (tensor for tensor in _tensors(self._networks[name]) if self._is_there(tensor))
        return sum(tensor.numel() * tensor.element_size() for tensor in there)

    def _is_there(self, tensor: Tensor) -> bool:
        return device_of(tensor).type == self._device.type


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    """Everything a network consists of, also what was derived from its weights."""
    yield from network.parameters()
    yield from network.buffers()


def device_of(tensor: Tensor) -> torch.device:
    """Return where a tensor's numbers lie."""
    return tensor.device


def copied(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor's numbers on a device."""
    return tensor.detach().to(device)


def _exchange(tensors: list[Tensor], others: list[Tensor]) -> None:
    """Give tensors the memory of others. It only exchanges pointers, so it cannot fail halfway."""
    for tensor, other in zip(tensors, others, strict=True):
        tensor.data = other.data
