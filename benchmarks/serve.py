"""What the service costs and bears, measured over HTTP on a really running Ray Serve.

    python -m benchmarks.serve                     # everything, some minutes on two idle cores
    python -m benchmarks.serve --parts uploads     # one part; the others' figures are left as they were

* ``latency``: one job at a time, small clips of different bytes: submitted, completed, downloaded; against the bare
  call of ``restore_video`` in a warm process on the same files. One thread each.
* ``control``: submissions and looks per second with an API key while no model runs, against SQLite and PostgreSQL
  (a private server, with its fsync). The clients share the machine with the service.
* ``replicas``: one video over 1 to 8 replicas whose device is simulated by waiting a fixed time per frame.
* ``fronts``: processor per look, jobs per second, speed and growth up and down, through Ray's proxy and through nginx.
* ``start``: from ``seedvr2-ray serve`` to the first finished job, and what the service takes while nothing is to do.
* ``uploads``: growth of the ingress process while a file of the largest allowed size arrives; at most 200 MB.

Results go to ``serve.json`` and ``serve.png``. Exits with 1 when a limit is missed.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Loopback only: see seedvr2_ray.local_ray.
os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "seedvr2_ray.serve.http.proxy:middlewares")
# As `seedvr2-ray serve --behind-nginx` has it: what comes through Ray's proxy goes its way all the same.
os.environ.setdefault("RAY_SERVE_ENABLE_DIRECT_INGRESS", "1")
os.environ.setdefault("RAY_SERVE_PORT_QUARANTINE_S", "0")
os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "1")

from benchmarks.machine import describe_machine, results_folder
from benchmarks.serve_cluster import running_ray
from benchmarks.serve_control import measure_control
from benchmarks.serve_figures import against_goals, missed_limits
from benchmarks.serve_fronts import measure_fronts
from benchmarks.serve_latency import measure_latency
from benchmarks.serve_picture import draw
from benchmarks.serve_replicas import measure_replicas
from benchmarks.serve_start import measure_start
from benchmarks.serve_uploads import measure_uploads

PARTS = ("latency", "control", "replicas", "uploads", "fronts", "start")


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=_parts, default=PARTS, help=f"some of {','.join(PARTS)}")
    parser.add_argument("--jobs", type=int, default=20, help="of each model, for latency")
    parser.add_argument("--clients", type=_numbers, default=(1, 8, 32), help="numbers of clients, for control")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement, for control")
    parser.add_argument("--replicas", type=_numbers, default=(1, 2, 4, 8), help="numbers of replicas; 1 among them")
    parser.add_argument("--segment-seconds", type=float, default=3.0, help="a segment takes on a simulated device")
    parser.add_argument("--per-replica", type=int, default=5, help="segments per replica")
    parser.add_argument("--megabytes", type=int, default=500, help="of the file, for uploads")
    parser.add_argument("--results", type=Path, default=None, help="folder; by default benchmarks/results")
    arguments = parser.parse_args(words)
    if 1 not in arguments.replicas:
        parser.error("--replicas must have 1 among them, to compare with")
    return arguments


def _parts(text: str) -> tuple[str, ...]:
    named = tuple(text.split(","))
    if unknown := sorted(set(named) - set(PARTS)):
        raise argparse.ArgumentTypeError(f"there is no part {', '.join(unknown)}; known are {', '.join(PARTS)}")
    return named


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(word) for word in text.split(","))
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text} has a number below 1")
    return numbers


def measure(arguments: argparse.Namespace, take: Callable[[str, Any], None]) -> None:
    """Measure the parts that are asked for, one after the other on one Ray, and hand over each as it comes."""
    if "start" in arguments.parts:  # With no other Ray beside it.
        take("start", measure_start())
    if set(arguments.parts) <= {"start"}:
        return
    with running_ray() as port:
        measures: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "latency": lambda: measure_latency(port, arguments.jobs),
            "control": lambda: measure_control(port, arguments.clients, arguments.seconds),
            "replicas": lambda: measure_replicas(
                port, arguments.replicas, arguments.segment_seconds, arguments.per_replica
            ),
            "uploads": lambda: measure_uploads(port, arguments.megabytes * 10**6),
            "fronts": lambda: measure_fronts(port, arguments.seconds, arguments.megabytes * 10**6),
        }
        for part in PARTS:
            if part in arguments.parts and part in measures:
                take(part, measures[part]())


def main() -> int:
    """Measure, write, draw; fail when a limit is missed."""
    arguments = parse()
    # Ended from outside, it ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = arguments.results or results_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "serve.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    results["machine"] = describe_machine()

    def take(part: str, rows: list[dict[str, Any]]) -> None:
        results[part] = rows
        # Each part says how busy the machine was: parts may be measured on different days.
        results.setdefault("load_average", {})[part] = [round(load, 1) for load in os.getloadavg()]
        path.write_text(json.dumps(results, indent=1) + "\n")
        print(json.dumps({part: rows}), flush=True)

    measure(arguments, take)
    draw(results, folder / "serve.png")
    measured = {part: results[part] for part in arguments.parts}
    print("\n".join(against_goals(measured)))
    missed = missed_limits(measured)
    print("\n".join(missed) if missed else "limits met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
