"""OpenTelemetry traces: what happened to a job, on which machine, for how long.

All spans of a job belong to one trace whose id follows from the job's id. Every order carries that id, so a span that
a restorer opens on another machine, or after every process has been replaced, joins the trace without anything else
having to be carried. Without an endpoint, or without the extra ``observability``, spans cost next to nothing.
"""

import functools
import hashlib
import importlib.util
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from seedvr2_ray.serve.observability.logs import logged_with
from seedvr2_ray.serve.security.redaction import Redactor

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

_log = logging.getLogger(__name__)

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_SCOPE = "seedvr2_ray"
Work = TypeVar("Work", bound=Callable[..., Any])


class Spans(Protocol):
    """Something that opens spans."""

    def __call__(self, name: str, job_id: str | None, attributes: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Open one for the time of a block."""


@contextmanager
def _no_span(name: str, job_id: str | None, attributes: Mapping[str, Any]) -> Iterator[None]:
    yield


_spans: Spans = _no_span


@contextmanager
def span(name: str, *, job_id: str | None = None, segment_id: str | None = None, **attributes: Any) -> Iterator[None]:
    """Record how long a block takes and how it ends; lines that are logged in it carry the ids.

    Args:
        name: of the step: ``restore``.
        job_id: the job whose trace this belongs to; by default that of the span around.
        attributes: facts about the step; None leaves one out. Secrets are removed.
    """
    known = {"job.id": job_id, "segment.id": segment_id, **attributes}
    with logged_with(job_id=job_id, segment_id=segment_id):
        with _spans(name, job_id, {key: value for key, value in known.items() if value is not None}):
            yield


def traced(name: str) -> Callable[[Work], Work]:
    """Make a span of every call of a function that takes an order: an argument with a ``job_id``, and perhaps a
    ``segment``. For functions and coroutines; an asynchronous generator may be closed in another context than it was
    begun in, which a span cannot survive."""

    def decorate(work: Work) -> Work:
        if inspect.iscoroutinefunction(work):

            @functools.wraps(work)
            async def coroutine(*args: Any, **kwargs: Any) -> Any:
                with span(name, **_ids_in(args, kwargs)):
                    return await work(*args, **kwargs)

            return coroutine  # type: ignore[return-value]

        @functools.wraps(work)
        def function(*args: Any, **kwargs: Any) -> Any:
            with span(name, **_ids_in(args, kwargs)):
                return work(*args, **kwargs)

        return function  # type: ignore[return-value]

    return decorate


def start_tracing(
    environ: Mapping[str, str], redactor: Redactor, *, process: str, exporter: "SpanExporter | None" = None
) -> Callable[[], None]:
    """Send spans from now on to where ``OTEL_EXPORTER_OTLP_ENDPOINT`` says; for the start of a process of the service.

    Args:
        environ: the environment; the exporter reads further ``OTEL_`` variables from that of the process itself.
        redactor: removes secrets from attributes and from the reasons of failures.
        process: what this one is: ``api``, ``runner`` ...
        exporter: sends spans somewhere else.

    Returns:
        What sends the rest and stops; call it when the process ends.
    """
    global _spans
    if exporter is None:
        if not environ.get(ENDPOINT):
            return lambda: None
        if importlib.util.find_spec("opentelemetry.exporter") is None or not _can_export():
            _log.warning("%s is set, but traces need the extra: pip install 'seedvr2-ray[observability]'", ENDPOINT)
            return lambda: None
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    if exporter is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter()
    # Not the global provider: Ray and others may have traces of their own.
    provider = TracerProvider(
        resource=Resource.create({"service.name": _SCOPE, "service.instance.id": process}), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _spans = _open_telemetry_spans(provider, redactor)

    def stop() -> None:
        global _spans
        _spans = _no_span
        provider.shutdown()

    return stop


def trace_id_of(job_id: str) -> int:
    """Return the id of a job's trace: 128 bits that follow from the job's id."""
    return int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:16], "big") or 1


def _ids_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, str | None]:
    """The ids that the order among a call's arguments names."""
    for each in (*args, *kwargs.values()):
        if hasattr(each, "job_id"):
            segment = getattr(each, "segment", None)
            return {"job_id": each.job_id, "segment_id": getattr(segment, "address", None)}
    return {}


def _can_export() -> bool:
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


def _open_telemetry_spans(provider: Any, redactor: Redactor) -> Spans:
    from opentelemetry import trace

    tracer = provider.get_tracer(_SCOPE)

    def parent_of(job_id: str | None) -> Any:
        """The span around if it is of the same job, else the job itself."""
        if job_id is None:
            return None
        trace_id = trace_id_of(job_id)
        if trace.get_current_span().get_span_context().trace_id == trace_id:
            return None
        job = trace.SpanContext(
            trace_id=trace_id,
            span_id=(trace_id & 0xFFFFFFFFFFFFFFFF) or 1,
            is_remote=True,
            trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
        )
        return trace.set_span_in_context(trace.NonRecordingSpan(job))

    @contextmanager
    def open_span(name: str, job_id: str | None, attributes: Mapping[str, Any]) -> Iterator[None]:
        clean = redactor.value(attributes)
        assert isinstance(clean, dict)
        # Exceptions are noted by us: the library would record their messages as they are.
        with tracer.start_as_current_span(
            name,
            context=parent_of(job_id),
            attributes=clean,
            record_exception=False,
            set_status_on_exception=False,
        ) as current:
            try:
                yield
            except Exception as error:
                reason = redactor.text(f"{type(error).__name__}: {error}")
                current.set_status(trace.Status(trace.StatusCode.ERROR, reason[:500]))
                raise

    return open_span
