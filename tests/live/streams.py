"""What tests of live streams share: short streams with sound, and a session over them. Not a test module."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from seedvr2_ray.live.byte_queue import ByteQueue
from seedvr2_ray.live.endless import make_endless
from seedvr2_ray.live.inputs import AddressOpener, open_bytes, parse_input
from seedvr2_ray.live.output import Kind
from seedvr2_ray.live.session import LiveOutcome, LiveRules, LiveSession
from seedvr2_ray.live.sound import COPIED
from seedvr2_ray.live.source import LiveSource
from seedvr2_ray.models.weights.catalogue import find_entry
from seedvr2_ray.restoration.lanczos import LanczosRestorer
from seedvr2_ray.restoration.restorer import Restorer
from seedvr2_ray.settings import RestoreSettings
from tests.media.clips import draw_frame, read_frame_number

SIZE = (96, 64)
RATE = 25
SOUND_RATE = 48000
MUXERS = {"mpegts": "mpegts", "fmp4": "mp4", "webm": "webm"}
CODECS = {"mpegts": ("libx264", "aac"), "fmp4": ("libx264", "aac"), "webm": ("libvpx", "libopus")}


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


@dataclass(frozen=True)
class Received:
    """What a stream that came out holds."""

    numbers: list[int]
    times: list[float]
    """Of the pictures, in seconds."""
    clicks: list[float]
    """When the sound clicked."""
    size: tuple[int, int]


def receive(data: Any) -> Received:
    """Decode a stream: a path, or bytes."""
    import io

    numbers, times, clicks, size, quiet_until = [], [], [], (0, 0), -1.0
    with av.open(io.BytesIO(data) if isinstance(data, bytes | bytearray) else data) as container:
        for frame in _frames(container):
            if isinstance(frame, av.VideoFrame):
                numbers.append(read_frame_number(frame.to_ndarray(format="rgb24").transpose(2, 0, 1)))
                times.append(float(frame.pts * frame.time_base))
                size = frame.width, frame.height
            else:
                level = np.abs(frame.to_ndarray().astype(np.float32)).reshape(-1)
                peak = 0.2 if frame.format.name.startswith("flt") else 0.2 * np.iinfo(np.int16).max
                for place in np.flatnonzero(level > peak):
                    at = float(frame.pts * frame.time_base) + place / frame.sample_rate
                    if at > quiet_until:
                        clicks.append(at)
                    quiet_until = at + 0.2
    return Received(numbers, times, clicks, size)


def _frames(container: Any) -> Iterator[Any]:
    for packet in container.demux(video=0, **({"audio": 0} if container.streams.audio else {})):
        yield from packet.decode()


def run_session(
    opener: Any,
    target: Any,
    *,
    kind: Kind = "mpegts",
    restorer: Restorer | None = None,
    model: str = "lanczos",
    rules: LiveRules | None = None,
    events: list[Any] | None = None,
    **settings: Any,
) -> LiveOutcome:
    """Run a session to its end."""
    return make_session(
        opener, target, kind=kind, restorer=restorer, model=model, rules=rules, events=events, **settings
    ).run()


def make_session(
    opener: Any,
    target: Any,
    *,
    kind: Kind = "mpegts",
    restorer: Restorer | None = None,
    model: str = "lanczos",
    rules: LiveRules | None = None,
    events: list[Any] | None = None,
    **settings: Any,
) -> LiveSession:
    """Put a session together, by default with the filter and without measuring."""
    told: list[Any] = [] if events is None else events
    chosen = RestoreSettings(model=model, **{"resolution": "x2", "preset": "ultrafast", **settings})
    return LiveSession(
        LiveSource(opener, copies_sound=COPIED[kind].__contains__, tell=told.append),
        make_endless(restorer or LanczosRestorer(), find_entry(model), chosen),
        lambda: target,
        kind,
        rules or LiveRules(policy="slow", measures=False),
        told.append,
    )


def file_opener(path: Path | str) -> AddressOpener:
    """Opens a file once."""
    return AddressOpener(parse_input(str(path)))


def bytes_opener(*parts: bytes) -> Callable[[], Any]:
    """Opens one part after another, each as a connection of its own."""
    queues = []
    for part in parts:
        queue = ByteQueue(1 << 30)
        queue.write(part)
        queue.close()
        queues.append(queue)
    waiting = iter(queues)
    return lambda: None if (queue := next(waiting, None)) is None else open_bytes(queue)
