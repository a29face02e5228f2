"""Writing a stream's first packets to memory, to learn whether a container takes it before anything depends on it."""

from __future__ import annotations  # av.Packet is generic for type checkers only

import io
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

from seedvr2_ray.media.codecs import MUXERS
from seedvr2_ray.media.container.source import open_container, path_of
from seedvr2_ray.media.tracks.stream_plan import StreamPlan
from seedvr2_ray.media.tracks.tracks import head_packets, open_track


@dataclass(frozen=True, slots=True)
class _Sample:
    """A packet apart from its file, so that it can be written more than once."""

    data: bytes
    pts: int | None
    dts: int | None
    duration: int
    time_base: Fraction
    is_keyframe: bool

    def packet(self) -> av.Packet[Any]:
        packet: av.Packet[Any] = av.Packet(self.data)
        packet.pts, packet.dts, packet.time_base = self.pts, self.dts, self.time_base
        packet.duration = self.duration
        packet.is_keyframe = self.is_keyframe
        return packet


class Trials:
    """Asks muxers and encoders of one container about the streams of one source."""

    def __init__(self, source: av.container.InputContainer, container: str) -> None:
        self._path = path_of(source)
        self._source = source
        self._muxer = MUXERS[container]
        self._heads: dict[int, list[_Sample]] | None = None

    def can_write(self, plan: StreamPlan) -> bool:
        """Whether a stream can be written as planned: header, first packets and trailer."""
        if plan.action != "convert":
            return self._write(self._source.streams[plan.index], plan)
        # Its decoder is used up by this, so it is not the source's own.
        with open_container(self._path) as again:
            return self._write(again.streams[plan.index], plan)

    def _write(self, stream: Any, plan: StreamPlan) -> bool:
        trial = av.open(io.BytesIO(), "w", format=self._muxer)
        try:
            track = open_track(trial, stream, plan)
            trial.start_encoding()
            if track is not None:
                for sample in self._head(plan.index):
                    for packet in track.accept(sample.packet()):
                        trial.mux(packet)
                for packet in track.finish():
                    trial.mux(packet)
            trial.close()
        except (ValueError, OSError, av.FFmpegError):
            with suppress(ValueError, OSError, av.FFmpegError):
                trial.close()
            return False
        return True

    def _head(self, index: int) -> list[_Sample]:
        if self._heads is None:
            self._heads = {}
            with open_container(self._path) as again, suppress(OSError, av.FFmpegError):
                indices = [stream.index for stream in again.streams if stream.type in ("audio", "subtitle", "data")]
                for packet in head_packets(again, indices):
                    sample = _Sample(
                        bytes(packet),
                        packet.pts,
                        packet.dts,
                        packet.duration or 0,
                        Fraction(packet.time_base),
                        packet.is_keyframe,
                    )
                    self._heads.setdefault(packet.stream_index, []).append(sample)
        return self._heads.get(index, [])
