"""Ray clusters that tests take apart. Not a test module."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import ray
from ray.cluster_utils import Cluster

from seedvr2_ray.batch.bulk import BulkRequest, run_bulk
from seedvr2_ray.batch.execution.cluster import Pool
from tests.batch.archives import Quiet
from tests.batch.restorers import TracingRestorers

PATIENCE_SECONDS = 15.0


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 240) -> None:
    """Wait until something holds, and fail when it takes too long."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.05)


@contextmanager
def two_machines() -> Iterator[Callable[[], None]]:
    """Run a cluster of two machines with two cores each, and yield what takes the second one away."""
    quick = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_timeout_ms": 2000}
    node = {"num_cpus": 2, "object_store_memory": 100 << 20}
    system = {**quick, "health_check_failure_threshold": 5}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "_system_config": system})
    try:
        lost = cluster.add_node(resources={"elsewhere": 2}, **node)
        ray.init(address=cluster.address, log_to_driver=False)
        yield lambda: cluster.remove_node(lost, allow_graceful=False)
    finally:
        ray.shutdown()
        cluster.shutdown()


def run_and_lose_machine(request: BulkRequest, restorers: TracingRestorers) -> dict[str, object]:
    """Restore an archive on two machines, one of which is lost in the middle of work.

    Returns:
        The summary of the run.
    """
    with two_machines() as lose:
        # More restorers than the remaining machine has room for beside the tasks that plan and finish.
        pool = Pool(num_gpus=0, min_size=2, max_size=3)
        request = replace(request, pool=pool, timeout_seconds=PATIENCE_SECONDS)
        before, at_loss = len(restorers.traces()), []

        def lose_machine() -> None:
            wait_for(lambda: len({trace.pid for trace in restorers.traces()[before:]}) >= 2, "two restorers at work")
            at_loss.append(len(restorers.traces()))
            lose()

        killer = threading.Thread(target=lose_machine)
        killer.start()
        summary: dict[str, object] = run_bulk(request, Quiet())
        killer.join()
    assert at_loss, "the archive was done before a second restorer was at work"
    assert at_loss[0] < len(restorers.traces())
    return summary
