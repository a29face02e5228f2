"""Where chroma samples lie between luma samples, for the many files that do not say.

libav's decoders of H.264, HEVC and MPEG-2 name the place; those of AV1, VP9, ProRes or FFV1 leave it to the
container, which rarely knows. libswscale then takes chroma for centred, a quarter of a chroma sample to the
right of where video has it, and every generation of decoding and encoding moves colours that far.
"""

from fractions import Fraction

import av
from av.filter import Graph
from av.video.reformatter import Interpolation, VideoReformatter

from seedvr2_ray.media.info import VideoInfo

# Bicubic chroma at full resolution and exact rounding. Planar R'G'B' is the only target for which
# libswscale has vector code with these flags; packed targets take four times as long.
EXACT = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND

_CENTRED_CODECS = frozenset(
    {"mjpeg", "mjpegb", "jpeg2000", "webp", "tiff", "h261", "h263", "h263p", "h263i", "flv1", "mpeg1video"}
)
"""Codecs that put chroma between luma samples: libav says so, or it follows from what they descend from."""

_SAMPLE = 16


class LeftSiting:
    """Tells libswscale that chroma lies at the left, as in all MPEG video, where a source of video does not say.

    Does nothing to the numbers, and nothing at all to frames that name a place. Not for several threads at once.
    """

    def __init__(self, video: VideoInfo) -> None:
        self._is_video = video.chroma in ("420", "422", "411") and video.codec not in _CENTRED_CODECS
        self._graph: Graph | None = None
        self._is_decided = False

    def applied(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Return the frame, or another one of the same samples that says where its chroma lies."""
        if not self._is_decided:
            self._is_decided = True
            if self._is_video and _is_taken_for_centred(frame):
                self._graph = _graph(frame, "setparams=chroma_location=left")
        if self._graph is None:
            return frame
        self._graph.vpush(frame)
        return self._graph.vpull()


def _is_taken_for_centred(frame: av.VideoFrame) -> bool:
    """Whether colours come out as they do when chroma is said to be centred; no attribute of a frame tells."""
    grey = 128 << (frame.format.components[0].bits - 8)
    width, height = min(_SAMPLE, frame.width), min(_SAMPLE, frame.height)
    ramp = f"crop={width}:{height}:0:0:exact=1,geq=lum={grey}:cb={grey}*(0.5+X/{_SAMPLE}):cr={grey}"
    return _blue(frame, ramp) == _blue(frame, f"{ramp},setparams=chroma_location=center")


def _blue(frame: av.VideoFrame, filters: str) -> bytes:
    graph = _graph(frame, filters)
    graph.vpush(frame)
    graph.vpush(None)
    return bytes(VideoReformatter().reformat(graph.vpull(), format="gbrp", interpolation=EXACT).planes[1])


def _graph(frame: av.VideoFrame, filters: str) -> Graph:
    graph = Graph()
    nodes = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1))]
    for each in filters.split(","):
        nodes.append(graph.add(*each.split("=", 1)))
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    return graph
