"""What tests of live streams share: a session over a stream, and what came out of it. Not a test module."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from tests.media.clips import read_frame_number


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
        LiveSource(
            opener,
            copies_sound=COPIED[kind].__contains__,
            merges_fields=chosen.deinterlace == "bwdif",
            tell=told.append,
        ),
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
