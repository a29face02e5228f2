"""Which deaths of processes were their own: of one whose machine went, nothing is to be learnt about its work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

_MACHINE = "machine"


def this_machine() -> dict[str, str]:
    """Return what is noted of an attempt so that its death can be told from the loss of its machine."""
    return {_MACHINE: ray.get_runtime_context().get_node_id()} if ray.is_initialized() else {}


@dataclass(frozen=True, slots=True)
class Losses:
    """Attempts at a piece of work that came to no end."""

    deaths: int = 0
    """Ended with their process, for which the work may be to blame."""
    machines: tuple[str, ...] = ()
    """Of those that ended with their machine: which."""


NO_LOSSES = Losses()


def losses_in(attempts: Sequence[Mapping[str, Any]]) -> Losses:
    """Tell the attempts that ended with their process from those that ended with their machine.

    Ray is asked only where there were attempts, which is seldom. A preempted machine, one that was scaled away and one
    that broke are all gone from its list of those alive.
    """
    if not attempts or not ray.is_initialized():
        return Losses(len(attempts))
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
    gone = tuple(note[_MACHINE] for note in attempts if _MACHINE in note and note[_MACHINE] not in alive)
    return Losses(len(attempts) - len(gone), gone)
