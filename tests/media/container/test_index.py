"""Laws of the frame index."""

from fractions import Fraction

import av
import pytest

from seedvr2_ray.errors import MediaError
from seedvr2_ray.frames import FrameSpan
from seedvr2_ray.media.container import index as index_module
from seedvr2_ray.media.container.index import build_index
from seedvr2_ray.media.container.packets import scan_packets
from seedvr2_ray.media.container.source import open_source
from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.reading.decode import decode_span
from tests.media.clips import make_clip, read_frame_number
from tests.media.damaged import cut_short, damage

LIMIT = 10_000


def index_of(path, **kwargs):
    return build_index(str(path), 0, max_frames=LIMIT, num_threads=1, **kwargs)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("b.mp4", {"bframes": 2}),
        ("open.mkv", {"bframes": 2, "open_gop": True}),
        ("open.ts", {"codec": "mpeg2", "bframes": 2, "open_gop": True}),
        ("edit.mp4", {"bframes": 2, "start_offset": Fraction(-1, 4)}),
        ("vp9.webm", {"codec": "vp9"}),
    ],
)
def test_listing_packets_and_decoding_everything_agree(tmp_path, name, kwargs):
    path = str(tmp_path / name)
    make_clip(path, **kwargs)
    with open_source(path) as source:
        scan = scan_packets(source, max_frames=LIMIT)
    listed = index_module._checked_listing(path, 0, scan, 1)
    decoded = index_module._decoded_listing(path, 0, scan, 1)
    assert listed is not None
    assert listed == decoded


def test_frames_hidden_by_an_edit_list_are_not_counted(tmp_path):
    make_clip(tmp_path / "edit.mp4", bframes=2, num_frames=24, start_offset=Fraction(-1, 4))
    assert len(index_of(tmp_path / "edit.mp4").pts) == 24 - 6


def test_avi_with_reordered_frames_is_recognised_by_decoding_times(tmp_path):
    make_clip(tmp_path / "b.avi", bframes=2)
    index = index_of(tmp_path / "b.avi")
    assert index.timestamps == "dts"
    assert [late - early for early, late in zip(index.pts, index.pts[1:], strict=False)] == [1] * 23


def test_streams_without_times_are_counted_at_the_nominal_rate(tmp_path):
    make_clip(tmp_path / "bare.h264", bframes=2)
    index = index_of(tmp_path / "bare.h264")
    assert index.timestamps == "counted"
    assert len({late - early for early, late in zip(index.pts, index.pts[1:], strict=False)}) == 1


def test_times_that_a_jump_would_change_are_not_believed(tmp_path):
    make_clip(tmp_path / "tiny.mpg", codec="mpeg2", rate=25)
    assert index_of(tmp_path / "tiny.mpg").timestamps == "counted"


def test_negative_times_that_the_container_drops_are_worked_out(tmp_path):
    make_clip(
        tmp_path / "negative.mkv",
        bframes=2,
        start_offset=Fraction(-1, 4),
        container_options={"avoid_negative_ts": "disabled"},
    )
    index = index_of(tmp_path / "negative.mkv")
    assert len(index.pts) == 24
    assert index.pts[:7].tolist() == [-250, -208, -167, -125, -83, -42, 0]


def test_pictures_before_the_first_key_frame_are_left_out_and_counted(tmp_path):
    make_clip(tmp_path / "whole.ts", bframes=2, num_frames=32)
    data = (tmp_path / "whole.ts").read_bytes()
    whole = index_of(tmp_path / "whole.ts")
    with open_source(str(tmp_path / "whole.ts")) as source:
        scan = scan_packets(source, max_frames=LIMIT)
    # A recording that began after the first key frame; the tables at the head stay.
    (tmp_path / "late.ts").write_bytes(data[: 188 * 3] + data[scan.positions[1] :])
    late = index_of(tmp_path / "late.ts")
    assert late.num_undecodable_at_start == 7
    assert late.pts == whole.pts[8:]


def test_the_end_of_a_cut_file_is_listed_as_lost(tmp_path):
    make_clip(tmp_path / "film.mp4", num_frames=48, container_options={"movflags": "faststart"})
    whole = index_of(tmp_path / "film.mp4")
    cut = index_of(cut_short(tmp_path / "film.mp4", 0.6))
    assert cut.pts == whole.pts
    assert cut.lost[-1][1] == 48
    assert cut.missing_bytes > 0
    assert whole.lost == () and whole.missing_bytes == 0


@pytest.mark.parametrize("name", ["film.mkv", "film.avi"])
def test_a_cut_file_is_extended_to_what_its_header_promises(tmp_path, name):
    make_clip(tmp_path / name, codec="mpeg4", num_frames=48)
    cut = index_of(cut_short(tmp_path / name, 0.6))
    assert 47 <= len(cut.pts) <= 48
    (start, stop), *_ = cut.lost
    assert 10 < start < stop == len(cut.pts)


def test_undecodable_frames_inside_a_short_file_are_listed_as_lost(tmp_path):
    make_clip(tmp_path / "film.mp4", num_frames=24, gop=8, container_options={"movflags": "faststart"})
    hurt = index_of(damage(tmp_path / "film.mp4", 0.5, 120))
    assert len(hurt.pts) == 24
    assert hurt.lost


def test_too_many_frames_are_refused_before_they_are_decoded(tmp_path):
    make_clip(tmp_path / "a.mp4", num_frames=12)
    with pytest.raises(MediaError, match="more than 10 frames"):
        build_index(str(tmp_path / "a.mp4"), 0, max_frames=10)


def test_repaired_times_change_only_where_they_must():
    repair = index_module._strictly_increasing
    assert repair([1, 5, 5, 5, 9]) == [1, 5, 6, 7, 9]
    assert repair([0, 10, 20]) == [0, 10, 20]


def test_missing_times_are_interpolated_exactly():
    fill = index_module._fill
    assert fill([None, 100, None, None, 160, None], Fraction(25)) == [75, 100, 120, 140, 160, 185]
    assert fill([None, None, None], Fraction(125, 3)) == [0, 42, 83]


def test_h264_whose_times_are_those_of_decoding_is_counted_in_the_order_shown(tmp_path):
    make_clip(tmp_path / "a.mkv", num_frames=36, rate=25, bframes=2)
    with av.open(str(tmp_path / "a.mkv")) as source, av.open(str(tmp_path / "xavc.mxf"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.time_base, packet.dts = Fraction(1, 25), number - 2
            packet.pts = round(packet.pts / 40)
            packet.stream = stream
            target.mux(packet)
    media = probe(str(tmp_path / "xavc.mxf"))
    assert (media.video.num_frames, media.damaged_frames) == (36, ())
    assert media.video.timestamps == "counted"
    span = FrameSpan(0, tuple(media.frame_pts))
    shown = [read_frame_number(f) for batch in decode_span(media.path, media.video, span) for f in batch.data_TCHW]
    assert shown == list(range(36))
