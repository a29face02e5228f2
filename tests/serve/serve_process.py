"""The process behind :mod:`tests.serve.running`: Ray, and Serve with a configuration, until SIGTERM.

It does what ``serve run serve_config.yaml`` does, and on SIGHUP what ``serve deploy`` does with a changed file. Imports
little: the application is built in a process of Serve's own.
"""

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema


def main(config_file: str, ray_folder: str, num_cpus: str) -> None:
    """Serve what the file says."""
    ended, changed = threading.Event(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    signal.signal(signal.SIGHUP, lambda *_: changed.set())
    ray.init(
        address="local",
        num_cpus=float(num_cpus),
        include_dashboard=False,
        object_store_memory=150 << 20,
        _temp_dir=ray_folder,
    )
    config = _read(config_file)
    serve.start(http_options=config["http_options"], proxy_location=config["proxy_location"])
    _deploy(config)
    while not ended.wait(0.2):
        if changed.is_set():
            changed.clear()
            _deploy(_read(config_file))
        for name, application in serve.status().applications.items():
            if application.status == "DEPLOY_FAILED":
                sys.exit(f"{name} could not be deployed: {application.message}")
    serve.shutdown()
    ray.shutdown()


def _read(config_file: str) -> dict[str, Any]:
    return dict(json.loads(Path(config_file).read_text()))


def _deploy(config: dict[str, Any]) -> None:
    client = _get_global_client()
    assert client is not None
    client.deploy_apps(ServeDeploySchema.model_validate(config))


if __name__ == "__main__":
    main(*sys.argv[1:])
