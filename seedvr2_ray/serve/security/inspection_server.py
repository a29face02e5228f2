"""The process that :class:`seedvr2_ray.serve.security.inspection.Inspector` starts: it forks a child for every file.

It holds the loaded parsers and never reads a file itself. An order comes as one packet of JSON with a socket; the
child writes its answer there, and the server adds a last line that says how the child ended.
"""

import importlib
import json
import math
import os
import select
import signal
import socket
import sys
import time
import traceback
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedvr2_ray.errors import SeedVR2Error
from seedvr2_ray.media.info import MediaInfo
from seedvr2_ray.media.probe import ProbeLimits
from seedvr2_ray.media.stills.reader import load_readers
from seedvr2_ray.serve.security.confinement import (
    allow_only_reading,
    end_with_parent,
    forbid_network_and_programs,
    limit_resources,
)
from seedvr2_ray.storage.address import jsonable

Reader = Callable[..., MediaInfo]

_MOST_ORDER_BYTES = 65536
_ANSWER_SECONDS = 5.0
"""For whoever asked to make room for the last line."""


@dataclass(frozen=True, slots=True)
class _Child:
    """A forked reader at work."""

    pid: int
    answer: socket.socket
    deadline: float


def serve(control: socket.socket, reader: Reader) -> None:
    """Take orders until the other side goes away; then everything that is at work is killed."""
    children: dict[int, _Child] = {}
    control.send(b"ready")
    poll = select.poll()
    poll.register(control, select.POLLIN)
    try:
        while True:
            soonest = min((child.deadline for child in children.values()), default=math.inf)
            wait = None if math.isinf(soonest) else max(0.0, soonest - time.monotonic()) * 1000 + 1
            for descriptor, _ in poll.poll(wait):
                if descriptor != control.fileno():
                    poll.unregister(descriptor)
                    _bury(children.pop(descriptor), descriptor, is_late=False)
                    continue
                taken = _take_order(control)
                if taken is None:
                    return
                order, answer = taken
                child = _start(order, answer, reader, control, children)
                pidfd = os.pidfd_open(child.pid)
                children[pidfd] = child
                poll.register(pidfd, select.POLLIN)
            for pidfd in [each for each, child in children.items() if child.deadline <= time.monotonic()]:
                poll.unregister(pidfd)
                _bury(children.pop(pidfd), pidfd, is_late=True)
    finally:
        for pidfd, child in children.items():
            _bury(child, pidfd, is_late=True)


def _take_order(control: socket.socket) -> tuple[dict[str, Any], socket.socket] | None:
    try:
        packet, descriptors, _, _ = socket.recv_fds(control, _MOST_ORDER_BYTES, 1)
    except ConnectionResetError:
        return None
    if not packet:
        return None
    return json.loads(packet), socket.socket(fileno=descriptors[0])


def _start(
    order: Mapping[str, Any],
    answer: socket.socket,
    reader: Reader,
    control: socket.socket,
    others: Mapping[int, _Child],
) -> _Child:
    server = os.getpid()
    pid = os.fork()
    if pid:
        return _Child(pid, answer, time.monotonic() + order["seconds"])
    status = 1
    try:
        end_with_parent(signal.SIGKILL, server)
        # A child must be able neither to order others nor to answer for them.
        control.close()
        for pidfd, child in others.items():
            os.close(pidfd)
            child.answer.close()
        answer.sendall(json.dumps(_look(order, reader)).encode())
        status = 0
    finally:
        if status:
            traceback.print_exc()  # For the operator; whoever asked learns that the reader crashed.
        os._exit(status)


def _look(order: Mapping[str, Any], reader: Reader) -> dict[str, Any]:
    # The name alone is what messages show: where the service keeps its files is nobody's business.
    os.chdir(order["folder"])
    path = Path(order["name"])
    limit_resources(memory_bytes=order["memory_bytes"], seconds=order["seconds"])
    allow_only_reading([path] if path.exists() else [])
    forbid_network_and_programs()
    try:
        media = reader(str(path), limits=ProbeLimits(**order["limits"]), salvage=order["salvage"])
        packed = b64encode(media.frame_pts.tobytes()).decode()
        return {**jsonable(media, leave_out=("frame_pts", "path")), "frame_pts": packed}
    except MemoryError:
        return {"error": "MemoryError"}
    except SeedVR2Error as error:
        return {"error": type(error).__name__, "message": str(error)}


def _bury(child: _Child, pidfd: int, *, is_late: bool) -> None:
    """Wait for a child, or end it, and tell whoever asked how it went."""
    if is_late:
        os.kill(child.pid, signal.SIGKILL)
    _, status = os.waitpid(child.pid, 0)
    os.close(pidfd)
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    last = {"signal": ended_by, "is_late": is_late or ended_by == signal.SIGXCPU}
    with child.answer:
        child.answer.settimeout(_ANSWER_SECONDS)
        try:
            child.answer.sendall(b"\n" + json.dumps(last).encode() + b"\n")
        except OSError:
            return  # Whoever asked has gone, or does not read.


def main(arguments: list[str]) -> None:
    """Load the parsers, then serve: ``<descriptor of the control socket> <module:function>``."""
    descriptor, reader = arguments
    module, _, function = reader.partition(":")
    load_readers()
    with socket.socket(fileno=int(descriptor)) as control:
        serve(control, getattr(importlib.import_module(module), function))


if __name__ == "__main__":
    main(sys.argv[1:])
