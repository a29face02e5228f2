"""Every error this project raises on purpose.

::

    SeedVR2Error
    ├── InputError            the caller must change something; repeating the call will not help
    │   ├── SettingsError     a setting is unknown, malformed or impossible with the others
    │   ├── MediaError        the file cannot be used
    │   │   ├── DamagedMediaError   part of it can: ``salvage`` restores what can be read
    │   │   └── NotFiniteError      a model makes no pictures of it, only numbers that are none
    │   └── TargetError       the output cannot be written where the caller asked
    ├── RetryableError        the same call may succeed later or on another machine
    │   ├── CapacityError     memory, disk or queue is too small; a smaller or later request may fit
    │   │   └── DeviceMemoryError   no exact way of restoring fits this device; only a smaller request may
    │   ├── StoppedElsewhereError   another rank of the same gang stopped the segment
    │   └── StorageError      a store did not answer, or a committed object is not what its record says
    └── DeploymentError       the installation is wrong: weights, codecs, drivers; every call will fail

The first branch becomes HTTP 422 and a row that is set aside, the second HTTP 503 and a
retry, the third an unhealthy replica. Each takes one message, so that it survives pickling
across processes. A message says what is wrong, the limit, and the way out.
"""


class SeedVR2Error(Exception):
    """The root: catching it catches everything this project raises on purpose."""

    exit_code = 1
    """What the command line returns to the shell."""


class InputError(SeedVR2Error):
    """The caller's file or settings cannot be used. Repeating the call will not help."""

    exit_code = 2


class SettingsError(InputError):
    """A setting is unknown, malformed, or impossible together with the others."""


class MediaError(InputError):
    """The source file cannot be used."""

    exit_code = 3


class DamagedMediaError(MediaError):
    """Part of the source cannot be read; with ``salvage`` the rest is restored."""


class NotFiniteError(MediaError):
    """A model turns frames of this file into NaN or infinity, which are no colours; nothing of them is kept."""


class TargetError(InputError):
    """The output cannot be written where the caller asked."""

    exit_code = 4


class RetryableError(SeedVR2Error):
    """The same call may succeed later, smaller, or on another machine."""

    exit_code = 5


class CapacityError(RetryableError):
    """Memory, disk or queue is too small for this request now."""


class DeviceMemoryError(CapacityError):
    """No exact way of restoring fits this device's memory, counted or tried; the same call fails here again."""


class StoppedElsewhereError(RetryableError):
    """Another rank stopped the segment and told this one, which is ready for the next."""


class StorageError(RetryableError):
    """A store did not answer, or does not hold what its record says."""


class DeploymentError(SeedVR2Error):
    """The installation cannot do this at all: weights, codecs, drivers."""

    exit_code = 6
