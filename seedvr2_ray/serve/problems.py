"""What can go wrong between a caller and the service, and the HTTP status that says so.

Refusals are raised by the service itself; errors of the layers below are looked up along their base classes.
Each becomes one ``application/problem+json`` body (RFC 9457) with what was wrong, the limit and the way out.
"""

from dataclasses import dataclass

from seedvr2_ray.errors import (
    CapacityError,
    DamagedMediaError,
    DeploymentError,
    DeviceMemoryError,
    GangError,
    InputError,
    MediaError,
    NotFiniteError,
    RetryableError,
    SeedVR2Error,
    SettingsError,
    StoppedElsewhereError,
    StorageError,
    TargetError,
)


class Refusal(SeedVR2Error):
    """The service does not do what it was asked, for a reason of its own."""

    retry_after_seconds: int | None = None
    """When the same request may succeed, where that is known."""


class AuthenticationRefusal(Refusal):
    """Nobody, or somebody unknown, is asking."""


class PermissionRefusal(Refusal):
    """Whoever is asking may not do this."""


class MissingRefusal(Refusal):
    """There is no such thing, or it belongs to somebody else."""


class ConflictRefusal(Refusal):
    """The thing is in a state in which this cannot be done."""


class GoneRefusal(Refusal):
    """It was there and has been deleted."""


class SizeRefusal(Refusal):
    """The request's body is larger than the deployment accepts."""


class FetchRefusal(InputError):
    """A URL that this deployment does not fetch from, or whose server did not give a usable file."""


class RateRefusal(Refusal):
    """Too many requests, jobs, or seconds of device time for one owner or for the whole deployment."""

    def __init__(self, message: str, retry_after_seconds: int = 1) -> None:
        """Say what there is too much of, and when to come again."""
        super().__init__(message, retry_after_seconds)
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """One row of the table of errors: documented in the API, tested to be complete."""

    name: str
    """Last part of the problem's ``type``."""
    status: int
    title: str
    remedy: str
    """The way out where the message itself does not end with one."""


PROBLEMS: dict[type[SeedVR2Error], ProblemKind] = {
    AuthenticationRefusal: ProblemKind("unauthenticated", 401, "Sign in", "Send a valid key or token."),
    PermissionRefusal: ProblemKind("forbidden", 403, "Not allowed", "Use a key whose scopes allow this."),
    MissingRefusal: ProblemKind("not-found", 404, "Not found", "Check the id; it may belong to another owner."),
    ConflictRefusal: ProblemKind("conflict", 409, "Not possible in this state", "Look at the current state first."),
    GoneRefusal: ProblemKind("gone", 410, "Deleted", "Submit the job again."),
    SizeRefusal: ProblemKind("too-large", 413, "Too large", "Send less, or ask the operator for a higher limit."),
    RateRefusal: ProblemKind("too-many", 429, "Too many", "Wait as long as Retry-After says."),
    Refusal: ProblemKind("refused", 400, "Refused", "Change the request."),
    SettingsError: ProblemKind("settings", 422, "Settings cannot be used", "Change the settings."),
    DamagedMediaError: ProblemKind("damaged-media", 422, "The file is damaged", "Try again with salvage set to true."),
    NotFiniteError: ProblemKind("not-finite", 422, "The model fails on this file", "Choose another model."),
    MediaError: ProblemKind("media", 422, "The file cannot be used", "Repair, convert or replace the file."),
    TargetError: ProblemKind("target", 422, "The output cannot be written", "Choose another container or codec."),
    FetchRefusal: ProblemKind("fetch", 422, "The URL cannot be fetched", "Upload the file instead."),
    InputError: ProblemKind("input", 422, "The request cannot be used", "Change the request."),
    CapacityError: ProblemKind("capacity", 503, "No room now", "Try again later or ask for a smaller output."),
    DeviceMemoryError: ProblemKind("device-memory", 503, "Too large for the devices here", "Ask for a smaller output."),
    GangError: ProblemKind("gang", 503, "The devices lost each other", "Try again later."),
    StoppedElsewhereError: ProblemKind("stopped", 503, "Stopped by another device", "Try again later."),
    StorageError: ProblemKind("storage", 503, "Storage does not answer", "Try again later."),
    RetryableError: ProblemKind("unavailable", 503, "Not now", "Try again later."),
    DeploymentError: ProblemKind("deployment", 503, "The service is not set up for this", "Tell the operator."),
    SeedVR2Error: ProblemKind("internal", 500, "A mistake of ours", "Report it with the request's id."),
}


def kind_of(error: type[BaseException]) -> ProblemKind:
    """Return the row of the table that an error falls under: its own, or its nearest base class's."""
    for base in error.__mro__:
        if base in PROBLEMS:
            return PROBLEMS[base]
    return PROBLEMS[SeedVR2Error]
