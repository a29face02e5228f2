"""Sources described, parts written and masters read back, for the tests of what is written.

Not a test module: tests take what they need with ``from tests.media.masters import ...``.
"""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.stream import Disposition

from seedvr2_ray.frames import ColourTags, Frames, to_codes
from seedvr2_ray.media.info import MediaInfo, VideoInfo
from seedvr2_ray.media.output.encode import FrameConverter, PartWriter
from seedvr2_ray.media.output.join import JoinReport, join_parts
from seedvr2_ray.media.output.master import MasterFormat, plan_master
from seedvr2_ray.settings import RestoreSettings
from tests.media.clips import draw_frame

HD = ColourTags("bt709", "bt709", "bt709")
SD = ColourTags("smpte170m", "smpte170m", "smpte170m")


def a_video(**changes: Any) -> VideoInfo:
    """Describe an ordinary clip, with whatever a test wants otherwise."""
    ordinary = VideoInfo(
        stream_index=0,
        codec="h264",
        pixel_format="yuv420p",
        width=96,
        height=64,
        sample_aspect=Fraction(1),
        rotation=0,
        mirrored=False,
        bit_depth=8,
        chroma="420",
        has_alpha=False,
        colour=HD,
        guessed_colour=False,
        time_base=Fraction(1, 24),
        frame_rate=Fraction(24),
        is_variable_rate=False,
        num_frames=24,
        field_order="progressive",
    )
    return replace(ordinary, **changes)


def a_source(*, path: str = "in.mp4", kind: Any = "video", pts: Sequence[int] = range(24), **video: Any) -> MediaInfo:
    """Describe a source whose video is :func:`a_video` with changes."""
    return MediaInfo(
        path=path,
        size_bytes=1,
        container="mov,mp4,m4a,3gp,3g2,mj2",
        kind=kind,
        video=a_video(num_frames=len(pts), **video),
        frame_pts=array("q", pts),
        damaged_frames=(),
        streams=(),
        chapters=(),
        metadata={},
        preflight=(),
    )


def describe(path: str, **changes: Any) -> MediaInfo:
    """Describe a file by its packets, as far as joining needs it."""
    with av.open(f"file:{path}", metadata_errors="replace") as container:
        stream = next(s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
        pts = sorted(packet.pts for packet in container.demux(stream) if packet.size and packet.pts is not None)
        facts: dict[str, Any] = {
            "stream_index": stream.index,
            "width": stream.width,
            "height": stream.height,
            "time_base": stream.time_base,
            "frame_rate": stream.guessed_rate,
        }
    return a_source(path=path, pts=pts, **(facts | changes))


def a_master(pixel_format: str = "yuv420p", codec: str = "ffv1", **changes: Any) -> MasterFormat:
    """A master of 96x64 at 24 frames per second, with whatever a test wants otherwise."""
    is_rgb = pixel_format.startswith(("gbr", "bgr"))
    full = is_rgb or pixel_format.startswith("gray")
    ordinary = MasterFormat(
        kind="video",
        container="mkv",
        codec=codec,
        pixel_format=pixel_format,
        options=(),
        width=96,
        height=64,
        sample_aspect=Fraction(1),
        frame_rate=Fraction(24),
        time_base=Fraction(1, 24),
        colour=replace(HD, matrix="rgb" if is_rgb else "bt709", full_range=full),
        source_colour=replace(HD, matrix="rgb", full_range=True),
    )
    return replace(ordinary, **changes)


def pictures(numbers: Sequence[int], master: MasterFormat, *, alpha: bool = False) -> Frames:
    """Draw the numbered test pictures at the master's size and depth."""
    drawn = np.stack([draw_frame(number, (master.width, master.height)) for number in numbers])
    data_TCHW = torch.from_numpy(np.ascontiguousarray(drawn.transpose(0, 3, 1, 2)))
    if alpha:
        ramp_HW = torch.linspace(0, 1, master.width).expand(master.height, -1)
        data_TCHW = torch.cat([data_TCHW, ramp_HW.expand(len(numbers), 1, -1, -1)], dim=1)
    dtype = torch.uint8 if master.working_depth == 8 else torch.uint16
    return Frames(to_codes(data_TCHW, dtype), tuple(range(len(numbers))), Fraction(1, 24))


def write_parts(folder: Path, master: MasterFormat, lengths: Sequence[int]) -> list[str]:
    """Write numbered pictures as parts of the given lengths."""
    converter = FrameConverter(master, num_threads=1)
    paths: list[str] = []
    start = 0
    for index, length in enumerate(lengths):
        paths.append(str(folder / f"{index}.part"))
        with PartWriter(paths[-1], master) as writer:
            for frame in converter.convert(pictures(range(start, start + length), master)):
                writer.write(frame)
        start += length
    return paths


def restore_like(
    source: str, target: str, *, lengths: Sequence[int] | None = None, described: Any = None, **settings: Any
) -> tuple[MasterFormat, list[str], JoinReport]:
    """Plan, write parts and join them, as a restoration of ``source`` would."""
    media = describe(source, **(described or {}))
    if "crf" not in settings and "preset" not in settings and not target.endswith((".avi", ".mov")):
        settings["preset"] = "12" if target.endswith("webm") or settings.get("codec") == "av1" else "ultrafast"
    if settings.get("codec") in ("ffv1", "prores", "prores4444"):
        settings.pop("preset", None)
    master, _ = plan_master(
        media, RestoreSettings(**settings), width=media.video.width, height=media.video.height, target=target
    )
    parts = write_parts(Path(target).parent, master, lengths or split(media.video.num_frames))
    report = join_parts(
        parts, master=master, source_path=source, media=media, frame_pts=media.frame_pts, target_path=target
    )
    return master, parts, report


def split(num_frames: int) -> list[int]:
    """Three uneven parts, one of them a single frame."""
    first = num_frames // 3
    return [first, 1, num_frames - first - 1]


def samples(frame: av.VideoFrame) -> list[np.ndarray[Any, Any]]:
    """Copy a frame's planes without the padding at the ends of rows."""
    planes: list[np.ndarray[Any, Any]] = []
    for plane in frame.planes:
        packed = 4 if frame.format.name in ("bgr0", "bgra", "rgba") else 3 if frame.format.name == "rgb24" else 1
        deep = max(component.bits for component in frame.format.components) > 8
        dtype = np.dtype(np.uint16 if deep else np.uint8)
        rows = np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1)[:, : plane.width * packed].copy()
        planes.append(rows.reshape(plane.height, plane.width, packed)[..., :3] if frame.format.name == "bgr0" else rows)
    return planes


def decoded(path: str, stream: int = 0) -> list[str]:
    """Decode a whole file; return a digest of every picture, in display order."""
    with av.open(path) as container:
        return [digest(frame) for frame in container.decode(container.streams.video[stream])]


def digest(frame: av.VideoFrame) -> str:
    """Identify a picture by its samples."""
    return hashlib.sha256(b"".join(plane.tobytes() for plane in samples(frame))).hexdigest()[:16]


def video_times(path: str) -> list[Fraction]:
    """Return when each picture of a file is shown, in seconds, increasing."""
    with av.open(path) as container:
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
        return sorted(packet.pts * packet.time_base for packet in packets)


def payloads(path: str, kind: str) -> list[list[bytes]]:
    """Return the packets' bytes of every stream of a kind, stream by stream."""
    with av.open(path) as container:
        streams = [stream for stream in container.streams if stream.type == kind]
        found: dict[int, list[bytes]] = {stream.index: [] for stream in streams}
        for packet in container.demux(streams):
            if packet.size:
                found[packet.stream_index].append(bytes(packet))
        return list(found.values())
