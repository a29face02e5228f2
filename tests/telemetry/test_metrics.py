import ast
from pathlib import Path

import pytest

from seedvr2_ray.telemetry import metrics

PACKAGE = Path(metrics.__file__).parents[1]
DESCRIBED = {"count": metrics._COUNTERS, "show": metrics._GAUGES, "observe": metrics._HISTOGRAMS}


def measured():
    """Yield the name of every metric that the package measures, and how."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in DESCRIBED:
                if (
                    node.args
                    and isinstance(node.args[0], ast.Constant)
                    and str(node.args[0].value).startswith("seedvr2_")
                ):
                    yield node.func.id, node.args[0].value


@pytest.mark.slow
def test_every_metric_is_described_once_and_every_description_is_of_one_that_is_measured():
    used = set(measured())
    assert used == {(kind, name) for kind, described in DESCRIBED.items() for name in described}
    names = [name for described in DESCRIBED.values() for name in described]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", sorted(metrics._HISTOGRAMS))
def test_the_steps_of_a_histogram_grow(name):
    _, boundaries = metrics._HISTOGRAMS[name]
    assert list(boundaries) == sorted(set(boundaries))


def test_nothing_is_measured_without_ray():
    metrics.count("seedvr2_frames", 3)
    metrics.show("seedvr2_queue_depth", 3)
    metrics.observe("seedvr2_stage_seconds", 3, stage="restore")
