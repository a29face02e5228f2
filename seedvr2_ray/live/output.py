"""Restored pictures and sound into one stream that goes out as it comes into being."""

import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Protocol

import av
from av.video.frame import PictureType

from seedvr2_ray.errors import DeploymentError, SettingsError, TargetError
from seedvr2_ray.frames import Frames
from seedvr2_ray.live.hls import HlsFolder
from seedvr2_ray.live.pictures import KEY_FRAME_SECONDS, TICK
from seedvr2_ray.live.sound import COPIED, CodedSound, CopiedSound
from seedvr2_ray.live.source import Sound, SoundFormat
from seedvr2_ray.media.output.encode import FrameConverter
from seedvr2_ray.media.output.encoders import configure_encoder
from seedvr2_ray.media.output.master import MasterFormat
from seedvr2_ray.storage.location import printable

Kind = Literal["mpegts", "mp4", "browser", "hls"]
FRAGMENT_SECONDS = 0.25
_AHEAD = Fraction(5)
"""Seconds that sound may be ahead of the pictures before it goes out without them."""
_MEASURED_FRAMES = 8
_SENT_AS_TS = ("udp", "srt", "tcp", "rtp")


class Bytes(Protocol):
    """Where a muxer's bytes go."""

    def write(self, data: bytes, /) -> int:
        """Take bytes."""

    def close(self) -> None:
        """No more come."""


@dataclass(frozen=True, slots=True)
class OutputAddress:
    """An ``OUTPUT`` as somebody wrote it, understood."""

    text: str
    kind: Kind


def parse_output(text: str, kind: Literal["auto", "mpegts", "mp4", "hls"] = "auto") -> OutputAddress:
    """Understand where a stream goes, and in which form.

    Raises:
        SettingsError: nobody knows such an output, or it cannot have this form.
        TargetError: it cannot be written.
    """
    scheme, separator, _ = text.partition("://")
    if separator and scheme != "file":
        if scheme not in _SENT_AS_TS or kind not in ("auto", "mpegts"):
            raise SettingsError(
                f"{printable(text)} is no output of a live stream; send MPEG-TS to udp://, srt:// or tcp://, or write "
                "a file (.ts, .mp4), a folder for HLS (folder/), or - for a pipe"
            )
        return OutputAddress(text, "mpegts")
    path = text.removeprefix("file://")
    found: Kind | None = {".ts": "mpegts", ".mp4": "mp4", ".m4s": "mp4"}.get(os.path.splitext(path)[1].lower())  # type: ignore[assignment]
    if path == "-":
        found = "mpegts"
    elif path.endswith(("/", os.sep)) or os.path.isdir(path):
        found = "hls"
    chosen = found if kind == "auto" else kind
    if chosen is None:
        raise SettingsError(
            f"{path} does not say which form the stream is to have; end it with .ts, .mp4 or / (a folder for HLS), "
            "or pass --format"
        )
    if chosen == "hls" and (path == "-" or os.path.isfile(path)):
        raise TargetError(f"{path} is no folder, and HLS is a folder of files; name one")
    return OutputAddress(path, chosen)


def open_bytes_out(address: OutputAddress) -> Bytes | str:
    """Return what a muxer writes to: an object, or an address that libav opens itself.

    Raises:
        TargetError: it cannot be written.
    """
    if "://" in address.text:
        return address.text
    if address.kind == "hls":
        return HlsFolder(address.text, FRAGMENT_SECONDS, KEY_FRAME_SECONDS)
    try:
        if address.text == "-":
            return open(sys.stdout.fileno(), "wb", buffering=0, closefd=False)
        return open(address.text, "wb", buffering=0)
    except OSError as error:
        raise TargetError(f"{address.text} cannot be written ({error.strerror}); choose another OUTPUT") from error


class LiveOutput:
    """Encoder and muxer of one stream. For one thread."""

    def __init__(
        self,
        target: Bytes | str,
        kind: Kind,
        master: MasterFormat,
        sound: SoundFormat | None,
        early: Sequence[Sound] = (),
    ) -> None:
        """Open everything.

        Args:
            target: where bytes go.
            kind: of stream.
            sound: of the source, if it has any.
            early: what has been heard of it by now; goes out with the first pictures.

        Raises:
            TargetError: the address does not take a stream.
            DeploymentError: this installation lacks its protocol.
        """
        self._target = target
        self._container = _open_container(target, kind)
        self._video = self._container.add_stream(master.codec, rate=master.frame_rate, options=dict(master.options))
        assert isinstance(self._video, av.VideoStream)
        context = self._video.codec_context
        configure_encoder(context, master)
        context.time_base = TICK
        context.framerate = master.frame_rate
        self._converter = FrameConverter(master)
        self._sound: CopiedSound | CodedSound | None = None
        if sound is not None:
            copies = sound.codec in COPIED[kind]
            self._sound = (CopiedSound if copies else CodedSound)(self._container, sound, early)
        self._waiting: deque[Sound] = deque(early if sound is not None else ())
        self._pictures_until = Fraction(0)

    def write(self, frames: Frames) -> None:
        """Encode pictures, and let out the sound up to them."""
        for frame in self._converter.convert(frames):
            frame.pict_type = PictureType.NONE
            assert frame.pts is not None
            self._pictures_until = frame.pts * TICK
            self._let_out(self._pictures_until)
            self._mux(self._video.encode(frame))

    def hear(self, sounds: Iterable[Sound]) -> None:
        """Take sound; it goes out in step with the pictures."""
        if self._sound is None:
            return
        self._waiting.extend(sounds)
        # Pictures that do not come must not hold it for ever.
        if self._waiting and self._waiting[-1].at > self._pictures_until + 2 * _AHEAD:
            self._let_out(self._waiting[-1].at - _AHEAD)

    def finish(self) -> None:
        """Write what encoders still hold, and end the stream."""
        try:
            self._mux(self._video.encode(None))
            if self._waiting:
                self._let_out(self._waiting[-1].at)
            if self._sound is not None:
                self._mux(self._sound.flush())
        finally:
            self.close()

    def close(self) -> None:
        """End the stream as it is."""
        try:
            self._container.close()
        finally:
            if not isinstance(self._target, str):
                self._target.close()

    def _let_out(self, until: Fraction) -> None:
        while self._waiting and self._waiting[0].at <= until:
            assert self._sound is not None
            self._mux(self._sound.packets(self._waiting.popleft()))

    def _mux(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            self._container.mux(packet)


def measure_encoding(master: MasterFormat, sample: Frames) -> float:
    """Measure how many frames per second can be encoded, on a restored picture that moves."""
    output = LiveOutput(_Nowhere(), "mpegts", master, None)
    began = 0.0
    for number in range(_MEASURED_FRAMES + 1):
        picture = sample.data_TCHW[:1].roll((2 * number, 3 * number), dims=(2, 3))
        # The first one opens the encoder.
        began = time.perf_counter() if number == 1 else began
        output.write(Frames(picture, (round(number / master.frame_rate / TICK),), TICK))
    ended = time.perf_counter()
    output.close()
    return _MEASURED_FRAMES / max(ended - began, 1e-9)


class _Nowhere:
    def write(self, data: bytes, /) -> int:
        return len(data)

    def close(self) -> None:
        pass


def _open_container(target: Bytes | str, kind: Kind) -> Any:
    options = {"flush_packets": "1", "max_interleave_delta": "500000"}
    if kind != "mpegts":
        options |= {
            # The header waits for the first fragment: some codecs tell their setup with their first packet.
            "movflags": "+empty_moov+delay_moov+default_base_moof+frag_keyframe",
            "frag_duration": str(round(FRAGMENT_SECONDS * 1e6)),
            "video_track_timescale": "90000",
            "use_editlist": "0",
        }
    muxer = "mpegts" if kind == "mpegts" else "mp4"
    try:
        return av.open(target, "w", format=muxer, container_options=options)
    except av.ProtocolNotFoundError as error:
        scheme = str(target).partition("://")[0]
        raise DeploymentError(
            f"PyAV here was built without {scheme}://; write to a pipe (OUTPUT -) and send it with another program"
        ) from error
    except (av.FFmpegError, OSError) as error:
        where = printable(target) if isinstance(target, str) else "the output"
        raise TargetError(f"{where} does not take a stream: {error.strerror}; start its receiver first") from error
