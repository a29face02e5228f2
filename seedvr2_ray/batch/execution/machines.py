"""Which deaths of processes were their own: of one whose machine went, nothing is to be learnt about its work."""

from collections.abc import Mapping, Sequence
from typing import Any

import ray

_MACHINE = "machine"


def this_machine() -> dict[str, str]:
    """Return what is noted of an attempt so that its death can be told from the loss of its machine."""
    return {_MACHINE: ray.get_runtime_context().get_node_id()} if ray.is_initialized() else {}


def count_deaths(attempts: Sequence[Mapping[str, Any]]) -> int:
    """Count the attempts that ended with their process and not with their machine.

    Ray is asked only where there were attempts, which is seldom. A preempted machine, one that was scaled away and one
    that broke are all gone from its list of those alive.
    """
    if not attempts or not ray.is_initialized():
        return len(attempts)
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
    return sum(note.get(_MACHINE, "") in alive or _MACHINE not in note for note in attempts)
