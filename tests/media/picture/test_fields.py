"""Laws of fields: pictures woven of two moments are told from whole ones, whatever the flags say."""

from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from av.filter import Graph

from seedvr2_ray.errors import MediaError
from seedvr2_ray.frames import FrameSpan
from seedvr2_ray.media.container.samples import _judge_fields
from seedvr2_ray.media.picture.fields import FieldCounts, FieldReader
from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.reading.decode import decode_span

WIDTH, HEIGHT = 320, 480
PAPER = np.random.default_rng(7).integers(0, 256, (40, 60), dtype=np.uint8)
SCENE = np.kron(PAPER, np.ones((33, 16), np.uint8)).astype(np.float32)
SCENE = sum(np.roll(SCENE, shift, 1) for shift in range(-4, 5)) / 9


def across(time):
    """A camera that pans."""
    return np.roll(SCENE, -round(6 * time), 1)[:HEIGHT, :WIDTH]


def down(time):
    """Text that rolls, a line per moment."""
    return SCENE[round(time) : round(time) + HEIGHT, :WIDTH]


def still(_):
    return SCENE[:HEIGHT, :WIDTH]


def noisy(time):
    noise = np.random.default_rng(int(10 * time)).normal(0, 6, (HEIGHT, WIDTH))
    return np.clip(across(time) + noise, 0, 255)


def progressive(scene, number):
    return scene(2 * number)


def on_twos(scene, number):
    """Drawn animation: every picture is shown twice."""
    return scene(4 * (number // 2))


def woven(first, scene, number):
    """Two moments in one frame."""
    early, late = scene(2 * number), scene(2 * number + 1)
    picture = early.copy()
    rows = slice(1, None, 2) if first == "top" else slice(0, None, 2)
    picture[rows] = late[rows]
    return picture


def top_first(scene, number):
    return woven("top", scene, number)


def bottom_first(scene, number):
    return woven("bottom", scene, number)


def pulled_down(scene, number):
    """Video at 24 pictures shown at 30: two of five frames are woven of neighbours."""
    group, place = divmod(number, 5)
    upper, lower = ((0, 0), (1, 1), (1, 2), (2, 3), (3, 3))[place]
    picture = scene(2 * (4 * group + upper)).copy()
    picture[1::2] = scene(2 * (4 * group + lower))[1::2]
    return picture


def as_frame(picture_HW):
    planes = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
    planes[:HEIGHT] = np.round(picture_HW)
    return av.VideoFrame.from_ndarray(planes, format="yuv420p")


def seen(weave, scene, count=20):
    reader = FieldReader()
    for number in range(count):
        reader.accept(as_frame(weave(scene, number)))
    return reader.counts


@pytest.mark.parametrize("scene", [across, noisy])
@pytest.mark.parametrize("weave", [top_first, bottom_first])
def test_two_moments_in_a_frame_are_seen_and_which_came_first(weave, scene):
    counts = seen(weave, scene)
    assert counts.verdict == "interlaced"
    assert (counts.top_first > counts.bottom_first) == (weave is top_first)


@pytest.mark.parametrize("scene", [across, down, noisy, still])
@pytest.mark.parametrize("weave", [progressive, on_twos])
def test_whole_pictures_are_not_called_interlaced(weave, scene):
    assert seen(weave, scene).verdict in ("progressive", "unknown")


def test_pictures_that_stand_still_tell_nothing():
    assert seen(top_first, still).verdict == "unknown"
    assert seen(progressive, still).verdict == "unknown"


def test_video_spread_over_fields_is_recognised_by_its_rhythm():
    assert seen(pulled_down, across, 30).verdict == "telecined"


def write(path, weave, *, num_frames, scene=across, codec="ffv1"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(num_frames):
            frame = as_frame(weave(scene, number))
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)


def decoded(media, deinterlace):
    span = FrameSpan(0, tuple(media.frame_pts))
    batches = decode_span(media.path, media.video, span, deinterlace=deinterlace)
    return torch.cat([batch.data_TCHW for batch in batches])


@pytest.mark.slow
@pytest.mark.parametrize(("weave", "first"), [(top_first, "top"), (bottom_first, "bottom")])
def test_a_capture_without_flags_is_refused_or_deinterlaced_in_its_own_order(tmp_path, weave, first):
    media = probe(write(tmp_path / "tape.mkv", weave, num_frames=8))
    assert (media.video.field_order, media.video.first_field) == ("interlaced", first)
    assert ("refused", "interlacing") in {(notice.outcome, notice.subject) for notice in media.preflight}
    with pytest.raises(MediaError, match="--deinterlace bwdif"):
        decoded(media, "refuse")
    merged = decoded(media, "bwdif")
    assert len(merged) == 8
    graph = Graph()
    source = graph.add_buffer(width=WIDTH, height=HEIGHT, format="yuv420p", time_base=Fraction(1, 25))
    parity = "tff" if first == "top" else "bff"
    graph.link_nodes(source, graph.add("bwdif", f"send_frame:{parity}:all"), graph.add("buffersink")).configure()
    expected = []
    for number in range(8):
        frame = as_frame(weave(across, number))
        frame.pts, frame.time_base = number, Fraction(1, 25)
        graph.vpush(frame)
    graph.vpush(None)
    for _ in range(8):
        expected.append(graph.vpull().to_ndarray()[:HEIGHT].astype(np.float32))
    ours = merged[:, 1].float().numpy() * 219 / 255 + 16
    assert np.abs(np.clip(np.stack(expected), 16, 235) - ours).mean() < 1


@pytest.mark.slow
def test_frames_are_taken_as_they_are_for_who_asks_for_it(tmp_path):
    media = probe(write(tmp_path / "tape.mkv", top_first, num_frames=8))
    woven_frames = decoded(media, "off")[:, 1].float()
    assert (woven_frames - decoded(media, "bwdif")[:, 1].float()).abs().mean() > 3


@pytest.mark.slow
def test_an_opening_without_fields_does_not_hide_a_video_of_fields(tmp_path):
    def late(scene, number):
        return (progressive if number < 30 else top_first)(scene, number)

    media = probe(write(tmp_path / "mixed.mkv", late, num_frames=80))
    assert media.video.field_order == "interlaced"


@pytest.mark.slow
def test_a_few_woven_frames_in_a_whole_video_are_told(tmp_path):
    def inserted(scene, number):
        return (top_first if number >= 60 else progressive)(scene, number)

    media = probe(write(tmp_path / "insert.mkv", inserted, num_frames=80))
    assert media.video.field_order == "progressive"
    assert ("kept", "interlacing") in {(notice.outcome, notice.subject) for notice in media.preflight}


@pytest.mark.slow
def test_a_progressive_video_stays_progressive(tmp_path):
    media = probe(write(tmp_path / "film.mkv", progressive, num_frames=60))
    assert (media.video.field_order, media.video.first_field) == ("progressive", "")
    assert "interlacing" not in {notice.subject for notice in media.preflight}


PROGRESSIVE, WOVEN, UNKNOWN = FieldCounts(progressive=15), FieldCounts(top_first=15), FieldCounts()


def look(num_flagged, fields):
    return SimpleNamespace(num_frames=20, num_interlaced=num_flagged, repeated_share=0.0, fields=fields)


def judged(*looks):
    return _judge_fields(list(looks), field_order=0).is_interlaced


def test_flags_in_a_part_of_a_video_count_unless_its_pictures_deny_them():
    whole = [look(0, PROGRESSIVE)] * 4
    assert judged(*whole, look(20, WOVEN))
    assert judged(*whole, look(20, UNKNOWN))
    assert not judged(*whole, look(20, PROGRESSIVE))


def test_flags_throughout_are_believed_whatever_the_pictures_say():
    assert judged(*[look(20, PROGRESSIVE)] * 5)
    assert judged(*[look(20, UNKNOWN)] * 5)
    assert not judged(*[look(0, UNKNOWN)] * 5)
