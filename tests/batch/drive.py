"""A driver in a process of its own, to be killed.

python -m tests.batch.drive SOURCES OUTPUT TRACES SCRATCH PAUSE [ADDRESS]

With the address of a cluster it is one of two drivers there: its restorers wait until another's are at work too.
"""

import sys
from dataclasses import replace
from pathlib import Path

from seedvr2_ray.batch.bulk import run_bulk
from seedvr2_ray.batch.execution.cluster import Pool
from seedvr2_ray.errors import SeedVR2Error
from tests.batch.archives import Quiet, request_for
from tests.batch.restorers import TracingRestorers

HALF_OF_SMALL_RAY = Pool(num_gpus=0, max_size=1, num_cpus=0.5, task_cpus=0.25)
"""So that two drivers find room on two cores."""

if __name__ == "__main__":
    sources, output, traces, scratch, pause, *address = sys.argv[1:]
    restorers = TracingRestorers(traces, pause_seconds=float(pause), num_together=1 + len(address))
    pool = HALF_OF_SMALL_RAY if address else Pool(num_gpus=0)
    request = request_for(sources, output, restorers, Path(scratch), address=address[0] if address else "local")
    try:
        run_bulk(replace(request, pool=pool), Quiet())
    except SeedVR2Error as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
