"""Short streams with sound, and how they are sent. Imports no torch, as senders start in processes of their own.

Not a test module.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np

from tests.media.clips import draw_frame

SIZE = (96, 64)
RATE = 25
SOUND_RATE = 48000
MUXERS = {"mpegts": "mpegts", "fmp4": "mp4", "webm": "webm", "flv": "flv", "rtsp": "rtsp"}
CODECS = dict.fromkeys(MUXERS, ("libx264", "aac")) | {"webm": ("libvpx", "libopus")}


@dataclass
class Sent:
    """Bytes of a muxer, kept."""

    data: bytearray = field(default_factory=bytearray)
    is_closed: bool = False

    def write(self, data: bytes) -> int:
        """Keep them."""
        self.data += data
        return len(data)

    def close(self) -> None:
        """Remember that it ended."""
        self.is_closed = True


def make_stream(
    target: Any,
    num_frames: int,
    *,
    kind: str = "mpegts",
    first: int = 0,
    start: Fraction | float = 0,
    has_sound: bool = True,
    size: tuple[int, int] = SIZE,
    pace: Callable[[float], None] = lambda at: None,
) -> None:
    """Write a stream of numbered pictures, and a click of sound (0.02 s) with every 25th of them.

    Args:
        target: where a muxer may write: a path, an address or an object.
        first: number of the first picture.
        start: seconds on the stream's clock.
        pace: called with the seconds before each frame is sent.
    """
    video_codec, sound_codec = CODECS[kind]
    options = {"flush_packets": "1"}
    if kind == "fmp4":
        options |= {"movflags": "+empty_moov+delay_moov+frag_keyframe+default_base_moof", "frag_duration": "200000"}
    if kind == "webm":
        options |= {"live": "1", "cluster_time_limit": "200"}
    with av.open(target, "w", format=MUXERS[kind], container_options=options) as container:
        video = container.add_stream(
            video_codec,
            rate=RATE,
            options={"tune": "zerolatency", "g": "25", "crf": "18", "bf": "0", "preset": "ultrafast"}
            if video_codec == "libx264"
            else {"deadline": "realtime", "cpu-used": "8", "b": "400k", "g": "25"},
        )
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        sound = container.add_stream(sound_codec, rate=SOUND_RATE, layout="mono") if has_sound else None
        base = Fraction(1, RATE)
        for number in range(num_frames):
            pace(number / RATE)
            rgb = (draw_frame((first + number) % 4096, size) * 255).round().astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = round((Fraction(number, RATE) + Fraction(start)) / base), base
            container.mux(video.encode(frame))
            if sound is not None:
                container.mux(sound.encode(_sound_of(number, first + number, start)))
        container.mux(video.encode(None))
        if sound is not None:
            container.mux(sound.encode(None))


def _sound_of(number: int, counted: int, start: Fraction | float) -> av.AudioFrame:
    per_frame = SOUND_RATE // RATE
    samples = np.zeros((1, per_frame), np.float32)
    if counted % 25 == 0:
        samples[0, : per_frame // 2] = 0.8 * np.sin(np.arange(per_frame // 2) * 0.4)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate, frame.time_base = SOUND_RATE, Fraction(1, SOUND_RATE)
    frame.pts = number * per_frame + round(Fraction(start) * SOUND_RATE)
    return frame


def stream_bytes(num_frames: int, **options: Any) -> bytes:
    """A stream as bytes."""
    sent = Sent()
    make_stream(sent, num_frames, **options)
    return bytes(sent.data)


def noisy_bytes(num_frames: int) -> bytes:
    """A stream of noise, of which much has to be sent however it is coded."""
    sent, noise = Sent(), np.random.default_rng(1)
    width, height = SIZE
    with av.open(sent, "w", format="mpegts") as container:
        video = container.add_stream(
            "libx264", rate=RATE, options={"tune": "zerolatency", "preset": "ultrafast", "crf": "30"}
        )
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        for number in range(num_frames):
            codes = noise.integers(0, 256, (height * 3 // 2, width), np.uint8)
            frame = av.VideoFrame.from_ndarray(codes, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return bytes(sent.data)
