"""Clips whose parameter sets change in mid-stream and are not sent again, as on real Blu-rays.

Not a test module: tests take what they need with ``from tests.media.bitstream.in_band import make_changing_clip``.
"""

from fractions import Fraction
from pathlib import Path

import av

from seedvr2_ray.frames import ColourTags
from tests.media.clips import draw_frame, to_pixel_format

NUM_FIRST, NUM_SECOND, GOP = 24, 36, 6
_SET_TYPES = {"h264": (7, 8), "hevc": (32, 33, 34)}
_START = b"\0\0\0\1"


def make_changing_clip(path: Path, codec: str, *, cabac: bool = True, bframes: int = 0) -> None:
    """Write two runs of one encoder as one stream: the second one's sets stand at its beginning only.

    Args:
        path: the ending chooses the container; ``.h264`` or ``.hevc`` for a bare stream.
        codec: ``h264`` or ``hevc``; the runs differ in the chroma offsets of their PPS.
    """
    first, second = (_encode(codec, run, cabac=cabac, bframes=bframes) for run in (0, 1))
    units = [*_units(first), *_without_later_sets(_units(second), codec)]
    bare = path if path.suffix in (".h264", ".hevc") else path.with_suffix(f".{codec}")
    bare.write_bytes(b"".join(_START + unit for unit in units))
    if bare != path:
        _wrap(bare, path)


def _encode(codec: str, run: int, *, cabac: bool, bframes: int) -> bytes:
    encoder = av.CodecContext.create({"h264": "libx264", "hevc": "libx265"}[codec], "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = 96, 64, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 24), Fraction(24)
    encoder.thread_count = 1
    common = f"keyint={GOP}:min-keyint={GOP}:scenecut=0:bframes={bframes}:b-adapt=0:repeat-headers=1:open-gop=0"
    if codec == "h264":
        encoder.options = {
            "x264-params": f"{common}:threads=1:cabac={int(cabac)}:chroma-qp-offset={12 * run}:qp={30 - 4 * run}"
        }
    else:
        encoder.options = {
            "preset": "ultrafast",
            "x265-params": f"{common}:cbqpoffs={8 * run}:crqpoffs={-8 * run}:log-level=none:pools=1:frame-threads=1",
        }
    data = b""
    for number in range((NUM_FIRST, NUM_SECOND)[run]):
        frame = to_pixel_format(draw_frame(number + run * NUM_FIRST, (96, 64), scene=run), "yuv420p", ColourTags())
        frame.pts, frame.time_base = number, Fraction(1, 24)
        data += b"".join(bytes(packet) for packet in encoder.encode(frame))
    return data + b"".join(bytes(packet) for packet in encoder.encode(None))


def _units(data: bytes) -> list[bytes]:
    parts = data.split(b"\0\0\1")[1:]
    return [part.rstrip(b"\0") for part in parts]


def _without_later_sets(units: list[bytes], codec: str) -> list[bytes]:
    kept, seen = [], set()
    for unit in units:
        kind = unit[0] & 31 if codec == "h264" else (unit[0] >> 1) & 63
        if kind in _SET_TYPES[codec]:
            if kind in seen:
                continue
            seen.add(kind)
        kept.append(unit)
    return kept


def _wrap(bare: Path, path: Path) -> None:
    """Copy the packets of a bare stream into a container, at 24 frames per second."""
    with av.open(str(bare), options={"framerate": "24"}) as source, av.open(str(path), "w") as target:
        template = source.streams.video[0]
        # The muxer of MPEG-TS would put the first run's sets, if it knew them, in front of every key frame.
        is_ts = path.suffix == ".ts"
        stream = (
            target.add_mux_stream(template.codec_context.name) if is_ts else target.add_stream_from_template(template)
        )
        stream.time_base = Fraction(1, 24000)
        stamps = _display_order(bare)
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.stream = stream
            packet.time_base = Fraction(1, 24000)
            packet.pts, packet.dts = 1000 * (stamps[number] + 3), 1000 * number
            target.mux(packet)


def _display_order(bare: Path) -> list[int]:
    """Place in display order of every packet, told by the decoder."""
    with av.open(str(bare)) as source:
        decoder = source.streams.video[0].codec_context
        decoder.thread_count = 1
        decoder.copy_opaque = True
        shown = []
        for number, packet in enumerate(source.demux(video=0)):
            packet.opaque = number
            shown += [frame.opaque for frame in packet.decode()]
    places = [0] * len(shown)
    for place, number in enumerate(shown):
        places[number] = place
    return places
