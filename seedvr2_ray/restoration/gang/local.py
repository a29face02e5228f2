"""A gang on this machine, without Ray: what ``seedvr2-ray restore --gpus N`` starts."""

from typing import Literal

from seedvr2_ray.models.backends import SpStrategy
from seedvr2_ray.restoration.gang.messages import RankSource
from seedvr2_ray.restoration.gang.processes import LocalProcesses
from seedvr2_ray.restoration.gang.ranks import GangSpec, Timeouts
from seedvr2_ray.restoration.gang.restorer import GangRestorer
from seedvr2_ray.restoration.gang.rules import choose_devices
from seedvr2_ray.settings import RestoreSettings


def start_local_gang(
    source: RankSource,
    settings: RestoreSettings,
    size: int,
    device: Literal["auto", "cpu"] = "auto",
    strategy: SpStrategy = "auto",
    timeouts: Timeouts | None = None,
) -> GangRestorer:
    """Start a process for each GPU, or with ``cpu`` so many that share the cores, and wait until they are ready.

    Raises:
        SettingsError: this machine has fewer GPUs.
        DeploymentError: ranks cannot talk to each other with this installation.
        GangError: they did not come up.
    """
    devices = choose_devices(size, "cpu" if device == "cpu" else "cuda")
    spec = GangSpec(source=source, settings=settings, size=size, strategy=strategy, timeouts=timeouts or Timeouts())
    return GangRestorer(spec, lambda: LocalProcesses(devices))
