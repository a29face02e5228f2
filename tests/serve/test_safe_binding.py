"""The law of the open door: a service that asks nobody to sign in is not even built where others could reach it."""

import json
import os
import subprocess
import sys

import pytest

_PROGRAM = """
import json, os, ray
from ray import serve
from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.serve.app import build
from seedvr2_ray.serve.config import ServiceConfig

def outcome(config, named=None):
    os.environ.pop("SEEDVR2_AUTH", None)
    if named:
        os.environ["SEEDVR2_AUTH"] = named
    try:
        build(config)
    except DeploymentError as error:
        return str(error)
    return "built"

said = [outcome(ServiceConfig(auth=("none",)))]
ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=150 << 20)
# Told to listen everywhere; but its proxies, which would, are not started.
serve.start(http_options={"host": "0.0.0.0"}, proxy_location="Disabled")
said += [outcome(ServiceConfig(auth=("none",))), outcome(ServiceConfig(), "none")]
said += [outcome(ServiceConfig()), outcome(ServiceConfig(auth=("none",)), "keys")]
serve.shutdown()
ray.shutdown()
print(json.dumps(said))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_service_without_sign_in_is_not_built_for_all_the_world() -> None:
    # Serve's own modules warn when they are imported, so they stay out of this process.
    environ = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True, env=environ)
    before, none, named, keys, overridden = json.loads(done.stdout.splitlines()[-1])
    refusal = "auth is none and the service would listen on 0.0.0.0; listen on 127.0.0.1, or set auth to keys or jwt"
    assert (none, named) == (refusal, refusal)
    assert (before, keys, overridden) == ("built", "built", "built")
