"""Interlaced pictures of a stream made progressive as they come: two fields to one frame, a frame later."""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from av.filter import Graph

from seedvr2_ray.media.reading.deinterlace import bwdif_graph, finished_frames

if TYPE_CHECKING:
    from seedvr2_ray.live.source import Picture


class FieldMerger:
    """Sends pictures through libavfilter's bwdif: as many out as in, in their order, at their times.

    Progressive ones among them stay as they are. bwdif looks at a frame before and one after, so each picture leaves
    when the next has come.
    """

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._kind: tuple[int, int, str] | None = None
        self._inside: deque[Picture] = deque()
        self._num_in = 0

    def take(self, picture: "Picture") -> Iterator["Picture"]:
        """Take one in and yield those that are done."""
        frame = picture.frame
        kind = (frame.width, frame.height, frame.format.name)
        if kind != self._kind:
            yield from self.flush()
            self._graph, self._kind = bwdif_graph(frame, parity="auto", of="interlaced"), kind
        assert self._graph is not None
        # The filter goes by times; what counts here is the order alone.
        frame.pts = self._num_in
        self._num_in += 1
        self._inside.append(picture)
        self._graph.vpush(frame)
        yield from self._drain(self._graph)

    def flush(self) -> Iterator["Picture"]:
        """Yield what is still inside: no more come, or none of this kind."""
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._drain(self._graph)
        self._graph = self._kind = None

    def _drain(self, graph: Graph) -> Iterator["Picture"]:
        for merged in finished_frames(graph):
            yield replace(self._inside.popleft(), frame=merged)
