"""Which form sound may take in a container: codecs, rates and channel layouts, the truest first."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import av

from seedvr2_ray.media.container.inventory import codec_name
from seedvr2_ray.media.container.source import open_container, path_of
from seedvr2_ray.media.tracks.stream_plan import StreamPlan

_LOSSLESS = frozenset({"flac", "alac", "truehd", "mlp", "wavpack", "tta", "ape", "tak", "shorten", "wmalossless"})
_DEEPER_THAN_24_BITS = frozenset({"s32", "s64", "flt", "dbl"})
_LOSSLESS_ENCODERS: dict[str, tuple[str, ...]] = {
    "mp4": ("alac", "flac"),
    "mov": ("alac", "pcm_s24le"),
    "mkv": ("flac",),
}
_ENCODERS = {"webm": "libopus", "mp4": "aac", "mov": "aac", "avi": "pcm_s16le", "mkv": "flac"}
_TEMPLATE_PACKETS = 8
_FOR_COUNTING = {
    1: "mono",
    2: "stereo",
    3: "2.1",
    4: "4.0",
    5: "5.0",
    6: "5.1",
    7: "6.1",
    8: "7.1",
}
"""What so many channels are where nothing is said: FFmpeg's own default, and every player's."""
_SAME_SPEAKERS = {"5.1(side)": "5.1", "5.1": "5.1(side)", "5.0(side)": "5.0", "5.0": "5.0(side)"}
"""Surround channels are called side or back; what is heard is the same."""


def layout_of(stream: Any) -> str:
    """Name the channels of a sound stream, by their number where the file names none; empty where nothing is usual."""
    layout = stream.codec_context.layout
    if has_named_channels(stream):
        return str(layout.name)
    return _FOR_COUNTING.get(layout.nb_channels, "")


def has_named_channels(stream: Any) -> bool:
    """Whether a file says which speaker each channel is for; AVI, ASF and Matroska often only count them."""
    layout = stream.codec_context.layout
    return layout.nb_channels > 0 and all(channel.name != "NONE" for channel in layout.channels)


@contextmanager
def described_for(output: av.container.OutputContainer, stream: Any) -> Iterator[Any]:
    """Yield what a copied stream is described by: the source's own stream, except for coded sound in AVI.

    AVI and its kin say how many bytes a block of sound has (``block_align``), and AVI's muxer counts by that:
    where it is 1, as beside AC-3 and MP3, every packet would get the time of the first. A stream that
    Matroska described says nothing of the kind. Guarded by test_coded_sound_keeps_its_times_from_avi_to_avi.
    """
    if output.format.name != "avi" or stream.type != "audio" or codec_name(stream).startswith("pcm_"):
        yield stream
        return
    memory = io.BytesIO()
    with open_container(path_of(stream.container)) as again, av.open(memory, "w", format="matroska") as plain:
        original = again.streams[stream.index]
        copy = plain.add_stream_from_template(original, opaque=True)
        for packet in islice(again.demux(original), _TEMPLATE_PACKETS):
            if packet.size:
                packet.stream = copy
                plain.mux(packet)
    memory.seek(0)
    with av.open(memory) as described:
        yield described.streams[0]


def is_lossless(stream: Any) -> bool:
    """Whether the sound is stored without loss."""
    codec = codec_name(stream)
    return codec in _LOSSLESS or codec.startswith("pcm_")


def encodings(stream: Any, container: str) -> Iterator[tuple[StreamPlan, str]]:
    """Yield the ways of encoding a sound stream anew for a container, and what each changes, the truest first.

    Only whoever opens the encoder and the muxer knows which of them are possible.
    """
    source_rate, source_layout = stream.codec_context.sample_rate, layout_of(stream)
    lossless = _LOSSLESS_ENCODERS.get(container, ()) if is_lossless(stream) else ()
    for codec in dict.fromkeys((*lossless, _ENCODERS[container])):
        rate = _nearest_rate(codec, source_rate)
        same = [source_layout, _SAME_SPEAKERS.get(source_layout, "")]
        fewer = [] if codec in lossless else ["stereo", "mono"]
        for layout in dict.fromkeys(name for name in (*same, *fewer) if name):
            changes = []
            if rate != source_rate:
                changes.append(f"at {rate} instead of {source_rate} samples per second")
            if layout not in same:
                changes.append(f"mixed down to {layout}")
            if lossless and codec not in lossless:
                changes.append("which is not lossless any more")
            elif codec in lossless and _is_deep(stream):
                changes.append("with 24 bits")
            plan = StreamPlan(stream.index, "convert", codec, layout, rate)
            yield plan, ", ".join((codec, *changes))


def _is_deep(stream: Any) -> bool:
    sample_format = stream.codec_context.format
    named = codec_name(stream).startswith(("pcm_s24", "flac", "alac", "truehd", "mlp"))
    return sample_format is not None and not named and sample_format.packed.name in _DEEPER_THAN_24_BITS


def _nearest_rate(codec: str, rate: int) -> int:
    """The lowest rate an encoder takes that loses nothing, else its highest."""
    known = av.Codec(codec, "w").audio_rates
    if not known or rate in known:
        return rate
    return min((other for other in known if other >= rate), default=max(known))
