"""Ray clusters that tests take apart. Not a test module."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from seedvr2_ray.batch.bulk import BulkRequest, run_bulk
from seedvr2_ray.batch.execution.cluster import Pool
from tests.batch.archives import Quiet
from tests.batch.restorers import TracingRestorers
from tests.processes import parent_of
from tests.ray_nodes import NOTICES_LOSS_SOON, SMALL_NODE
from tests.waiting import wait_for

PATIENCE_SECONDS = 15.0


@dataclass(frozen=True)
class SecondMachine:
    """One of two, to be taken away."""

    cluster: Cluster
    node: Any

    def lose(self) -> None:
        self.cluster.remove_node(self.node, allow_graceful=False)

    def drain(self) -> None:
        """Give notice, as a cloud does before it takes a machine back."""
        command = [str(Path(sys.executable).parent / "ray"), "drain-node", "--address", self.cluster.address]
        command += ["--node-id", self.node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        command += ["--reason-message", "a test", "--deadline-remaining-seconds", "200"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)

    @property
    def raylet_pid(self) -> int:
        """The process that starts all others there."""
        (raylet,) = self.node.all_processes["raylet"]
        return int(raylet.process.pid)

    def pids_at_work(self, restorers: TracingRestorers) -> set[int]:
        """Return the restorers that run there."""
        return {pid for pid in {trace.pid for trace in restorers.traces()} if parent_of(pid) == self.raylet_pid}


@contextmanager
def two_machines() -> Iterator[SecondMachine]:
    """Run a cluster of two machines with two cores each."""
    node = {"num_cpus": 2, **SMALL_NODE}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "_system_config": NOTICES_LOSS_SOON})
    try:
        lost = cluster.add_node(resources={"elsewhere": 2}, **node)
        ray.init(address=cluster.address, log_to_driver=False)
        yield SecondMachine(cluster, lost)
    finally:
        ray.shutdown()
        cluster.shutdown()


def run_and_lose_machine(
    request: BulkRequest, restorers: TracingRestorers, *, has_notice: bool = False
) -> tuple[dict[str, Any], set[int]]:
    """Restore an archive on two machines, one of which is lost in the middle of work.

    Args:
        has_notice: it is drained first, and lost when its restorers have left.

    Returns:
        The summary of the run, and the restorers that were at work on the machine when it went or got notice.
    """
    there: set[int] = set()
    with two_machines() as machine:
        # More restorers than the remaining machine has room for beside the tasks that plan and finish.
        pool = Pool(num_gpus=0, min_size=2, max_size=3)
        request = replace(request, pool=pool, timeout_seconds=PATIENCE_SECONDS)
        before, at_loss = len(restorers.traces()), []

        def lose_machine() -> None:
            wait_for(lambda: len({trace.pid for trace in restorers.traces()[before:]}) >= 2, "two restorers at work")
            there.update(machine.pids_at_work(restorers))
            if has_notice:
                # The others would be done with everything before these have heard of it and left.
                with restorers.slow_elsewhere(machine.raylet_pid):
                    machine.drain()
                    wait_for(lambda: not machine.pids_at_work(restorers), "restorers to leave the drained machine")
            at_loss.append(len(restorers.traces()))
            machine.lose()

        killer = threading.Thread(target=lose_machine)
        killer.start()
        summary = run_bulk(request, Quiet())
        killer.join()
    assert at_loss, "the archive was done before a second restorer was at work"
    assert at_loss[0] < len(restorers.traces())
    return summary, there
