"""Simulated machines with GPUs, and what must be left on them afterwards: nothing. Not a test module."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group_table

from tests.processes import parent_of
from tests.ray_nodes import NOTICES_LOSS_SOON, SMALL_NODE
from tests.restoration.gang.row_shards import RowShards, folders, processes_left
from tests.waiting import wait_for

ON_MACHINES = [
    pytest.mark.ray,
    pytest.mark.slow,
    # Ray leaves its log files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
"""Marks of tests that start and lose machines."""

_ROOT = Path(__file__).parents[2]


@dataclass
class Machines:
    """A cluster whose head has no GPU and whose machines have two each that are none."""

    cluster: Cluster
    nodes: list[Any] = field(default_factory=list)
    folders_before: set[Path] = field(default_factory=folders)

    def add(self) -> Any:
        """Add a machine."""
        node = self.cluster.add_node(num_cpus=2, num_gpus=2, **SMALL_NODE)
        self.nodes.append(node)
        return node

    def lose_that_of(self, pid: int) -> None:
        """Take the machine away on which a process runs."""
        raylets = {each.all_processes["raylet"][0].process.pid: each.node_id for each in self.nodes}
        self.lose(raylets[parent_of(pid)])

    def lose(self, node_id: str) -> None:
        """Take a machine away, as a power cut does."""
        node = next(each for each in self.nodes if each.node_id == node_id)
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def workers(self, title: str) -> list[int]:
        """Return the processes of this cluster that Ray has given a title which contains this."""
        raylets = {
            each.process.pid for node in self.cluster.list_all_nodes() for each in node.all_processes.get("raylet", [])
        }
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if parent_of(int(folder.name)) in raylets and title in (folder / "cmdline").read_text():
                    found.append(int(folder.name))
            except OSError:
                continue  # It has ended meanwhile.
        return found

    def gpus_in_use(self) -> float:
        """Count what Ray has reserved."""
        total, free = ray.cluster_resources(), ray.available_resources()
        return float(total.get("GPU", 0.0) - free.get("GPU", 0.0))

    def groups(self) -> list[str]:
        """Return the placement groups there are."""
        return [group["state"] for group in placement_group_table().values() if group["state"] != "REMOVED"]

    def wait_until_nothing_is_left(self, shards: RowShards, seconds: float = 240.0) -> None:
        """Wait for GPUs, placement groups, processes and sockets to be given back, and fail where one is not."""
        wait_for(lambda: self.gpus_in_use() == 0, "GPUs to be free", seconds)
        wait_for(lambda: not self.groups(), "placement groups to go", seconds)
        wait_for(lambda: not processes_left(shards.pids()), "ranks to end", seconds)
        wait_for(lambda: folders() <= self.folders_before, "sockets to go", seconds)


@contextmanager
def machines(num: int) -> Iterator[Machines]:
    """Run a cluster of a head and so many machines."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(_ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    head = {"num_cpus": 2, "_system_config": NOTICES_LOSS_SOON, **SMALL_NODE}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        found = Machines(cluster)
        for _ in range(num):
            found.add()
        yield found
    finally:
        ray.shutdown()
        cluster.shutdown()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
