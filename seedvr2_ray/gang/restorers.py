"""Where workers on Ray get gangs from, behind the seam through which they get any restorer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.gang.actors import RankActors
from seedvr2_ray.gang.placement import BesideLeader, Placement, current_group
from seedvr2_ray.models.backends import SpStrategy
from seedvr2_ray.restoration.gang.messages import RankSource
from seedvr2_ray.restoration.gang.ranks import GangSpec, Timeouts
from seedvr2_ray.restoration.gang.restorer import GangRestorer
from seedvr2_ray.restoration.load import RestorerSource
from seedvr2_ray.restoration.restorer import RestorerIdentity
from seedvr2_ray.settings import RestoreSettings

PlacementKind = Literal["beside", "group"]
"""A fat leader that holds all devices; or the placement group that the leader was put into, as Serve's replicas are."""

_PLACEMENTS: dict[PlacementKind, Callable[[int], Placement]] = {"beside": BesideLeader, "group": current_group}


@dataclass(frozen=True, kw_only=True, slots=True)
class GangRestorers:
    """A :class:`~seedvr2_ray.restoration.load.RestorerSource` whose restorers are gangs; the caller leads them."""

    source: RankSource
    size: int
    placement: PlacementKind
    strategy: SpStrategy = "auto"
    timeouts: Timeouts = field(default_factory=Timeouts)

    def identify(self, settings: RestoreSettings) -> RestorerIdentity:
        """Say who will restore: the same as without a gang."""
        return self.source.identify(settings)

    def load(self, settings: RestoreSettings) -> GangRestorer:
        """Start the ranks and wait until they hold the model together."""
        placement = _PLACEMENTS[self.placement](self.size)
        spec = GangSpec(
            source=self.source, settings=settings, size=self.size, strategy=self.strategy, timeouts=self.timeouts
        )
        return GangRestorer(spec, lambda: RankActors(placement))


def in_gangs(
    source: RestorerSource,
    size: int,
    strategy: SpStrategy = "auto",
    timeouts: Timeouts | None = None,
    placement: PlacementKind = "beside",
) -> RestorerSource:
    """Return a source whose restorers are gangs of a size; itself at size 1.

    Raises:
        SettingsError: the source has no restorers that could be shared.
    """
    if size == 1:
        return source
    if not isinstance(source, RankSource):
        raise SettingsError(f"{type(source).__name__} has no restorers for gangs; use a gang_size of 1")
    return GangRestorers(
        source=source, size=size, placement=placement, strategy=strategy, timeouts=timeouts or Timeouts()
    )
