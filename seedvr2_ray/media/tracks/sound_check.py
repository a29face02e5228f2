"""Whether FLAC sound is what was written: it is copied as it is, so nobody else would ever notice.

Every FLAC frame ends with a CRC-16, and the stream's header may hold the MD5 of all samples (RFC 9639, 9.3
and 8.2). The MD5 of a stream that was cut without being encoded again is that of the whole, and says nothing.
"""

import hashlib
from dataclasses import dataclass

import av
import numpy as np

from seedvr2_ray.media.container.inventory import codec_name
from seedvr2_ray.media.container.source import open_container

_STREAMINFO_BYTES = 34
_MOST_TIMES = 3


@dataclass(frozen=True, slots=True)
class DamagedSound:
    """A stream of sound that is not what was written."""

    stream_index: int
    reason: str
    """Where and by which checksum, for a person."""


@dataclass(frozen=True, slots=True)
class _StreamInfo:
    bits: int
    num_samples: int
    md5: bytes


def damaged_sound(path: str) -> tuple[DamagedSound, ...]:
    """Decode all FLAC streams of a file and say which of them are damaged."""
    with open_container(path) as container:
        indexes = [stream.index for stream in container.streams.audio if codec_name(stream) == "flac"]
    found = ((index, _reason(path, index)) for index in indexes)
    return tuple(DamagedSound(index, reason) for index, reason in found if reason)


def _reason(path: str, index: int) -> str:
    wrong: list[float] = []
    num_samples, digest = 0, hashlib.md5(usedforsecurity=False)
    with open_container(path) as container:
        stream = container.streams[index]
        assert isinstance(stream, av.AudioStream)
        info = _stream_info(stream.codec_context.extradata or b"")
        # Without this libav computes the checksums, prints and goes on.
        stream.codec_context.options = {"err_detect": "crccheck+explode"}
        packets = container.demux(stream)
        last = 0.0
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.FFmpegError):
                break
            if packet.pts is not None and packet.time_base is not None:
                last = float(packet.pts * packet.time_base)
            try:
                frames = packet.decode()
            except av.FFmpegError:
                wrong.append(last)
                continue
            for frame in frames:
                num_samples += frame.samples
                digest.update(_as_coded(frame, info))
    if wrong:
        times = ", ".join(f"{seconds:.1f}" for seconds in wrong[:_MOST_TIMES])
        return f"at {times}{', ...' if len(wrong) > _MOST_TIMES else ''} s, by its FLAC checksums"
    is_whole = info is not None and any(info.md5) and num_samples == info.num_samples
    return "somewhere, by its FLAC MD5" if info is not None and is_whole and digest.digest() != info.md5 else ""


def _stream_info(extradata: bytes) -> _StreamInfo | None:
    """Read what is needed of the header; nothing for depths whose samples libav gives in another form."""
    if extradata[:4] == b"fLaC":
        extradata = extradata[8:]
    if len(extradata) < _STREAMINFO_BYTES:
        return None
    packed = int.from_bytes(extradata[10:18], "big")
    bits = (packed >> 36 & 31) + 1
    return _StreamInfo(bits, packed & (1 << 36) - 1, extradata[18:34]) if bits in (16, 24, 32) else None


def _as_coded(frame: av.AudioFrame, info: _StreamInfo | None) -> bytes:
    """Samples as the MD5 is taken of them: interleaved, lowest byte first."""
    if info is None:
        return b""
    samples = frame.to_ndarray().reshape(-1)
    if info.bits != 24:
        return samples.astype(f"<i{info.bits // 8}", copy=False).tobytes()
    # libav gives 24 bits at the upper end of 32.
    return np.ascontiguousarray(samples.astype("<i4").view(np.uint8).reshape(-1, 4)[:, 1:]).tobytes()
