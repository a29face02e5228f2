"""Which networks are on the device, and which wait in host memory."""

from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from torch import nn

from seedvr2_ray.restoration.device import release_memory
from seedvr2_ray.restoration.planning.segment_plan import weight_bytes

Name = TypeVar("Name", bound=str)
_HOST = torch.device("cpu")


class Placement(Generic[Name]):
    """The networks of a model, moved between the device and host memory as stages begin."""

    def __init__(self, networks: Mapping[Name, nn.Module], device: torch.device) -> None:
        """Take over networks wherever their weights lie."""
        self._networks = networks
        self._device = device

    def bring(self, name: Name, *, alone: bool) -> None:
        """Have a network on the device.

        Called outside inference mode, in which moved weights could not be used anywhere else.

        Args:
            alone: move the others to host memory first, so that no two are on the device at a time.
        """
        if alone and self._device.type != _HOST.type:
            leaving = [other for key, other in self._networks.items() if key != name and self._is_on_device(other)]
            for other in leaving:
                other.to(_HOST)
            if leaving:
                release_memory(self._device)
        if not self._is_on_device(self._networks[name]):
            self._networks[name].to(self._device)

    def resident_bytes(self) -> int:
        """Return what the networks occupy on the device now."""
        return sum(weight_bytes(network) for network in self._networks.values() if self._is_on_device(network))

    def _is_on_device(self, network: nn.Module) -> bool:
        return next(network.parameters()).device.type == self._device.type
