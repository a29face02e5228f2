"""What happens to a test that lacks something: skipped on a person's machine, failed where nobody reads skips."""

import os
import shutil
from collections.abc import Mapping
from typing import NoReturn

import pytest

MACHINE = (
    "no CUDA device",
    "this machine has CUDA",
    "root may write everywhere",
    "mounting needs root",
    "a disk of a known size cannot be mounted here",
    "there is no second file system",
    "no /dev/full here",
    "reads /proc",
    "the number of cores cannot be limited here",
    "this kernel offers no seccomp or no Landlock",
    "this machine has no address but loopback",
)
"""Beginnings of reasons that no package can remove: the only skips that continuous integration takes."""

PACKAGES = {"chromium": "chromium", "postgresql": "postgresql", "curl": "curl", "jq": "jq", "nginx": "nginx-light"}


def in_ci(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this runs in continuous integration, which says so by ``CI=true``."""
    return environ.get("CI", "").lower() in ("1", "true", "yes")


def missing(what: str) -> NoReturn:
    """Skip a test that lacks a package; in continuous integration, fail it."""
    reason = f"{what} is not installed; `make system-packages` installs it"
    if in_ci():
        pytest.fail(f"{reason}. In continuous integration nothing is skipped for want of a package", pytrace=False)
    pytest.skip(reason)


def require_programs(*names: str) -> None:
    """Skip or fail a test that calls programs which are not here."""
    for name in names:
        if shutil.which(name) is None:
            missing(PACKAGES.get(name, name))


def is_excused(reason: str) -> bool:
    """Say whether continuous integration takes a skip for this reason."""
    return reason.removeprefix("Skipped: ").startswith(MACHINE)
