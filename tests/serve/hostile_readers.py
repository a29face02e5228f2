"""Readers that do to their process what a hostile file could make a real one do."""

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seedvr2_ray.errors import MediaError
from seedvr2_ray.media.info import MediaInfo
from seedvr2_ray.media.probe import probe


def misbehave(path: str, **options: Any) -> MediaInfo:
    """Do what the file's name says; read it in earnest if that is no misdeed known here."""
    misdeed = _MISDEEDS.get(Path(path).stem)
    if misdeed is not None:
        misdeed()
    return probe(path, **options)


def _sleep() -> None:
    time.sleep(3600)


def _spin() -> None:
    while True:
        pass


def _hang_in_c() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGTERM})
    ctypes.CDLL(None).sleep(3600)


def _crash() -> None:
    ctypes.string_at(0)


def _abort() -> None:
    os.abort()


def _exit() -> None:
    os._exit(0)


def _eat() -> None:
    bytearray(64 * 2**30)


def _raise() -> None:
    raise ZeroDivisionError


def _break_out() -> None:
    """Try everything a taken-over parser would like to do; the message says what worked."""
    attempts: dict[str, Callable[[], Any]] = {
        "socket": socket.socket,
        "program": lambda: subprocess.run(["/bin/true"], check=True),
        "read": lambda: Path("/etc/hostname").read_bytes(),
        "list": lambda: os.listdir("/"),
        "neighbour": lambda: Path("neighbour.txt").read_bytes(),
        "write": lambda: Path("written.txt").write_bytes(b"x"),
        "overwrite": lambda: os.truncate("break_out.bin", 0),
        "change rights": lambda: os.chmod("break_out.bin", 0o777),
        "remove": lambda: Path("neighbour.txt").unlink(),
        "kill": lambda: os.kill(os.getppid(), 0),
        "environment": lambda: os.environ["SEEDVR2_JWT_KEY"],
        "environment of the server": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
    }
    worked = []
    for name, attempt in attempts.items():
        try:
            attempt()
        except (OSError, KeyError, subprocess.SubprocessError):
            continue
        worked.append(name)
    raise MediaError(f"worked: {worked}")


_MISDEEDS = {
    "sleep": _sleep,
    "spin": _spin,
    "hang": _hang_in_c,
    "crash": _crash,
    "abort": _abort,
    "exit": _exit,
    "eat": _eat,
    "raise": _raise,
    "break_out": _break_out,
}
