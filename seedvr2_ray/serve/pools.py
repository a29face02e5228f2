"""Which of a model's pools takes a job: that of the size asked for, or the smallest gangs that can hold it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.restoration.planning.plan import Plan
from seedvr2_ray.serve.config import ModelPool

if TYPE_CHECKING:
    from seedvr2_ray.restoration.planning.forecast import MemoryForecast


@dataclass(frozen=True, slots=True)
class ChosenPool:
    """A pool, and what each of its GPUs will hold."""

    pool: ModelPool
    memory: "MemoryForecast | None"
    """None where the deployment does not say what its GPUs hold, and for filters. May be a refusal."""


def choose_pool(plan: Plan, own: ModelPool, asked: int | None = None) -> ChosenPool:
    """Choose for a plan's longest segment.

    Args:
        own: the model's pool, which knows of its gangs.
        asked: a size of gangs; it is taken whether it fits or not.

    Returns:
        The smallest gangs with room. Where none has, the model's own pool with what it refuses.

    Raises:
        SettingsError: there are no gangs of the size asked for.
    """
    require_size(plan.recipe.restorer.name, own, asked)
    if asked is not None:
        return _foreseen(plan, own.sizes[asked])
    if not own.gpu_memory_bytes or not own.num_gpus:
        return ChosenPool(own, None)
    for pool in own.sizes.values():
        chosen = _foreseen(plan, pool)
        if chosen.memory is None or not chosen.memory.refusal:
            return chosen
    return _foreseen(plan, own)


def require_size(model: str, own: ModelPool, asked: int | None) -> None:
    """Refuse a size of gangs that a model has none of here.

    Raises:
        SettingsError: names those that there are.
    """
    if asked is not None and asked not in own.sizes:
        sizes = " or ".join(map(str, own.sizes))
        raise SettingsError(
            f"{model} is deployed here in gangs of {sizes}, not of {asked}; ask for one of these, or for none"
        )


def _foreseen(plan: Plan, pool: ModelPool) -> ChosenPool:
    if not pool.gpu_memory_bytes or not pool.num_gpus:
        return ChosenPool(pool, None)
    # Torch, which knows the sizes of networks, is loaded only for deployments that ask for this.
    from seedvr2_ray.restoration.planning.forecast import foresee_on_gpus

    return ChosenPool(pool, foresee_on_gpus(plan, pool.gpu_memory_bytes, pool.gang_size))
