"""A driver of gangs in a process of its own, to be killed.

python -m tests.batch.drive_gangs ADDRESS SOURCES OUTPUT TRACES SCRATCH
"""

import sys
from pathlib import Path

from seedvr2_ray.batch.bulk import run_bulk
from seedvr2_ray.batch.execution.cluster import Pool
from tests.batch.archives import Quiet, request_for
from tests.restoration.gang.row_shards import RowShards

POOL = Pool(num_gpus=1, gang_size=2, num_cpus=0.5, task_cpus=0.5, rank_silence_seconds=4)

if __name__ == "__main__":
    address, sources, output, traces, scratch = sys.argv[1:]
    request = request_for(sources, output, RowShards(traces), Path(scratch), pool=POOL, address=address)
    run_bulk(request, Quiet())
