"""What every test runs under: repeatable numbers, no accidental Ray, no silent GPU skips."""

import gc
import os
import shutil
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # Of torch, in every process that a test starts.
# Read by Ray when it is imported, so they are set before any test module is.
os.environ["RAY_AUTH_MODE"] = "disabled"  # A token file left by another Ray would change this one.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # A Serve handle would start a second cluster at exit.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # It would listen on all interfaces: see seedvr2_ray.local_ray.

import pytest
import torch

from tests.missing import in_ci, is_excused, missing

ORDER = ("slow", "browser", "gpu", "ray")
"""Unmarked tests run first and then these, so that a cheap failure is seen before the expensive wait."""


def pytest_configure(config: pytest.Config) -> None:
    """One thread: sums of floats depend on how they are split, and waiting for a second costs more than they do."""
    torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, Any, Any]:
    """Let the garbage collector leave thousands of tests and a hundred libraries alone: they stay to the end anyway."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the cheap tests first, and skip or keep what needs a GPU."""
    items.sort(key=_expense)
    if torch.cuda.is_available() or os.environ.get("SEEDVR2_REQUIRE_GPU") == "1":
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device; SEEDVR2_REQUIRE_GPU=1 makes this a failure"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a GPU test that was demanded and cannot run."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.fail("SEEDVR2_REQUIRE_GPU=1, but torch finds no CUDA device", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """In continuous integration, fail what is skipped for want of anything that could be installed."""
    report = yield
    if report.skipped and in_ci() and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        reason = str(report.longrepr[2])
        if not is_excused(reason):
            report.outcome = "failed"
            report.longrepr = f"skipped in continuous integration, where nobody reads it: {reason}"
    return report


def _expense(item: pytest.Item) -> int:
    return max((ORDER.index(mark.name) + 1 for mark in item.iter_markers() if mark.name in ORDER), default=0)


@pytest.fixture(autouse=True)
def _no_accidental_ray(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``ray.init`` raise in tests that are not marked ``ray``."""
    ray = sys.modules.get("ray")
    if ray is None or request.node.get_closest_marker("ray"):
        return

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("this test starts Ray; mark it with pytest.mark.ray")

    monkeypatch.setattr(ray, "init", refuse)


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The path of a Chromium-like browser, for tests marked ``browser``."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return Path(found)
    missing("chromium")
