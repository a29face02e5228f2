"""The ``import_path`` of :mod:`tests.serve.running`: an application as a test has planned it."""

import pickle
from pathlib import Path

from ray.serve import Application

from seedvr2_ray.serve.app import build_with
from tests.serve.running import ServicePlan


def build(args: dict[str, str]) -> Application:
    """Build a service from the file that holds its plan."""
    plan: ServicePlan = pickle.loads(Path(args["plan"]).read_bytes())
    return build_with(plan.config, plan.environ, plan.restorers)
