"""What ``INPUT`` may be: a file, a pipe, an address on the network, a camera; opened again where that can help."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import av
from av.container import InputContainer

from seedvr2_ray.errors import DeploymentError, MediaError, SettingsError
from seedvr2_ray.live.byte_queue import ByteQueue
from seedvr2_ray.live.events import Tell
from seedvr2_ray.storage.location import printable

SCHEMES = ("rtmp", "rtmps", "rtsp", "srt", "tcp", "udp", "rtp", "http", "https")
DEVICES = ("v4l2", "x11grab", "avfoundation", "dshow", "gdigrab", "lavfi")
_READ_SECONDS = 2.0
"""Silence after which a connection counts as broken."""
_ATTEMPT_SECONDS = 5.0
_PROBING = {"analyzeduration": "1000000", "probesize": "1000000"}
_DATAGRAMS = {"overrun_nonfatal": "1", "fifo_size": "100000", "reuse": "1"}
_LISTENING: Mapping[str, Mapping[str, str]] = {
    "rtmp": {"listen": "1"},
    "rtsp": {"rtsp_flags": "listen"},
    "tcp": {"listen": "1"},
    "http": {"listen": "1"},
}
"""How a protocol is told that the sender comes to us."""
_HEADS: Mapping[str, Callable[[bytes], bool]] = {
    "matroska": lambda head: head[:4] == b"\x1a\x45\xdf\xa3",
    "mov": lambda head: head[4:8] in (b"ftyp", b"styp", b"moov"),
    "mpegts": lambda head: head[0] == 0x47 and (len(head) < 189 or head[188] == 0x47),
}
HEAD_BYTES = 189


@dataclass(frozen=True, slots=True)
class InputAddress:
    """An ``INPUT`` as somebody wrote it, understood."""

    text: str
    url: str
    format: str | None
    options: Mapping[str, str]
    is_endless: bool
    """Whether its sender goes on whatever happens here, so that it cannot be slowed down, and may come back."""
    listens: bool = False
    """Whether the sender connects to us, and not we to him."""


def parse_input(text: str, *, listens: bool = False) -> InputAddress:
    """Understand where a stream comes from.

    Args:
        listens: wait at the address for a sender to connect, as encoders that push do.

    Raises:
        DeploymentError: this installation lacks the protocol or the device.
        MediaError: nobody knows such an address.
        SettingsError: nobody can connect to it.
    """
    if listens:
        return _parse_listening(text)
    if text == "-":
        return InputAddress(text, text, None, _PROBING, is_endless=False)
    device, colon, rest = text.partition(":")
    if colon and device in DEVICES:
        if device not in av.formats_available:
            raise DeploymentError(
                f"PyAV here was built without {device}, so it cannot open {text}; capture with another program and "
                "pipe MPEG-TS into this one (INPUT -)"
            )
        return InputAddress(text, rest, device, {}, is_endless=device != "lavfi")
    scheme, separator, _ = text.partition("://")
    if not separator or scheme == "file":
        return InputAddress(text, text.removeprefix("file://"), None, {}, is_endless=False)
    if scheme not in SCHEMES:
        raise MediaError(f"{printable(text)} is no stream this command reads; use one of {', '.join(SCHEMES)}, or -")
    options = {**_PROBING, **(_DATAGRAMS if scheme in ("udp", "rtp") else {})}
    if scheme == "rtsp":
        options["rtsp_transport"] = "tcp"
    return InputAddress(text, text, None, options, is_endless=scheme not in ("http", "https"))


def _parse_listening(text: str) -> InputAddress:
    scheme, _, _ = text.partition("://")
    if scheme not in _LISTENING:
        raise SettingsError(
            f"{printable(text)} is no address where a sender could be waited for; listen at "
            f"{', '.join(f'{name}://' for name in _LISTENING)}, or leave out --listen (udp:// needs none)"
        )
    return InputAddress(text, text, None, {**_PROBING, **_LISTENING[scheme]}, is_endless=True, listens=True)


class AddressOpener:
    """Opens an input, and opens it again after a break for as long as somebody may come back."""

    def __init__(
        self,
        address: InputAddress,
        *,
        wait_seconds: float = 30.0,
        reconnect_seconds: float = 10.0,
        tell: Tell = lambda event: None,
    ) -> None:
        """Prepare to open.

        Args:
            wait_seconds: for the first packet of a stream from the network.
            reconnect_seconds: after a break.
        """
        self._address = address
        self._wait_seconds = wait_seconds
        self._reconnect_seconds = reconnect_seconds
        self._tell = tell
        self._num_opened = 0
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Try no more."""
        self._stopped.set()

    def __call__(self) -> InputContainer | None:
        """Open the input; None when nobody has come back.

        Raises:
            MediaError: it cannot be opened the first time.
            DeploymentError: this installation lacks the protocol.
        """
        if self._num_opened and not self._address.is_endless:
            return None
        if self._num_opened:
            self._tell({"event": "interrupted", "seconds": self._reconnect_seconds})
            self._wait_seconds = self._reconnect_seconds
        deadline = time.monotonic() + self._wait_seconds
        while not self._stopped.is_set():
            try:
                container = self._open()
            except (av.FFmpegError, OSError) as error:
                if isinstance(error, av.ProtocolNotFoundError):
                    scheme = self._address.url.partition("://")[0]
                    raise DeploymentError(
                        f"PyAV here was built without {scheme}://; receive it with another program and pipe "
                        "MPEG-TS into this one (INPUT -)"
                    ) from error
                is_last = time.monotonic() >= deadline or not self._address.is_endless
                if is_last and self._num_opened == 0:
                    raise _cannot_open(self._address, error) from error
                if is_last:
                    return None
                self._stopped.wait(0.2)
                continue
            self._num_opened += 1
            return container
        return None

    def _open(self) -> InputContainer:
        address = self._address
        options = dict(address.options)
        if address.url == "-":
            # Unbuffered: what has come is there at once.
            stdin = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115  # The container reads it to its end.
            return av.open(stdin, "r", options=options)
        if not address.is_endless:
            return av.open(address.url, "r", format=address.format, options=options)
        seconds = max(1.0, self._wait_seconds)
        if not address.listens:
            seconds = min(_ATTEMPT_SECONDS, seconds)
        elif "rtsp_flags" in options:
            options["listen_timeout"] = str(math.ceil(seconds))
        return av.open(address.url, "r", format=address.format, options=options, timeout=(seconds, _READ_SECONDS))


def open_bytes(queue: ByteQueue) -> InputContainer | None:
    """Open what somebody sends, whose kind its first bytes tell; None when nothing came.

    The demuxer is named and not found by trial: some kinds are lists of other files to open.

    Raises:
        MediaError: it is none of the kinds that can be sent.
    """
    head = queue.peek(HEAD_BYTES)
    if not head:
        return None
    kind = next((name for name, fits in _HEADS.items() if fits(head)), None)
    if kind is None:
        raise MediaError(
            "what was sent is no video stream that is understood here; send MPEG-TS, fragmented MP4 or WebM"
        )
    try:
        return av.open(queue, "r", format=kind, options=_PROBING)
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"what was sent cannot be read as {kind} ({_reason(error)})") from error


def _cannot_open(address: InputAddress, error: Exception) -> MediaError:
    what = "the pipe" if address.url == "-" else printable(address.text)
    if isinstance(error, av.ExitError):
        return MediaError(f"nothing came from {what} in time; start the sender first, or wait longer (--wait)")
    return MediaError(f"{what} cannot be opened: {_reason(error)}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
