"""Laws of logs: one JSON object a line, with ids, without secrets, tracebacks included."""

import asyncio
import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from seedvr2_ray.serve.observability.logs import configure_logs, current_ids, logged_with
from seedvr2_ray.serve.security.redaction import HIDDEN, Redactor

LOG = logging.getLogger("seedvr2_ray.test")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    stream = io.StringIO()
    configure_logs(Redactor(["the-known-secret"]), stream=stream)
    here = threading.get_ident()
    for handler in root.handlers:  # Services that other tests share may run in this process, and log.
        handler.addFilter(lambda record: record.thread == here)
    yield stream
    root.handlers[:], root.level = before


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_json_with_time_level_logger_and_message(written: io.StringIO) -> None:
    LOG.info("segment %d of\n%d", 3, 12, extra={"frames": 17})
    LOG.debug("not shown")
    [line] = _lines(written)
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "INFO", "logger": "seedvr2_ray.test", "message": "segment 3 of\n12", "frames": 17}


def test_nothing_is_written_that_only_libraries_need(written: io.StringIO) -> None:
    logging.getLogger("alembic.runtime.migration").info("Will assume non-transactional DDL.")
    LOG.info("GET /v1/jobs 200", extra={"skip_context_filter": True, "serve_access_log": True, "route": "/v1/jobs"})
    [line] = _lines(written)
    assert line.keys() == {"time", "level", "logger", "message", "route"}


def test_ids_are_on_every_line_of_their_block_and_task(written: io.StringIO) -> None:
    async def work(job_id: str) -> None:
        with logged_with(job_id=job_id, request_id=None):
            await asyncio.sleep(0)
            with logged_with(segment_id="s1"):
                LOG.info("inside")
                assert current_ids() == {"job_id": job_id, "segment_id": "s1"}
            LOG.info("after")

    async def both() -> None:
        await asyncio.gather(work("job_a"), work("job_b"))

    asyncio.run(both())
    LOG.info("outside")
    found = sorted((line["message"], line.get("job_id", ""), line.get("segment_id", "")) for line in _lines(written))
    assert found == [
        ("after", "job_a", ""),
        ("after", "job_b", ""),
        ("inside", "job_a", "s1"),
        ("inside", "job_b", "s1"),
        ("outside", "", ""),
    ]


def test_no_field_of_a_line_holds_a_secret(written: io.StringIO) -> None:
    url = "https://ada:pa55word@example.org/x?sig=5ignature"
    try:
        raise ValueError(f"cannot read {url} with the-known-secret")
    except ValueError:
        LOG.exception("failed for %s", url, extra={"headers": {"authorization": "Bearer abcdefgh"}, "url": url})
    with logged_with(request_id=url):
        LOG.warning({"a dictionary": url, "password": "pa55word"})
    text = written.getvalue()
    for secret in ("pa55word", "5ignature", "the-known-secret", "abcdefgh"):
        assert secret not in text
    first, _ = _lines(written)
    assert first["headers"] == {"authorization": HIDDEN}
    assert (
        "Traceback" in first["exception"] and "ValueError: cannot read https://***@example.org/x" in first["exception"]
    )


def test_outlets_of_the_server_below_write_the_same_lines() -> None:
    access = logging.getLogger("uvicorn.access")
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    stream = io.StringIO()
    outlet = logging.StreamHandler(stream)
    access.addHandler(outlet)
    try:
        configure_logs(Redactor(), stream=io.StringIO())
        access.warning('%s - "GET %s HTTP/1.1" %d', "127.0.0.1", "/v1/jobs/1/result?expires=1&signature=abcdef", 200)
    finally:
        access.removeHandler(outlet)
        root.handlers[:], root.level = before
    assert "abcdef" not in stream.getvalue() and json.loads(stream.getvalue())["logger"] == "uvicorn.access"
