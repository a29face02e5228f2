"""From restored R'G'B' frames to the master's pixel format, and from there to encoded parts."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av.video.frame import PictureType
from numpy.typing import NDArray

from seedvr2_ray.frames import ColourTags, Frames
from seedvr2_ray.media.container.file_url import file_url
from seedvr2_ray.media.output.encoders import BITEXACT, configure_encoder, stamp_rate, tag_frame
from seedvr2_ray.media.output.image_files import ImagePart
from seedvr2_ray.media.output.master import MasterFormat
from seedvr2_ray.media.output.scheduling import scheduling_kept
from seedvr2_ray.media.output.write_errors import remove_file, whole_file_or_none

_GREEN_BLUE_RED = (1, 2, 0, 3)
"""Order of the planes in FFmpeg's planar RGB, as channels of our frames."""

# "area" averages, which for chroma is the classical 1-2-1 filter at MPEG's left position; no sample
# of luma is moved. "bitexact" keeps the result the same on every processor.
_SWS_FLAGS = "area+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"

_X265_DELAY = 2
"""Most places that x265 decodes a picture before it is shown, with a pyramid of B-frames."""


class FrameConverter:
    """Turns restored R'G'B' frames into the master's pixel format: the one rounding on the way out."""

    def __init__(self, master: MasterFormat, *, num_threads: int = 0) -> None:
        self._master = master
        self._num_threads = num_threads
        self._graph: _ScaleGraph | None = None

    def convert(self, frames: Frames) -> Iterator[av.VideoFrame]:
        """Yield one frame in the master's pixel format per frame given, with its timestamp and tags.

        Args:
            frames: the master's size; 8-bit codes are widened for a deep master and deep ones rounded
                for an 8-bit master. Alpha is dropped when the master has none, opaque when the frames have none.
        """
        for codes_CHW, pts in zip(frames.data_TCHW.cpu().numpy(), frames.pts, strict=True):
            frame = self.convert_codes(codes_CHW)
            frame.pts = pts
            frame.time_base = frames.time_base
            yield frame

    def convert_codes(self, codes_CHW: NDArray[Any]) -> av.VideoFrame:
        """Return one frame in the master's pixel format with its tags; see :meth:`convert`."""
        height, width = codes_CHW.shape[1:]
        if (width, height) != (self._master.width, self._master.height):
            raise ValueError(f"frames are {width}x{height}, the master {self._master.width}x{self._master.height}")
        frame = self._in_pixel_format(codes_CHW)
        tag_frame(frame, self._master.colour)
        return frame

    def _in_pixel_format(self, codes_CHW: NDArray[Any]) -> av.VideoFrame:
        alpha = self._master.has_alpha
        if alpha and len(codes_CHW) == 3:
            opaque = np.full_like(codes_CHW[:1], np.iinfo(codes_CHW.dtype).max)
            codes_CHW = np.concatenate([codes_CHW, opaque])
        codes_CHW = codes_CHW[: 4 if alpha else 3]
        if self._master.pixel_format.startswith("gbr"):
            return _planar_rgb(_to_depth(codes_CHW, self._master.bit_depth), self._master.pixel_format)
        deep = self._master.working_depth == 16
        codes_CHW = _to_depth(codes_CHW, 16 if deep else 8)
        if deep:
            codes_CHW = np.concatenate([_swscale_white(codes_CHW[:3]), codes_CHW[3:]])
        source = _planar_rgb(codes_CHW, ("gbrap" if alpha else "gbrp") + ("16le" if deep else ""))
        if self._graph is None:
            self._graph = _ScaleGraph(source, self._master, self._num_threads)
        return self._graph.scale(source)


class _ScaleGraph:
    """FFmpeg's scaler behind its filter graph, the only way to say where chroma samples lie."""

    def __init__(self, source: av.VideoFrame, master: MasterFormat, num_threads: int) -> None:
        graph = av.filter.Graph()
        graph.threads = num_threads or min(4, os.cpu_count() or 1)
        is_rgb = master.colour.matrix == "rgb"
        arguments = {
            "in_range": "full",
            "out_range": "full" if master.colour.full_range else "limited",
            "flags": _SWS_FLAGS,
        }
        if not is_rgb:
            arguments |= {"out_color_matrix": _scaler_matrix(master.colour.matrix), "out_chroma_loc": "left"}
        buffer = graph.add(
            "buffer",
            f"video_size={source.width}x{source.height}:pix_fmt={source.format.name}:time_base=1/25:"
            "colorspace=gbr:range=pc",
        )
        scale = graph.add("scale", ":".join(f"{key}={value}" for key, value in arguments.items()))
        pixels = graph.add("format", f"pix_fmts={master.pixel_format}")
        sink = graph.add("buffersink")
        buffer.link_to(scale)
        scale.link_to(pixels)
        pixels.link_to(sink)
        graph.configure()
        self._graph, self._buffer, self._sink = graph, buffer, sink

    def scale(self, source: av.VideoFrame) -> av.VideoFrame:
        source.pts = 0
        self._buffer.push(source)
        frame = self._sink.pull()
        assert isinstance(frame, av.VideoFrame)
        return frame


class PartWriter:
    """Encodes one finished segment as an independent closed group of pictures, in Matroska.

    All parts of one master have the same parameters, so that :func:`~seedvr2_ray.media.output.join.join_parts`
    can put their packets one after another. A part's own timestamps only count frames at the nominal
    rate: real times are stamped when parts are joined. Encoder threads are fixed by the master's options,
    so that the bytes are the same on every machine. A part of an image master holds finished image files.

    Use as a context manager; when the body fails, no file is left.
    """

    def __init__(self, path: str, master: MasterFormat, *, num_threads: int = 0) -> None:
        self._path = path
        self._num_frames = 0
        with whole_file_or_none(path):
            if master.kind == "video":
                self._sink: _VideoPart | ImagePart = _VideoPart(path, master, num_threads)
            else:
                self._sink = ImagePart(path, master)

    def write(self, frame: av.VideoFrame) -> None:
        """Encode the next frame; it must have the master's pixel format. Its pts is overwritten."""
        # Decoders leave their picture types behind, and encoders would obey them.
        frame.pict_type = PictureType.NONE
        frame.pts = self._num_frames
        self._num_frames += 1
        with whole_file_or_none(self._path):
            self._sink.write(frame)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            # That error is the one to tell; the file goes away in any case.
            with suppress(OSError, ValueError, av.FFmpegError):
                self._sink.abandon()
            remove_file(self._path)
            return
        if self._num_frames == 0:
            raise ValueError(f"no frame was written to {self._path}")
        with whole_file_or_none(self._path):
            self._sink.close()


class _VideoPart:
    """A part that is a stream of packets."""

    def __init__(self, path: str, master: MasterFormat, num_threads: int) -> None:
        self._container = av.open(file_url(path), "w", format="matroska")
        self._container.flags |= BITEXACT
        self._stream = _open_encoder(self._container, master, num_threads)
        self._says_wrong_dts = master.codec == "libx265"
        self._num_packets = 0

    def write(self, frame: av.VideoFrame) -> None:
        frame.time_base = self._stream.codec_context.time_base
        self._mux(self._stream.encode(frame))

    def close(self) -> None:
        self._mux(self._stream.encode(None))
        self._container.close()

    def _mux(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            if self._says_wrong_dts:
                # It learns from its third frame how late it decodes. In a part of one or two frames it reads
                # memory that nobody has written, and now and then the muxer refuses what it finds there.
                packet.dts = self._num_packets - _X265_DELAY
            self._num_packets += 1
            self._container.mux(packet)

    def abandon(self) -> None:
        self._container.close()


def _open_encoder(container: av.container.OutputContainer, master: MasterFormat, num_threads: int) -> av.VideoStream:
    if master.codec == "libsvtav1":
        # The library prints its settings to the terminal unless its environment says not to.
        os.environ.setdefault("SVT_LOG", "1")
    rate = stamp_rate(master)
    stream = container.add_stream(master.codec, rate=rate, options=dict(master.options))
    assert isinstance(stream, av.VideoStream)
    context = stream.codec_context
    configure_encoder(context, master)
    context.time_base = 1 / rate
    context.framerate = rate
    if num_threads and "threads" not in dict(master.options):
        context.thread_count = num_threads
    with scheduling_kept():
        context.open()
    return stream


def _planar_rgb(codes_CHW: NDArray[Any], pixel_format: str) -> av.VideoFrame:
    frame = av.VideoFrame(codes_CHW.shape[2], codes_CHW.shape[1], pixel_format)
    for plane, channel in zip(frame.planes, _GREEN_BLUE_RED[: len(codes_CHW)], strict=True):
        rows = np.frombuffer(memoryview(plane), dtype=codes_CHW.dtype).reshape(plane.height, -1)
        rows[:, : plane.width] = codes_CHW[channel]
    tag_frame(frame, ColourTags(matrix="rgb", full_range=True))
    return frame


def _to_depth(codes_CHW: NDArray[Any], bits: int) -> NDArray[Any]:
    """Round codes that span their type to ``bits`` bits, held in the smallest type."""
    source_peak, peak = int(np.iinfo(codes_CHW.dtype).max), (1 << bits) - 1
    if source_peak == peak:
        return codes_CHW
    wide: NDArray[np.uint32] = (codes_CHW.astype(np.uint32) * peak + source_peak // 2) // source_peak
    return wide.astype(np.uint8 if bits == 8 else np.uint16)


def _swscale_white(codes_CHW: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Scale 0..65535 to 0..65280, which is what swscale's 16-bit R'G'B' input takes for white.

    It applies 8-bit coefficients to codes shifted by eight, so that 65535 would come out 1/255 too
    bright. Guarded by test_encode's comparison with exact arithmetic.
    """
    return codes_CHW - (codes_CHW >> np.uint16(8))


def _scaler_matrix(matrix: str) -> str:
    """The scaler's names of matrices; it has one BT.601 for both line counts and calls BT.2020 by its number."""
    return {"bt470bg": "smpte170m", "bt2020nc": "bt2020"}.get(matrix, matrix)
