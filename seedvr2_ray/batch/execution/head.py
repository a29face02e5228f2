"""Whether the cluster's head is there. Without it Ray goes on trying, and at last ends the process without a word."""

import os
import socket
import sys
import time
from collections.abc import Callable

from seedvr2_ray.errors import DeploymentError

_LIMIT_VARIABLE = "RAY_gcs_rpc_server_reconnect_timeout_s"
_LIMIT_SECONDS = 60.0
"""After which Ray ends every process that does not reach the head, unless that variable says otherwise."""
_ASK_SECONDS = 3.0


class HeadLostError(DeploymentError):
    """The head is gone, and with it this Ray: nothing may be asked of it any more, for nobody answers."""


def leave_without_ray() -> None:
    """End this process now: threads of Ray's that nobody ended crash an interpreter that takes itself apart."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(HeadLostError.exit_code)


class Head:
    """Asked now and then whether it answers: one that comes back in time, as with a Redis behind it, was not gone."""

    def __init__(
        self,
        answers: Callable[[], bool],
        *,
        limit_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with one that is there.

        Args:
            answers: says whether it does, within moments.
            limit_seconds: after which Ray ends this process; by default what the environment says.
        """
        self._answers = answers
        self._limit = limit_seconds or float(os.environ.get(_LIMIT_VARIABLE, _LIMIT_SECONDS))
        self._clock = clock
        self._asked = self._seen = clock()

    def require(self) -> None:
        """Stop before Ray does, while there is still somebody to say why.

        Raises:
            HeadLostError: it has not answered for long.
        """
        now = self._clock()
        if now - self._asked < _ASK_SECONDS:
            return
        self._asked = now
        if self._answers():
            self._seen = now
        elif now - self._seen > self._limit * 2 / 3:
            raise HeadLostError(
                f"the head of the Ray cluster has not answered for {now - self._seen:.0f} s; what is committed stays: "
                "run the same command again once the head runs"
            )


def head_at(address: str) -> Head:
    """Watch the head at ``host:port``."""
    host, _, port = address.rpartition(":")

    def answers() -> bool:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=2.0):
                return True
        except OSError:
            return False

    return Head(answers)
