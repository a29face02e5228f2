"""Two fields to one frame with libavfilter's bwdif: as many frames out as in, in the same order."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Literal

import av
from av.filter import Graph

from seedvr2_ray.media.reading.seek import Found

_PARITIES = {"": "auto", "top": "tff", "bottom": "bff"}


def deinterlaced(found: Iterator[Found], first_field: Literal["", "top", "bottom"] = "") -> Iterator[av.VideoFrame]:
    """Deinterlace consecutive frames.

    Args:
        first_field: as :attr:`VideoInfo.first_field`; by the frames' own flags when not given.

    bwdif looks at one frame before and one after, so frames marked :attr:`Found.is_neighbour` go
    through the filter and are dropped behind it: a frame comes out the same whichever span it is in.
    """
    graph: Graph | None = None
    is_wanted: list[bool] = []
    for item in found:
        graph = graph or _build_graph(item.frame, first_field)
        is_wanted.append(not item.is_neighbour)
        frame = item.frame
        # The filter goes by times; what counts here is the order alone.
        frame.pts = len(is_wanted) - 1
        graph.vpush(frame)
        yield from _drain(graph, is_wanted)
    if graph is not None:
        graph.vpush(None)
        yield from _drain(graph, is_wanted)


def _build_graph(frame: av.VideoFrame, first_field: Literal["", "top", "bottom"]) -> Graph:
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1))
    # Frames that carry no field order are taken for top field first, as players do.
    bwdif = graph.add("bwdif", f"mode=send_frame:parity={_PARITIES[first_field]}:deint=all")
    graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()
    return graph


def _drain(graph: Graph, is_wanted: list[bool]) -> Iterator[av.VideoFrame]:
    while True:
        try:
            frame = graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
        assert frame.pts is not None
        # bwdif halves the time base so that it could give two frames per frame.
        if is_wanted[frame.pts // 2]:
            yield frame
