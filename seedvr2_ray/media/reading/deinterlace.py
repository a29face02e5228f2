"""Two fields to one frame with libavfilter's bwdif: as many frames out as in, in the same order."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Literal

import av
from av.filter import Graph

from seedvr2_ray.media.reading.seek import Found

_PARITIES: dict[str, Literal["auto", "tff", "bff"]] = {"": "auto", "top": "tff", "bottom": "bff"}


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
        # Frames that carry no field order are taken for top field first, as players do.
        graph = graph or bwdif_graph(item.frame, parity=_PARITIES[first_field], of="all")
        is_wanted.append(not item.is_neighbour)
        frame = item.frame
        # The filter goes by times; what counts here is the order alone.
        frame.pts = len(is_wanted) - 1
        graph.vpush(frame)
        yield from _wanted(graph, is_wanted)
    if graph is not None:
        graph.vpush(None)
        yield from _wanted(graph, is_wanted)


def bwdif_graph(
    frame: av.VideoFrame, *, parity: Literal["auto", "tff", "bff"], of: Literal["all", "interlaced"]
) -> Graph:
    """Build the filter for frames like this one.

    Args:
        parity: which field is first; ``auto`` goes by the frames' own flags.
        of: all frames, or those that are flagged as interlaced; the others stay as they are.
    """
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1))
    bwdif = graph.add("bwdif", f"mode=send_frame:parity={parity}:deint={of}")
    graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()
    return graph


def finished_frames(graph: Graph) -> Iterator[av.VideoFrame]:
    """Yield what the filter has done, in order."""
    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return


def _wanted(graph: Graph, is_wanted: list[bool]) -> Iterator[av.VideoFrame]:
    for frame in finished_frames(graph):
        assert frame.pts is not None
        # bwdif halves the time base so that it could give two frames per frame.
        if is_wanted[frame.pts // 2]:
            yield frame
