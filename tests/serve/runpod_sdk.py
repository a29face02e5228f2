"""RunPod's SDK on a machine that is busy with everything else. Not a test module."""

from typing import Any

import pytest
from runpod.endpoint.runner import RunPodClient

_SECONDS = 240
LONG = 86_400
"""Of looks at a job, which the SDK counts, and not of seconds where a test has it sleep less than one between two."""


def make_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have it wait for answers: by itself it gives a request up after three seconds, or ten."""
    request = RunPodClient._request

    def patient(self: RunPodClient, method: str, endpoint: str, data: Any = None, timeout: int = 0) -> Any:
        return request(self, method, endpoint, data, max(timeout, _SECONDS))

    monkeypatch.setattr(RunPodClient, "_request", patient)
