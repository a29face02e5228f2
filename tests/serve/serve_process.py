"""The process behind :mod:`tests.serve.running`: Ray, Serve and the application, until SIGTERM."""

import pickle
import signal
import sys
import threading
from pathlib import Path

import ray
from ray import serve

from seedvr2_ray.serve.app import build_with
from tests.serve.running import APP_NAME, ServicePlan


def main(order: str, ray_folder: str) -> None:
    """Serve what the order says."""
    plan: ServicePlan = pickle.loads(Path(order).read_bytes())
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ray.init(
        address="local",
        num_cpus=plan.num_cpus,
        include_dashboard=False,
        object_store_memory=150 << 20,
        _temp_dir=ray_folder,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": plan.port}, proxy_location="HeadOnly")
    serve.run(build_with(plan.config, plan.environ, plan.restorers), name=APP_NAME, route_prefix="/")
    ended.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
