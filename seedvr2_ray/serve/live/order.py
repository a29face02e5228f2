"""What a caller wants of a live stream, as it travels to a replica; no model is loaded to say it."""

from dataclasses import dataclass

from seedvr2_ray.live.channel import Policy
from seedvr2_ray.settings import RestoreSettings

STARTED = "started"
"""What a replica says first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveOrder:
    """What a caller wants of a stream. Travels to the replica."""

    settings: RestoreSettings
    policy: Policy
    least_factor: float
