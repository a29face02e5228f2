"""Where the ranks of a gang are put: always on the leader's machine, each with a device of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.util.placement_group import PlacementGroup, placement_group_table
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from seedvr2_ray.errors import DeploymentError


class Placement(Protocol):
    """Where ranks go."""

    def options(self, rank: int) -> dict[str, Any]:
        """Return Ray's options of a rank's actor."""

    def environ(self, rank: int) -> Mapping[str, str]:
        """Return what its process must be told about its device."""

    def close(self) -> None:
        """Give back what is held besides the actors."""


class BesideLeader:
    """A fat leader: it holds the devices of all ranks, which are put beside it and told which is whose.

    Ray counts the devices where they are reserved, so that pools and autoscalers see them, and there is no placement
    group that could be left behind.
    """

    def __init__(self, size: int) -> None:
        """Look which devices this actor has.

        Raises:
            DeploymentError: it was given fewer than ranks.
        """
        context = ray.get_runtime_context()
        gpus = [str(each) for each in context.get_accelerator_ids().get("GPU", [])]
        if gpus and len(gpus) != size:
            raise DeploymentError(f"a gang of {size} was given {len(gpus)} GPUs; give its leader num_gpus={size}")
        self._gpus = gpus
        self._node = context.get_node_id()

    def options(self, rank: int) -> dict[str, Any]:
        """Return Ray's options of a rank's actor."""
        here = NodeAffinitySchedulingStrategy(self._node, soft=False)
        return {"num_cpus": 0, "num_gpus": 0, "scheduling_strategy": here}

    def environ(self, rank: int) -> Mapping[str, str]:
        """Return which of the leader's devices is this rank's."""
        return {"CUDA_VISIBLE_DEVICES": self._gpus[rank] if self._gpus else ""}

    def close(self) -> None:
        """Hold nothing else."""


@dataclass(frozen=True, slots=True)
class InGroup:
    """A bundle of a placement group for each rank."""

    group: PlacementGroup
    first_bundle: int
    """Of rank 0; bundles before it are the leader's."""

    def options(self, rank: int) -> dict[str, Any]:
        """Return Ray's options of a rank's actor: all that its bundle holds."""
        index = self.first_bundle + rank
        bundle = self.group.bundle_specs[index]
        return {
            "num_cpus": bundle.get("CPU", 0),
            "num_gpus": bundle.get("GPU", 0),
            "scheduling_strategy": in_bundle(self.group, index),
        }

    def environ(self, rank: int) -> Mapping[str, str]:
        """Say nothing: Ray shows an actor the devices that it reserved."""
        return {}

    def close(self) -> None:
        """Leave the group to whoever made it."""


def bundles_of(size: int, *, num_gpus: float, num_cpus: float) -> list[dict[str, float]]:
    """Return the bundles of a gang: the leader's, and one per rank.

    Args:
        num_gpus: per rank; 0 is a gang on the CPU.
        num_cpus: of the leader, which decodes and encodes; of each rank as well where it has no GPU.
    """
    rank = {"GPU": num_gpus} if num_gpus else {"CPU": num_cpus}
    return [{"CPU": num_cpus}, *(dict(rank) for _ in range(size))]


def find_group(name: str, size: int) -> PlacementGroup:
    """Return a placement group that was made beforehand for one gang, by whichever job of the cluster.

    Raises:
        DeploymentError: there is none of this name, or it is no place for a gang of this size.
    """
    table = [each for each in placement_group_table().values() if each["name"] == name and each["state"] != "REMOVED"]
    if len(table) != 1:
        raise DeploymentError(
            f"{len(table) or 'no'} placement groups of this cluster are called {name!r}; make one of that name with "
            f"{size + 1} bundles and the strategy STRICT_PACK"
        )
    (found,) = table
    if len(found["bundles"]) != size + 1 or found["strategy"] != "STRICT_PACK":
        raise DeploymentError(
            f"placement group {name!r} has {len(found['bundles'])} bundles and the strategy {found['strategy']}; a "
            f"gang of {size} needs {size + 1}, of which the first is its leader's, and STRICT_PACK"
        )
    return PlacementGroup(ray.PlacementGroupID(bytes.fromhex(found["placement_group_id"])))


def in_bundle(group: PlacementGroup, index: int) -> PlacementGroupSchedulingStrategy:
    """Return how Ray is told to put something into a bundle."""
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)


def current_group(size: int) -> InGroup:
    """Return the placement group that this actor was put into, its first bundle being the leader's.

    Raises:
        DeploymentError: it was put into none, or into one of another size.
    """
    group = ray.util.get_current_placement_group()
    if group is None or group.bundle_count != size + 1:
        raise DeploymentError(
            f"a gang of {size} needs a placement group of {size + 1} bundles, and this process is in "
            f"{'none' if group is None else f'one of {group.bundle_count}'}"
        )
    return InGroup(group, first_bundle=1)
