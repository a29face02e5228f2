"""What an error means for a file: try again, set it aside, or stop everything."""

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from seedvr2_ray.errors import (
    DamagedMediaError,
    DeploymentError,
    DeviceMemoryError,
    InputError,
    MediaError,
    NotFiniteError,
    RetryableError,
    SettingsError,
    TargetError,
)
from seedvr2_ray.storage.records import LostWorkError

Stage = Literal["read", "plan", "restore", "finish", "assemble"]
Consequence = Literal["set_aside", "later", "stop"]
"""Of a failure: the file cannot be restored; it may be, in another pass; no file can be."""

Result = TypeVar("Result")


class HandedBackError(RetryableError):
    """The machine is about to go, and with it whoever would try again: somebody else restores the segment."""


_NOT_AGAIN_HERE = (LostWorkError, HandedBackError)
"""What passes, and not for whoever only asks again."""

_REMEDIES: tuple[tuple[type[Exception], str], ...] = (
    (DamagedMediaError, "run again with --salvage to restore what can be read, or replace the file"),
    (NotFiniteError, "choose another model for this row, or exclude it, then run the same command again"),
    (MediaError, "repair, convert or replace the file, then run the same command again"),
    (SettingsError, "change the settings of this row, then run the same command again"),
    (TargetError, "choose another target or allow overwriting, then run the same command again"),
    (InputError, "change the file or its settings, then run the same command again"),
    (DeviceMemoryError, "choose a smaller resolution for this row or a machine with more memory, then run again"),
    (RetryableError, "run the same command again when the machine or store has room and answers"),
)
_OURS = "run the same command again; if it fails again, report it with this line"


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a file is not restored. Plain values, for the quarantine."""

    stage: Stage
    error: str
    remedy: str
    consequence: Consequence = "set_aside"


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """How often, and after what pause, something that may pass is tried again."""

    num_tries: int = 5
    first_pause_seconds: float = 1.0
    longest_pause_seconds: float = 60.0

    def pause_seconds(self, tries: int) -> float:
        """Return how long to wait after so many tries: doubling, and scattered so that workers part."""
        longest = min(self.longest_pause_seconds, self.first_pause_seconds * float(2 ** (tries - 1)))
        return longest * random.uniform(0.5, 1.0)


def describe_failure(stage: Stage, error: BaseException) -> Failure:
    """Say what an error means for its file."""
    consequence: Consequence = "set_aside"
    if isinstance(error, DeploymentError):
        consequence = "stop"
    elif is_transient(error):
        consequence = "later"
    remedy = next((remedy for kind, remedy in _REMEDIES if isinstance(error, kind)), _OURS)
    return Failure(stage=stage, error=f"{type(error).__name__}: {error}", remedy=remedy, consequence=consequence)


def is_transient(error: BaseException) -> bool:
    """Say whether the same call may succeed later or elsewhere."""
    # TimeoutError and ConnectionError are OSErrors.
    may_pass = isinstance(error, RetryableError | OSError) or _is_of_torch(error, "OutOfMemoryError")
    return may_pass and not isinstance(error, DeviceMemoryError)


def leaves_device_unusable(error: BaseException) -> bool:
    """Say whether an error of CUDA spoiled the process: every later call on the device would fail too."""
    return _is_of_torch(error, "AcceleratorError") and not _is_of_torch(error, "OutOfMemoryError")


def _is_of_torch(error: BaseException, name: str) -> bool:
    """Whether an error is torch's of that name. Where torch is not loaded, as where parts are finished, none can be."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, getattr(torch, name))


def with_retries(
    action: Callable[[], Result],
    policy: RetryPolicy,
    *,
    on_retry: Callable[[Exception], object] = lambda error: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """Call until it succeeds, an error that will not pass comes up, or the tries are used up.

    Work that is lost will not come back to whoever asks again: it is to be planned again, at once.

    Args:
        on_retry: told of every error that is followed by another try.
    """
    for tries in range(1, policy.num_tries):
        try:
            return action()
        except Exception as error:
            if not is_transient(error) or isinstance(error, _NOT_AGAIN_HERE) or leaves_device_unusable(error):
                raise
            on_retry(error)
        sleep(policy.pause_seconds(tries))
    return action()
