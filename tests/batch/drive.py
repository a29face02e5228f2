"""A driver in a process of its own, to be killed.

python -m tests.batch.drive SOURCES OUTPUT TRACES SCRATCH PAUSE
"""

import sys
from pathlib import Path

from seedvr2_ray.batch.bulk import run_bulk
from tests.batch.archives import Quiet, request_for
from tests.batch.restorers import TracingRestorers

if __name__ == "__main__":
    sources, output, traces, scratch, pause = sys.argv[1:]
    restorers = TracingRestorers(traces, pause_seconds=float(pause))
    run_bulk(request_for(sources, output, restorers, Path(scratch), address="local"), Quiet())
