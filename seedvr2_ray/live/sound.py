"""Sound of a live stream: its packets copied, or its samples coded as AAC, in step with the pictures."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from seedvr2_ray.errors import MediaError
from seedvr2_ray.live.source import Sound, SoundFormat, SoundPacket

COPIED: dict[str, frozenset[str]] = {
    "mpegts": frozenset({"aac", "mp2", "mp3", "ac3", "eac3"}),
    "mp4": frozenset({"aac", "mp3", "ac3", "eac3", "opus", "flac"}),
    "browser": frozenset({"aac", "opus", "flac"}),
    "hls": frozenset({"aac", "ac3", "eac3"}),
}
"""Codecs of sound that go into each kind of output as they are; the others become AAC."""
_FREQUENCIES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
"""By AAC's index of sampling frequencies (ISO 14496-3, table 1.18)."""
_AAC_RATE = 48000
_AAC_SAMPLES = 1024
_STEP = Fraction(1, 30)
"""Seconds that samples may be off before silence is put in or samples are left out: a frame of a quick stream."""
_LONGEST_SILENCE = Fraction(10)


class CopiedSound:
    """Packets as they came, stamped anew.

    AAC in MPEG-TS says its setup with every packet (ADTS, ISO 13818-7, 6.2); MP4 wants it once, in the header.
    """

    def __init__(
        self, container: av.container.OutputContainer, source: SoundFormat, early: Sequence[Sound] = ()
    ) -> None:
        self.stream: Any = container.add_stream_from_template(source.template)
        self._kind = source.kind
        self._strips = source.codec == "aac" and not source.setup and container.format.name != "mpegts"
        if self._strips:
            self.stream.codec_context.extradata = _setup_of(source, early)
        self._last = -1

    def packets(self, sound: Sound) -> Iterator[Any]:
        """Yield the packet, if it is later than the one before.

        Raises:
            MediaError: it is of another kind than the first ones were.
        """
        coded = sound.data
        assert isinstance(coded, SoundPacket)
        if coded.format.kind != self._kind:
            raise MediaError("the sound changed its format in mid-stream, and copied sound cannot; start a new stream")
        stamp = round(sound.at / coded.time_base)
        # Sound that starts before the picture, or overlaps with what came before a jump, has no place.
        if stamp < 0 or stamp <= self._last:
            return
        self._last = stamp
        packet = av.Packet(_without_header(coded.data) if self._strips else coded.data)
        packet.time_base, packet.duration = coded.time_base, coded.duration
        packet.pts = packet.dts = stamp
        packet.is_keyframe = True
        packet.stream = self.stream
        yield packet

    def flush(self) -> Iterator[Any]:
        """Nothing is ever held back."""
        yield from ()


class CodedSound:
    """Samples coded as AAC. They are counted, and where the clock says otherwise, silence or a cut makes up for it."""

    def __init__(
        self, container: av.container.OutputContainer, source: SoundFormat, early: Sequence[Sound] = ()
    ) -> None:
        layout = "mono" if source.channels == 1 else "stereo"
        self.stream: Any = container.add_stream("aac", rate=_AAC_RATE, layout=layout)
        self._layout = layout
        self._resampler = av.AudioResampler(format="fltp", layout=layout, rate=_AAC_RATE)
        self._source: tuple[Any, ...] | None = None
        self._waiting: NDArray[np.float32] = np.zeros((1 if layout == "mono" else 2, 0), np.float32)
        self._position = 0
        """Samples that went to the encoder."""

    def packets(self, sound: Sound) -> Iterator[Any]:
        """Yield what the encoder gives for samples."""
        frame = sound.data
        assert isinstance(frame, av.AudioFrame)
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._source:
            self._source = kind
            self._resampler = av.AudioResampler(format="fltp", layout=self._layout, rate=_AAC_RATE)
        frame.pts = None
        pieces = [piece.to_ndarray() for piece in self._resampler.resample(frame)]
        if not pieces:
            return
        samples_CN = np.concatenate(pieces, axis=1).astype(np.float32)
        self._waiting = np.concatenate([self._waiting, self._in_step(samples_CN, sound.at)], axis=1)
        while self._waiting.shape[1] >= _AAC_SAMPLES:
            yield from self._encode(self._waiting[:, :_AAC_SAMPLES])
            self._waiting = self._waiting[:, _AAC_SAMPLES:]

    def flush(self) -> Iterator[Any]:
        """Yield what is left."""
        if self._waiting.shape[1]:
            yield from self._encode(self._waiting)
            self._waiting = self._waiting[:, :0]
        if self._position:
            yield from _not_before_zero(self.stream.encode(None))

    def _in_step(self, samples_CN: NDArray[np.float32], at: Fraction) -> NDArray[np.float32]:
        due = self._position + self._waiting.shape[1]
        ahead = round(at * _AAC_RATE) - due
        if abs(ahead) <= _STEP * _AAC_RATE and due > 0:
            return samples_CN
        if ahead < 0:
            return samples_CN[:, -ahead:]
        silence = np.zeros((len(samples_CN), min(ahead, int(_LONGEST_SILENCE * _AAC_RATE))), np.float32)
        return np.concatenate([silence, samples_CN], axis=1)

    def _encode(self, samples_CN: NDArray[np.float32]) -> Iterator[Any]:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples_CN), format="fltp", layout=self._layout)
        frame.sample_rate = _AAC_RATE
        frame.pts = self._position
        frame.time_base = Fraction(1, _AAC_RATE)
        self._position += samples_CN.shape[1]
        yield from _not_before_zero(self.stream.encode(frame))


def _not_before_zero(packets: Any) -> Iterator[Any]:
    # AAC's first packet only prepares for the second, and lies before the beginning.
    return (packet for packet in packets if packet.pts is None or packet.pts >= 0)


def _setup_of(source: SoundFormat, early: Sequence[Sound]) -> bytes:
    """Return AAC's AudioSpecificConfig: from the first header, else from what the demuxer found out."""
    for sound in early:
        if isinstance(sound.data, SoundPacket) and _has_header(data := sound.data.data):
            object_type = (data[2] >> 6) + 1
            frequency, channels = data[2] >> 2 & 15, (data[2] & 1) << 2 | data[3] >> 6
            return (object_type << 11 | frequency << 7 | channels << 3).to_bytes(2, "big")
    if source.sample_rate not in _FREQUENCIES:
        raise MediaError(f"the sound has {source.sample_rate} samples per second, which AAC has not; send 48000")
    return (2 << 11 | _FREQUENCIES.index(source.sample_rate) << 7 | source.channels << 3).to_bytes(2, "big")


def _without_header(data: bytes) -> bytes:
    return data[7 if data[1] & 1 else 9 :] if _has_header(data) else data


def _has_header(data: bytes) -> bool:
    return len(data) > 7 and data[0] == 0xFF and data[1] & 0xF6 == 0xF0
