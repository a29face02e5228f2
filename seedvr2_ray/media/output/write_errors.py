"""What went wrong while a media file was written, in this project's words; no file is left half-written."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import av

from seedvr2_ray.errors import CapacityError, DeploymentError, InputError, SeedVR2Error, TargetError

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_INSTALLED = (
    av.codec.codec.UnknownCodecError,
    av.error.EncoderNotFoundError,
    av.error.MuxerNotFoundError,
    av.error.FilterNotFoundError,
    av.error.BSFNotFoundError,
    av.error.ProtocolNotFoundError,
)
"""What only another FFmpeg can mend. Everything else FFmpeg says is about one file and one form of output."""


@contextmanager
def whole_file_or_none(path: str) -> Iterator[None]:
    """Remove ``path`` and translate the error when the body fails.

    Raises:
        CapacityError: the disk is full.
        TargetError: the file cannot be written there.
        InputError: FFmpeg refuses this content in this form.
        DeploymentError: this installation's FFmpeg lacks a part that is needed for any file.
    """
    try:
        yield
    except BaseException as error:
        remove_file(path)
        if isinstance(error, SeedVR2Error) or not isinstance(error, (OSError, av.FFmpegError, *_NOT_INSTALLED)):
            raise
        raise write_error(path, error) from error


def write_error(path: str, error: Exception) -> SeedVR2Error:
    """Say in one sentence why ``path`` could not be written."""
    code = getattr(error, "errno", None)
    if isinstance(error, _NOT_INSTALLED):
        return DeploymentError(f"FFmpeg {av.ffmpeg_version_info} as installed here lacks what is needed: {error}")
    if code in _NO_SPACE:
        folder, name = os.path.split(os.path.abspath(path))
        return CapacityError(f"no space left in {folder} for {name}; free some, or choose another disk")
    if code == errno.ENOMEM:
        return CapacityError(f"not enough memory to write {path}; choose a smaller resolution or a larger machine")
    if isinstance(error, OSError) and code is not None and 0 < code < 200 and code != errno.EINVAL:
        return TargetError(f"cannot write {path}: {os.strerror(code)}; check that the folder exists and may be written")
    reason = getattr(error, "strerror", None) or str(error)
    return InputError(
        f"FFmpeg {av.ffmpeg_version_info} cannot store this source as {os.path.basename(path)}: {reason}; "
        "choose another container (.mkv holds most) or another codec"
    )


def remove_file(path: str) -> None:
    """Remove a regular file that may not exist."""
    if os.path.isfile(path):
        with suppress(OSError):
            os.unlink(path)
