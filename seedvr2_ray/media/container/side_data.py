"""What travels with a decoded frame beside its picture, asked for without PyAV's own list of it.

``frame.side_data`` of PyAV 18.1 gives an entry and its dictionary to two owners that both free it. An entry
with a name inside, as an ICC profile or EXIF has, thereby spoils the heap, and this file or the next one ends
the process. libav's own filters answer instead, and the list is only read of frames that were cleared of
everything that may have a dictionary. Guarded by test_side_data.
"""

import struct
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av
from av.filter import Graph

_DISPLAY_MATRIX = 6
"""FFmpeg's AV_FRAME_DATA_DISPLAYMATRIX."""
_MOST_KINDS = 64
"""More than FFmpeg has kinds of side data; the filter takes numbers that mean nothing."""


class SideDataFinder:
    """Says which of some kinds of side data frames carry; not for use by several threads at once."""

    def __init__(self, kinds: Iterable[str]) -> None:
        """Name the kinds to look for.

        Args:
            kinds: as FFmpeg's filter ``sidedata`` calls them: ``A53_CC``, ``MASTERING_DISPLAY_METADATA`` ...
        """
        self._kinds = tuple(kinds)
        self._shape: tuple[int, int, str] | None = None
        self._graphs: dict[str, Graph] = {}

    def kinds_on(self, frame: av.VideoFrame) -> set[str]:
        """Return the kinds that a frame carries."""
        shape = (frame.width, frame.height, frame.format.name)
        if shape != self._shape:
            self._shape = shape
            self._graphs = {kind: _graph(frame, [f"mode=select:type={kind}"]) for kind in self._kinds}
        return {kind for kind, graph in self._graphs.items() if _through(graph, frame) is not None}


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """Return the nine numbers by which a frame wants to be turned and mirrored, if it says so."""
    others = [f"mode=delete:type={kind}" for kind in range(_MOST_KINDS) if kind != _DISPLAY_MATRIX]
    cleared = _through(_graph(frame, others), frame)
    if cleared is None:
        return None
    entries: Any = cleared.side_data
    matrices = [bytes(entry) for entry in entries]
    return struct.unpack("<9i", matrices[0]) if matrices else None


def _graph(frame: av.VideoFrame, filters: list[str]) -> Graph:
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1))
    between = [graph.add("sidedata", arguments) for arguments in filters]
    graph.link_nodes(source, *between, graph.add("buffersink")).configure()
    return graph


def _through(graph: Graph, frame: av.VideoFrame) -> av.VideoFrame | None:
    graph.vpush(frame)
    try:
        return graph.vpull()
    except (av.BlockingIOError, av.EOFError):
        return None
