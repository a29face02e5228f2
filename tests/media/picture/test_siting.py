"""The law of chroma's place: colours do not move, however often a picture is encoded and decoded."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from seedvr2_ray.frames import Frames, FrameSpan
from seedvr2_ray.media.output.encode import FrameConverter, PartWriter
from seedvr2_ray.media.output.master import plan_master
from seedvr2_ray.media.picture.pixels import PixelReader
from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.reading.decode import decode_span
from seedvr2_ray.settings import RestoreSettings
from tests.media.masters import a_source, a_video

SIZE = 64


def a_blue_spot():
    """One frame with a soft blue spot in the middle of grey, 3 x H x W."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] - (SIZE - 1) / 2
    spot = 90 * np.exp(-(x**2 + y**2) / (2 * 8**2))
    return torch.from_numpy(np.stack([128 - spot / 2, 128 - spot / 2, 128 + spot]).round().astype(np.uint8))


def place_of_spot(picture_CHW):
    """Column and row of the middle of what is blue."""
    red, _, blue = picture_CHW.numpy().astype(np.float64)
    weight = np.clip(blue - red - 4 * np.iinfo(picture_CHW.numpy().dtype).max / 255, 0, None)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    return (weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()


def after_a_generation(picture_CHW, path, settings, target):
    master, _ = plan_master(a_source(), settings, width=SIZE, height=SIZE, target=target)
    with PartWriter(path, master) as writer:
        for frame in FrameConverter(master).convert(Frames(picture_CHW[None], (0,), Fraction(1, 24))):
            writer.write(frame)
    media = probe(path)
    (frames,) = decode_span(path, media.video, FrameSpan(0, tuple(media.frame_pts)))
    return frames.data_TCHW[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "target", "options"),
    [
        ("h264", "out.mp4", {"crf": 1, "preset": "ultrafast"}),
        ("av1", "out.mkv", {"crf": 1, "preset": "12"}),
        ("prores", "out.mov", {}),
        ("ffv1", "out.mkv", {}),
    ],
)
def test_colours_stay_where_they_are_through_generations(codec, target, options, tmp_path):
    picture_CHW = a_blue_spot()
    column, row = place_of_spot(picture_CHW)
    for generation in range(4):
        path = str(tmp_path / f"{generation}.part")
        picture_CHW = after_a_generation(picture_CHW, path, RestoreSettings(codec=codec, **options), target)
    moved_column, moved_row = place_of_spot(picture_CHW)
    # A mistake of a quarter of a chroma sample would be half a pixel every time.
    assert abs(moved_column - column) < 0.2
    assert abs(moved_row - row) < 0.2


def read(frame, codec):
    video = a_video(codec=codec, width=frame.width, height=frame.height)
    picture_CHW = np.empty((3, frame.height, frame.width), np.uint8)
    PixelReader(video, 8).write(frame, picture_CHW)
    return torch.from_numpy(picture_CHW)


def a_frame_with_a_blue_spot(place=None):
    """A frame of which the middle of the spot lies between two chroma samples, whatever place they are said to have."""
    spot = a_blue_spot()[2, ::2, ::2].numpy()
    frame = av.VideoFrame.from_ndarray(
        np.concatenate([np.full(SIZE * SIZE, 128, np.uint8), spot.ravel(), np.full(spot.size, 128, np.uint8)]).reshape(
            SIZE * 3 // 2, SIZE
        ),
        "yuv420p",
    )
    if place is None:
        return frame
    graph = av.filter.Graph()
    source = graph.add_buffer(width=SIZE, height=SIZE, format=frame.format, time_base=Fraction(1))
    graph.link_nodes(source, graph.add("setparams", f"chroma_location={place}"), graph.add("buffersink")).configure()
    graph.vpush(frame)
    return graph.vpull()


def test_a_place_that_is_named_is_believed():
    column, row = place_of_spot(read(a_frame_with_a_blue_spot(), "ffv1"))
    assert place_of_spot(read(a_frame_with_a_blue_spot("left"), "ffv1")) == (column, row)
    higher = place_of_spot(read(a_frame_with_a_blue_spot("topleft"), "ffv1"))
    assert higher == pytest.approx((column, row - 0.5), abs=0.05)


def test_chroma_of_motion_jpeg_is_centred():
    column, row = place_of_spot(read(a_frame_with_a_blue_spot(), "ffv1"))
    further = place_of_spot(read(a_frame_with_a_blue_spot(), "mjpeg"))
    assert further == pytest.approx((column + 0.5, row), abs=0.05)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (7, 3), (18, 2)])
def test_pictures_of_any_size_can_be_asked(size):
    grey = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 90, np.uint8), "rgb24")
    picture_CHW = read(grey.reformat(format="yuv420p"), "ffv1")
    assert (picture_CHW.to(torch.int32) - 90).abs().max() <= 2
