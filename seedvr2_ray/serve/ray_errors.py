"""Ray's errors about a call, as ours."""

import contextlib
from collections.abc import Iterator

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from seedvr2_ray.errors import RetryableError, SeedVR2Error


class WorkerLostError(RetryableError):
    """The process that was at work died, or could not be reached. Others may do it."""


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn what Ray raises about a call into one of our errors."""
    try:
        yield
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, SeedVR2Error):
            raise cause from None
        raise
    except BackPressureError as error:
        raise RetryableError(f"too many requests wait for a replica: {error}") from error
    except DeploymentUnavailableError as error:
        raise RetryableError(f"no replica can be started; see the logs of Ray Serve: {error}") from error
    except (RayError, RayServeException) as error:
        raise WorkerLostError(f"the process at work on it was lost ({type(error).__name__})") from error
