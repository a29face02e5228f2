"""Structured logs: one JSON object a line, with the ids of job, segment and request, without secrets."""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, TextIO

from pythonjsonlogger.json import JsonFormatter

from seedvr2_ray.serve.security.redaction import Redactor

_ids: ContextVar[Mapping[str, str]] = ContextVar("log_ids", default=MappingProxyType({}))

_FIELDS = ("levelname", "name", "message")
_NAMES = {"levelname": "level", "name": "logger", "exc_info": "exception"}
_FOREIGN = ("ray.serve", "uvicorn", "uvicorn.error", "uvicorn.access")
"""Loggers that write through outlets of their own."""
_BOOKKEEPING = ("skip_context_filter", "serve_access_log")
"""What Ray Serve's records carry for its own filters only."""
_TALKATIVE = ("alembic",)
"""Say at every start what nobody needs to know; what goes wrong they raise."""


@contextmanager
def logged_with(**ids: str | None) -> Iterator[None]:
    """Add ids to every line that is logged inside the block, in this task or thread: ``job_id``, ``segment_id``,
    ``request_id``. Those that are None are left out."""
    token = _ids.set({**_ids.get(), **{name: value for name, value in ids.items() if value is not None}})
    try:
        yield
    finally:
        _ids.reset(token)


def current_ids() -> dict[str, str]:
    """Return the ids that lines logged here carry."""
    return dict(_ids.get())


class JsonLines(JsonFormatter):
    """Writes a record as one line of JSON."""

    def __init__(self, redactor: Redactor) -> None:
        """Take what removes secrets."""
        super().__init__(_FIELDS, rename_fields=_NAMES, timestamp="time")
        self._redactor = redactor

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """Add the ids, and take the secrets out of every field: message, arguments, traceback."""
        time = log_data.pop("time")
        for name in _BOOKKEEPING:
            log_data.pop(name, None)
        clean = self._redactor.value({**_ids.get(), **log_data})
        assert isinstance(clean, dict)
        return {"time": time.isoformat(), **clean}


def configure_logs(redactor: Redactor, *, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Make everything that this process logs JSON lines without secrets; for the start of a process of the service.

    Args:
        level: of the root logger.
        stream: where lines go; stderr when not given.
    """
    lines = JsonLines(redactor)
    outlet = logging.StreamHandler(stream or sys.stderr)
    outlet.setFormatter(lines)
    root = logging.getLogger()
    root.handlers[:] = [outlet]
    root.setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _FOREIGN:
        for foreign in logging.getLogger(name).handlers:
            foreign.setFormatter(lines)
