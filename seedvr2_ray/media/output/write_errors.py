"""What went wrong while a media file was written, in this project's words; no file is left half-written."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import av

from seedvr2_ray.errors import CapacityError, DeploymentError, SeedVR2Error, TargetError

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def whole_file_or_none(path: str) -> Iterator[None]:
    """Remove ``path`` and translate the error when the body fails.

    Raises:
        CapacityError: the disk is full.
        TargetError: the file cannot be written there.
        DeploymentError: this installation's FFmpeg cannot do what was asked.
    """
    try:
        yield
    except BaseException as error:
        remove_file(path)
        if isinstance(error, SeedVR2Error) or not isinstance(error, (OSError, av.FFmpegError)):
            raise
        raise write_error(path, error) from error


def write_error(path: str, error: OSError | av.FFmpegError) -> SeedVR2Error:
    """Say in one sentence why ``path`` could not be written."""
    code = error.errno
    if code in _NO_SPACE:
        folder, name = os.path.split(os.path.abspath(path))
        return CapacityError(f"no space left in {folder} for {name}; free some, or choose another disk")
    if code == errno.ENOMEM:
        return CapacityError(f"not enough memory to write {path}; choose a smaller resolution or a larger machine")
    if isinstance(error, OSError) and code is not None and 0 < code < 200 and code != errno.EINVAL:
        return TargetError(f"cannot write {path}: {os.strerror(code)}; check that the folder exists and may be written")
    return DeploymentError(f"FFmpeg {av.ffmpeg_version_info} could not write {path}: {error}")


def remove_file(path: str) -> None:
    """Remove a regular file that may not exist."""
    if os.path.isfile(path):
        with suppress(OSError):
            os.unlink(path)
