"""Looking at a file nobody has vouched for, in a process that may crash, hang or eat memory without harm.

One small server per process of ours (:mod:`seedvr2_ray.serve.security.inspection_server`) has the parsers loaded and
forks a child for every file, so that a look costs milliseconds. The child has limits on memory, time, files and the
system calls it may make; what it answers is JSON, checked like any input: a child taken over may say anything.
"""

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
import time
from array import array
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from seedvr2_ray.errors import (
    CapacityError,
    DamagedMediaError,
    DeploymentError,
    MediaError,
    RetryableError,
    SeedVR2Error,
    StorageError,
)
from seedvr2_ray.media.info import Chapter, MediaInfo, Notice, StreamInfo, VideoInfo
from seedvr2_ray.media.probe import ProbeLimits
from seedvr2_ray.serve.config import Limits

_START_SECONDS = 120.0
"""For the server to load the parsers on a busy machine."""
_GRACE_SECONDS = 5.0
"""How much later than the child's own alarm we stop to wait."""
_MOST_ANSWER_BYTES = 256 * 2**20
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "VIRTUAL_ENV", "SYSTEMROOT")
"""Everything else stays away from the parsers: the environment holds the deployment's secrets."""
_ERRORS = {error.__name__: error for error in (MediaError, DamagedMediaError, StorageError, CapacityError)}

_READER = "seedvr2_ray.media.probe:probe"


class _Answer(BaseModel):
    """A :class:`MediaInfo` as it comes back, its long list of times packed."""

    model_config = ConfigDict(extra="forbid")

    size_bytes: int
    container: str
    kind: str
    frame_pts: str
    damaged_frames: tuple[tuple[int, int], ...]
    metadata: dict[str, str]
    video: Any
    streams: Any
    chapters: Any
    preflight: Any


class Inspector:
    """Looks at files in processes of their own. Safe to use from several threads."""

    def __init__(self, *, reader: str = _READER) -> None:
        """Name the function that looks; nothing is started yet.

        Args:
            reader: ``module:function`` with the signature of :func:`seedvr2_ray.media.probe.probe`.
        """
        self._reader = reader
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start(self) -> None:
        """Load the parsers now, so that the first file need not wait for it.

        Raises:
            DeploymentError: they cannot be loaded.
        """
        with self._lock:
            self._running()

    def inspect(self, path: Path, limits: Limits, *, salvage: bool = False) -> MediaInfo:
        """Find out what a file is and holds.

        Args:
            path: of a local file; messages give its name only.
            limits: what the deployment accepts.
            salvage: describe a damaged file instead of refusing it.

        Raises:
            MediaError: it is no usable video or image, is too large, or made its reader crash, hang or eat memory.
            DamagedMediaError: a part of it is usable, and ``salvage`` is off.
            RetryableError: the server was ended from outside.
        """
        order = {
            "folder": str(path.parent.absolute()),
            "name": path.name,
            "salvage": salvage,
            "limits": asdict(ProbeLimits(max_pixels=limits.max_pixels, max_frames=limits.max_frames)),
            "seconds": limits.probe_seconds,
            "memory_bytes": limits.probe_memory_bytes,
        }
        for is_last in (False, True):
            answer = self._ask(order, limits.probe_seconds)
            if answer is not None:
                return _read_answer(answer, path, limits)
            if is_last:
                raise RetryableError(f"the process that looks at {path.name} was ended from outside; try again")
        raise AssertionError("unreachable")

    def close(self) -> None:
        """End the server and whatever it has begun. The next look starts another one."""
        with self._lock:
            self._end()

    def _ask(self, order: Mapping[str, Any], seconds: float) -> bytes | None:
        """What the child and the server say; None when the server went away."""
        with self._lock:
            control = self._running()
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    socket.send_fds(control, [json.dumps(order).encode()], [theirs.fileno()])
                except OSError:
                    ours.close()
                    self._end()
                    return None
        with ours:
            answer = _receive_all(ours, time.monotonic() + seconds + _GRACE_SECONDS)
        # The server adds a last line about how the child ended; without one it has ended itself, or hangs.
        if answer.endswith(b"}\n"):
            return answer
        with self._lock:
            if self._control is control:
                self._end()
        return None

    def _running(self) -> socket.socket:
        if self._server is not None and self._control is not None and self._server.poll() is None:
            return self._control
        self._end()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "seedvr2_ray.serve.security.inspection_server",
                    str(theirs.fileno()),
                    self._reader,
                ],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment(os.environ),
                # Ctrl-C in a terminal is for us; the server ends when we do.
                start_new_session=True,
            )
        self._control = ours
        ours.settimeout(_START_SECONDS)
        try:
            ready = ours.recv(16)
        except TimeoutError:
            ready = b""
        if ready != b"ready":
            self._end()
            raise DeploymentError("the process that looks at files does not start; see its message on stderr")
        return ours

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None


def inspect(path: Path, limits: Limits, *, salvage: bool = False) -> MediaInfo:
    """Look at a file through the inspector that this process shares; see :meth:`Inspector.inspect`."""
    return shared_inspector().inspect(path, limits, salvage=salvage)


@lru_cache(maxsize=1)
def shared_inspector() -> Inspector:
    """Return the one inspector of this process; it ends with the process."""
    inspector = Inspector()
    atexit.register(inspector.close)
    return inspector


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    kept = {name: environ[name] for name in _KEPT_VARIABLES if name in environ}
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return kept | single | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}


def _receive_all(connection: socket.socket, deadline: float) -> bytes:
    """Everything until the other side closes; nothing if it takes too long or says too much."""
    received = bytearray()
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or len(received) > _MOST_ANSWER_BYTES:
            return b""
        connection.settimeout(left)
        try:
            piece = connection.recv(2**20)
        except OSError:
            return b""
        if not piece:
            return bytes(received)
        received += piece


def _read_answer(answer: bytes, path: Path, limits: Limits) -> MediaInfo:
    """Make sense of what the child wrote, if it did, and of how it ended."""
    said, _, trailer = answer.rstrip(b"\n").rpartition(b"\n")
    ended = json.loads(trailer)
    if not said or ended["signal"] or ended["is_late"]:
        raise MediaError(_why_it_ended(ended, path, limits))
    try:
        values = json.loads(said)
        if "error" in values:
            raise _error_from(values, path, limits)
        return _media_from(values, path)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MediaError(f"{path.name} made its reader answer nonsense; the file is damaged or hostile") from error


def _why_it_ended(ended: Mapping[str, Any], path: Path, limits: Limits) -> str:
    if ended["is_late"]:
        return (
            f"{path.name} takes longer than {limits.probe_seconds:g} s to look at, the limit here; "
            "cut it, or convert it to another container"
        )
    return f"{path.name} crashed its reader; the file is damaged or hostile: convert it with another program first"


def _error_from(values: Mapping[str, Any], path: Path, limits: Limits) -> SeedVR2Error:
    if values["error"] == "MemoryError":
        return MediaError(
            f"{path.name} needs more than {limits.probe_memory_bytes // 2**20} MiB to look at, the limit here; "
            "convert it to another container or codec"
        )
    kind = _ERRORS.get(values["error"])
    if kind is None:
        return MediaError(f"{path.name} confused its reader; convert it with another program first")
    return kind(str(values["message"])[:2000])


@lru_cache(maxsize=1)
def _shapes() -> tuple[TypeAdapter[Any], ...]:
    return tuple(
        TypeAdapter(kind) for kind in (VideoInfo, tuple[StreamInfo, ...], tuple[Chapter, ...], tuple[Notice, ...])
    )


def _media_from(values: Mapping[str, Any], path: Path) -> MediaInfo:
    try:
        answer = _Answer.model_validate(values)
        parts = (answer.video, answer.streams, answer.chapters, answer.preflight)
        video, streams, chapters, notices = (
            shape.validate_python(part) for shape, part in zip(_shapes(), parts, strict=True)
        )
    except ValidationError as error:
        raise ValueError("not a description of media") from error
    pts = array("q", b64decode(answer.frame_pts, validate=True))
    if answer.kind not in ("video", "image") or len(pts) != video.num_frames or len(pts) < 1:
        raise ValueError("a description of media that contradicts itself")
    return MediaInfo(
        path=str(path),
        size_bytes=answer.size_bytes,
        container=answer.container,
        kind="image" if answer.kind == "image" else "video",
        video=replace(video),
        frame_pts=pts,
        damaged_frames=answer.damaged_frames,
        streams=streams,
        chapters=chapters,
        metadata=answer.metadata,
        preflight=notices,
    )
