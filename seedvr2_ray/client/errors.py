"""What a service refuses, as the errors that the same mistake would raise on this machine.

A service names the kind of every problem. Where our tree has an error of that kind it is raised, so that a program
catches ``MediaError`` alike whether it restores here or there; what only a service can refuse is a
:class:`ServiceRefusal`.
"""

import json
from typing import Any

import httpx

from seedvr2_ray.errors import (
    CapacityError,
    DamagedMediaError,
    DeploymentError,
    InputError,
    MediaError,
    RetryableError,
    SeedVR2Error,
    SettingsError,
    StorageError,
    TargetError,
)

_LONGEST_EXCERPT = 200


class ServiceRefusal(SeedVR2Error):
    """The service does not do what it was asked: no key, no such job, too much at once, the wrong moment."""

    def __init__(self, message: str, status: int = 0, kind: str = "") -> None:
        """Keep what the service said.

        Args:
            status: of HTTP, such as 404.
            kind: the problem's name, such as ``not-found``; ``/v1/problems`` on the service lists them.
        """
        super().__init__(message, status, kind)
        self.status = status
        self.kind = kind

    def __str__(self) -> str:
        return str(self.args[0])


_KINDS: dict[str, type[SeedVR2Error]] = {
    "settings": SettingsError,
    "damaged-media": DamagedMediaError,
    "media": MediaError,
    "target": TargetError,
    "fetch": InputError,
    "input": InputError,
    "capacity": CapacityError,
    "storage": StorageError,
    "unavailable": RetryableError,
    "deployment": DeploymentError,
}


def error_of_kind(kind: str, message: str, status: int = 0) -> SeedVR2Error:
    """Return the error that a kind of problem is on this machine."""
    known = _KINDS.get(kind)
    return ServiceRefusal(message, status, kind) if known is None else known(message)


def error_of_answer(status: int, headers: httpx.Headers, body: bytes) -> SeedVR2Error:
    """Return the error that an answer describes; one that no service of ours wrote is quoted."""
    problem = _problem_in(headers, body)
    if problem is None:
        excerpt = " ".join(body.decode("utf-8", errors="replace").split())[:_LONGEST_EXCERPT]
        message = f"the service answered with status {status}: {excerpt or 'nothing more'}"
        return RetryableError(message) if status >= 500 else ServiceRefusal(message, status)
    kind = str(problem.get("type", "")).rpartition("/")[2]
    detail, remedy = str(problem.get("detail", "")), str(problem.get("remedy", ""))
    return error_of_kind(kind, in_sentences(detail, remedy), status)


def in_sentences(detail: str, remedy: str) -> str:
    """Return what was wrong and the way out, one sentence after the other."""
    end = "" if not detail or detail.endswith((".", "?", "!")) else "."
    return f"{detail}{end} {remedy}".strip()


def _problem_in(headers: httpx.Headers, body: bytes) -> dict[str, Any] | None:
    if not headers.get("content-type", "").startswith("application/problem+json"):
        return None
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
