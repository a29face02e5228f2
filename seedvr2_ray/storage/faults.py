"""The boundary where exceptions of file systems and of stores' SDKs become ours."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from seedvr2_ray.errors import (
    CapacityError,
    MediaError,
    SeedVR2Error,
    StorageError,
    TargetError,
)

Role = Literal["source", "target", "store"]
"""What a place is to the caller: a missing source is their mistake, a missing commit is not."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BAD_NAME = {errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.ENOTDIR}

# The SDKs of the stores are not imported here (they are optional), and their errors share no base class.
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "NoAuthTokenError", "DefaultCredentialsError"}
_BAD_REQUEST = {"ParamValidationError", "InvalidURL"}
_BAD_REQUEST_CODES = {"InvalidBucketName", "KeyTooLongError", "InvalidURI", "MethodNotAllowed", "EntityTooLarge"}

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*(://|::(?=.*://))")


def is_url(text: str) -> bool:
    """Say whether a name is a URL (``s3://...``, ``simplecache::https://...``) rather than a path."""
    return _SCHEME.match(text) is not None


def printable(url: str | os.PathLike[str]) -> str:
    """Return a name fit for messages and logs: a URL without user, password, query and fragment."""
    text = os.fspath(url)
    return "::".join(_without_secrets(link) for link in text.split("::")) if is_url(text) else text


def _without_secrets(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    authority, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


@contextmanager
def translated(url: str, role: Role) -> Iterator[None]:
    """Raise our errors in place of those of a file system or store, without secrets in any of them.

    Raises:
        MediaError: a source is not there, is not a file, or may not be read.
        TargetError: a target or store may not be written, has no bucket, or exists.
        CapacityError: a disk or quota is full.
        StorageError: anything else; trying again may help.
    """
    try:
        yield
    except SeedVR2Error:
        raise
    except Exception as error:
        if type(error).__module__ == "builtins" and not isinstance(error, (OSError, NotImplementedError)):
            raise  # A mistake of ours, and no store's answer.
        ours = _our_error(error, printable(url), role)
        # A store's own message may repeat the URL, signature and all, and a traceback prints its cause.
        raise ours from (error if printable(url) == url else None)


def _our_error(error: Exception, name: str, role: Role) -> SeedVR2Error:
    mistake = MediaError if role == "source" else TargetError
    if isinstance(error, OSError) and error.errno in _FULL:
        return CapacityError(f"no space left for {name}: {_reason(error)}; free some or choose another place")
    if isinstance(error, FileNotFoundError):
        return _missing(name, role)
    if isinstance(error, FileExistsError):
        return TargetError(f"{name} exists; choose another name or allow overwriting it (--overwrite)")
    if isinstance(error, (IsADirectoryError, NotADirectoryError)):
        return mistake(f"{name} is a folder, or something in its path is none; name a file")
    if isinstance(error, PermissionError) or http_status(error) in (401, 403):
        action = "read" if role == "source" else "write"
        return mistake(f"no permission to {action} {name}: {_reason(error)}; check its owner or your credentials")
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return mistake(f"{name} lies on a read-only file system; choose another place")
    if isinstance(error, NotImplementedError):
        return mistake(f"{name} cannot be {'read' if role == 'source' else 'written'}: its protocol does not allow it")
    if type(error).__name__ in _NO_CREDENTIALS:
        return mistake(f"no credentials for {name}; set them in the environment or in the store's configuration file")
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        last = name.rstrip("/").rpartition("/")[2]
        return mistake(
            f"the name {last[:20]}... has {len(last.encode('utf-8', 'surrogateescape'))} bytes in UTF-8, too many for "
            "this file system, most of which take 255; shorten it, and leave room for .json after it"
        )
    if _is_bad_request(error):
        return mistake(f"{name} is no name this store or file system accepts: {_reason(error)}")
    return StorageError(f"{name} could not be reached: {_reason(error)}; try again")


def _missing(name: str, role: Role) -> SeedVR2Error:
    if role == "source":
        return MediaError(f"{name} does not exist; check the name")
    if role == "target":
        return TargetError(f"the folder or bucket of {name} does not exist; create it first")
    return StorageError(f"{name} is gone from the store, or the store's bucket does not exist")


def _is_bad_request(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in _BAD_NAME:
        return True
    return type(error).__name__ in _BAD_REQUEST or store_code(error) in _BAD_REQUEST_CODES


def store_code(error: BaseException) -> str:
    """Return the error code an S3-compatible store answered with, or an empty string."""
    response = getattr(error.__cause__ or error, "response", None)
    details = response.get("Error", {}) if isinstance(response, dict) else {}
    return str(details.get("Code", ""))


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status an exception of an HTTP client carries, if it does."""
    status = getattr(error, "status", getattr(error, "code", None))
    return status if isinstance(status, int) else None


def _reason(error: Exception) -> str:
    """Say why in words that cannot hold a secret: never the message of a store."""
    code = store_code(error)
    if code:
        return code
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    status = http_status(error)
    return f"HTTP {status}" if status else type(error).__name__
