"""How fast the models of a deployment restore: as configured at first, and then as jobs that ran have shown."""

import threading
import time
from collections.abc import Callable, Mapping

from seedvr2_ray.serve.config import ModelPool
from seedvr2_ray.serve.db.usage_store import UsageStore

ASSUMED_GPU_SECONDS = 5.0
"""Device time that the configuration weighs as much as: one short job says little, a few more than anybody's guess."""
_FRESH_SECONDS = 10.0


def learned_rate(assumed: float, megapixels: float, gpu_seconds: float) -> float:
    """Return megapixels per second of a device, from what is assumed and what was measured.

    Lies between both, and nears what was measured the more of that there is.

    Args:
        assumed: by the configuration.
        megapixels: that were restored.
        gpu_seconds: that it took.
    """
    return (assumed * ASSUMED_GPU_SECONDS + megapixels) / (ASSUMED_GPU_SECONDS + gpu_seconds)


class Rates:
    """What jobs taught about the models. Safe to use from several threads."""

    def __init__(
        self, usage: UsageStore, models: Mapping[str, ModelPool], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Know nothing yet.

        Args:
            usage: the records of what ran.
            models: with what is assumed of each.
            now: the time in seconds; what was looked up is believed for a while.
        """
        self._usage = usage
        self._models = models
        self._now = now
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, float]] = {}

    def pool(self, model: str) -> ModelPool:
        """Return a model's pool, with the speed of one replica as it was measured."""
        pool = self._models[model]
        assumed = pool.megapixels_per_second / pool.gang_size
        with self._lock:
            known = self._known.get(model)
            if known is None or self._now() - known[0] > _FRESH_SECONDS:
                rate = learned_rate(assumed, *self._usage.recent_work(model))
                known = self._known[model] = (self._now(), rate)
        return pool.model_copy(update={"megapixels_per_second": known[1] * pool.gang_size})

    def gpu_seconds(self, model: str, megapixels: float) -> float:
        """Estimate the device time of some work."""
        pool = self.pool(model)
        return megapixels / pool.megapixels_per_second * pool.gang_size
