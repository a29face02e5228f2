"""Laws of traces: one trace per job wherever its work runs, no secrets, and nothing at all unless asked for."""

import asyncio
import gzip
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from seedvr2_ray.serve.observability.logs import current_ids
from seedvr2_ray.serve.observability.tracing import ENDPOINT, span, start_tracing, trace_id_of, traced
from seedvr2_ray.serve.security.redaction import Redactor
from tests.serve.servers import saying, serving

Finished = Callable[[], dict[str, ReadableSpan]]


@dataclass(frozen=True)
class _Segment:
    address: str


@dataclass(frozen=True)
class _Order:
    job_id: str
    segment: _Segment


@pytest.fixture
def finished() -> Iterator[Finished]:
    exporter = InMemorySpanExporter()
    stop = start_tracing({}, Redactor(["known-secret"]), process="test", exporter=exporter)

    def spans() -> dict[str, ReadableSpan]:
        stop()
        return {each.name: each for each in exporter.get_finished_spans()}

    yield spans
    stop()


def test_spans_of_a_job_share_a_trace_that_follows_from_its_id(finished: Finished) -> None:
    with span("request"):
        with span("submit", job_id="job_a"):
            with span("store"):
                pass
    with span("restore", job_id="job_a", segment_id="s1", frames=17, nothing=None):
        pass
    with span("other", job_id="job_b"):
        pass
    spans = finished()
    traces = {name: each.context.trace_id for name, each in spans.items() if each.context}
    assert traces["submit"] == traces["store"] == traces["restore"] == trace_id_of("job_a")
    assert len({traces["request"], traces["submit"], traces["other"]}) == 3
    store, submit = spans["store"], spans["submit"]
    assert store.parent is not None and submit.context is not None and store.parent.span_id == submit.context.span_id
    assert dict(spans["restore"].attributes or {}) == {"job.id": "job_a", "segment.id": "s1", "frames": 17}


def test_work_on_an_order_is_traced_whether_it_blocks_or_not(finished: Finished) -> None:
    order = _Order("job_a", _Segment("s1"))
    seen = []

    @traced("function")
    def function(layout: str, order: _Order) -> str:
        seen.append(current_ids())
        return layout

    @traced("coroutine")
    async def coroutine(*, order: _Order) -> None:
        seen.append(current_ids())

    assert function("site", order) == "site"
    asyncio.run(coroutine(order=order))
    assert seen == [{"job_id": "job_a", "segment_id": "s1"}] * 2
    spans = finished()
    assert set(spans) == {"function", "coroutine"}
    assert {each.context.trace_id for each in spans.values() if each.context} == {trace_id_of("job_a")}


def test_a_failure_is_noted_and_no_attribute_or_reason_holds_a_secret(finished: Finished) -> None:
    url = "https://ada:pa55word@example.org/x?sig=5ignature"
    with pytest.raises(ValueError):
        with span("fetch", job_id="job_a", url=url, word="known-secret"):
            raise ValueError(f"cannot read {url}")
    fetch = finished()["fetch"]
    text = fetch.to_json()
    assert not fetch.status.is_ok and "ValueError: cannot read https://***@example.org/x" in text
    for secret in ("pa55word", "5ignature", "known-secret"):
        assert secret not in text


def test_spans_reach_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as collector:
        collector.answers["/v1/traces"] = saying(b"", content_type="application/x-protobuf")
        environ = {ENDPOINT: collector.url("")}
        monkeypatch.setenv(ENDPOINT, environ[ENDPOINT])
        stop = start_tracing(environ, Redactor(), process="runner")
        with span("restore", job_id="job_a"):
            pass
        stop()
        [(_, _, headers, body)] = [each for each in collector.requests if each[1] == "/v1/traces"]
    if headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    [resource] = ExportTraceServiceRequest.FromString(body).resource_spans
    assert resource.scope_spans[0].spans[0].trace_id == trace_id_of("job_a").to_bytes(16, "big")
    named = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert (named["service.name"], named["service.instance.id"]) == ("seedvr2_ray", "runner")


@pytest.mark.slow
def test_without_an_endpoint_nothing_of_the_library_is_even_imported() -> None:
    program = (
        "import sys\n"
        "from seedvr2_ray.serve.security.redaction import Redactor\n"
        "from seedvr2_ray.serve.observability.tracing import span, start_tracing\n"
        "start_tracing({}, Redactor(), process='x')()\n"
        "with span('a', job_id='b'): pass\n"
        "assert not any(name.startswith('opentelemetry.sdk') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_missing_extra_is_named_and_does_not_stop_the_service(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING):
        start_tracing({ENDPOINT: "http://127.0.0.1:1"}, Redactor(), process="x")()
    assert "seedvr2-ray[observability]" in caplog.text
    with span("a", job_id="b"):
        assert current_ids() == {"job_id": "b"}
