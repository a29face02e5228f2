from collections.abc import Callable

import pytest
import ray

from seedvr2_ray.batch.execution.cluster import Pool, connected, fit_pool, settle_pool
from seedvr2_ray.errors import DeploymentError

Cluster = Callable[..., None]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Say what a cluster has, and what of it is free; there is none."""

    def has(free_cpus: float = 0.0, **resources: float) -> None:
        monkeypatch.setattr(ray, "cluster_resources", lambda: dict(resources))
        monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": free_cpus} if free_cpus else {})

    return has


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 8, 64])
def test_restorers_leave_room_for_two_tasks_on_any_machine_without_a_gpu(cluster: Cluster, cpus: int) -> None:
    cluster(CPU=cpus)
    pool = settle_pool(Pool())
    assert pool.max_size >= 1
    assert pool.max_size * pool.num_cpus + 2 * pool.task_cpus <= cpus


def test_there_are_as_many_restorers_as_gpus_unless_said_otherwise(cluster: Cluster) -> None:
    cluster(CPU=64, GPU=8)
    assert (settle_pool(Pool()).max_size, settle_pool(Pool()).num_gpus) == (8, 1)
    assert settle_pool(Pool(num_gpus=2)).max_size == 4
    assert settle_pool(Pool(max_size=100)).max_size == 100


def test_gpus_that_are_not_there_are_refused_unless_the_cluster_may_scale(cluster: Cluster) -> None:
    cluster(CPU=64)
    with pytest.raises(DeploymentError, match="have 1 GPUs and the cluster has 0"):
        settle_pool(Pool(num_gpus=1))
    assert settle_pool(Pool(num_gpus=1, max_size=8)).max_size == 8


def test_a_pool_shrinks_to_a_cluster_whose_cores_it_holds_all(cluster: Cluster) -> None:
    asked = Pool(num_gpus=0, min_size=2, max_size=3)
    cluster(CPU=4)
    settled = settle_pool(asked)
    cluster(CPU=2)
    fitted = fit_pool(asked, settled)
    assert (fitted.min_size, fitted.max_size) == (1, 1)
    assert fitted.max_size * fitted.num_cpus + fitted.task_cpus <= 2
    assert fit_pool(asked, fitted) is fitted


def test_a_pool_stays_as_it_is_where_tasks_find_a_core_or_where_machines_may_yet_come(cluster: Cluster) -> None:
    asked = Pool(num_gpus=0, max_size=3)
    cluster(CPU=4)
    settled = settle_pool(asked)
    cluster(CPU=2, free_cpus=1)
    assert fit_pool(asked, settled) is settled
    cluster()
    assert fit_pool(asked, settled) is settled
    asked = Pool(num_gpus=1, max_size=8)
    cluster(CPU=4)
    assert fit_pool(asked, settle_pool(asked)).max_size == 8


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("The current node timed out during startup.\nThis could happen because\nmany lines"),
        TimeoutError("no answer"),
        OSError("no room"),
        Exception("The current node timed out during startup."),
    ],
)
def test_a_ray_that_does_not_start_is_one_sentence(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(DeploymentError, match="^Ray did not start at some:1234 .*run the same command again") as raised:
        with connected("some:1234"):
            pass
    assert "\n" not in str(raised.value)
