"""What every process of the service does first: logs in JSON lines, traces and error tracking, without secrets."""

import atexit
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from seedvr2_ray.serve.observability.error_tracking import start_error_tracking
from seedvr2_ray.serve.observability.logs import configure_logs
from seedvr2_ray.serve.observability.tracing import start_tracing
from seedvr2_ray.serve.secrets import Secrets
from seedvr2_ray.serve.security.redaction import Redactor, secrets_in

_TRACES = "OTEL_"


@dataclass(frozen=True, kw_only=True, slots=True)
class Instrumentation:
    """How the processes of one deployment are watched. Small and picklable: it travels to every replica."""

    known_secrets: tuple[str, ...] = field(default=(), repr=False)
    sentry_dsn: str | None = field(default=None, repr=False)
    traces: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The variables of OpenTelemetry, which replicas on other machines would not have."""
    level: str = "INFO"

    def start(self, process: str) -> None:
        """Begin; for the start of a process.

        Args:
            process: what it is: ``api``, ``runner``, ``finisher``, ``restorer-nano``.
        """
        redactor = Redactor(self.known_secrets)
        configure_logs(redactor, level=self.level)
        # The exporter reads its own settings, from the environment only.
        os.environ.update(self.traces)
        atexit.register(start_tracing(self.traces, redactor, process=process))
        start_error_tracking(self.sentry_dsn, redactor, process=process)


def instrumentation_of(environ: Mapping[str, str], secrets: Secrets, *urls: str | None) -> Instrumentation:
    """Take what is needed from the environment of the entry point.

    Args:
        urls: whose passwords must not be shown either.
    """
    return Instrumentation(
        known_secrets=secrets_in(secrets, *urls),
        sentry_dsn=secrets.sentry_dsn,
        traces={name: value for name, value in environ.items() if name.startswith(_TRACES)},
        level=environ.get("SEEDVR2_LOG_LEVEL") or "INFO",
    )
