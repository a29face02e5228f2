"""Reporting our own mistakes to Sentry, where ``SEEDVR2_SENTRY_DSN`` names one; with the same redaction as logs."""

import importlib.util
import logging
from collections.abc import Callable
from typing import Any, cast

import seedvr2_ray
from seedvr2_ray.errors import SeedVR2Error
from seedvr2_ray.serve.observability.logs import current_ids
from seedvr2_ray.serve.security.redaction import Redactor

_log = logging.getLogger(__name__)


def start_error_tracking(
    dsn: str | None, redactor: Redactor, *, process: str, transport: Callable[..., Any] | None = None
) -> bool:
    """Report unexpected errors of this process from now on.

    Args:
        dsn: of the project; None reports nothing.
        redactor: removes secrets from everything that is reported.
        process: what this one is: ``api``, ``runner`` ...
        transport: sends reports somewhere else.

    Returns:
        Whether errors are reported.
    """
    if dsn is None:
        return False
    if importlib.util.find_spec("sentry_sdk") is None:
        _log.warning(
            "SEEDVR2_SENTRY_DSN is set, but error tracking needs the extra: pip install 'seedvr2-ray[observability]'"
        )
        return False
    import sentry_sdk

    def clean(event: Any, hint: dict[str, Any]) -> Any:
        raised = hint.get("exc_info")
        if raised is not None and isinstance(raised[1], SeedVR2Error) and type(raised[1]) is not SeedVR2Error:
            return None  # Somebody is told what to change; nothing is to be repaired here.
        tags = {**event.get("tags", {}), **current_ids()}
        return cast(Any, redactor.value({**event, "tags": tags}))

    sentry_sdk.init(
        dsn=dsn,
        release=seedvr2_ray.__version__,
        server_name=process,
        before_send=clean,
        before_breadcrumb=lambda crumb, hint: cast(Any, redactor.value(crumb)),
        # Neither frames' variables nor requests' bodies: they hold what callers upload and sign in with.
        include_local_variables=False,
        max_request_body_size="never",
        traces_sample_rate=0.0,
        transport=transport,
    )
    return True
