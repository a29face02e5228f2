"""Laws of tracks nobody knows: they are named and left out, and everything else goes on."""

from pathlib import Path

import av
import pytest

from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.tracks.streams import plan_streams
from tests.media.clips import make_clip
from tests.media.masters import restore_like


def vtt_as_mkvmerge_writes_it(path):
    make_clip(path, num_frames=12, audio_tracks=1, subtitles=("eng",))
    path.write_bytes(path.read_bytes().replace(b"S_TEXT/UTF8", b"S_TEXT/WEBV"))
    return "subtitle"


def sound_of_an_unknown_kind(path):
    make_clip(path, num_frames=12, audio_tracks=1)
    path.write_bytes(path.read_bytes().replace(b"A_FLAC", b"A_QQQQ"))
    return "audio"


def spatial_sound_of_a_phone(path):
    make_clip(path, num_frames=12, audio_tracks=2)
    data = bytearray(path.read_bytes())
    # The first name of the coded kind stands in the first track.
    for name, new in ((b"mp4a", b"apac"), (b"esds", b"dapa")):
        at = data.rfind(name)
        data[at : at + 4] = new
    path.write_bytes(data)
    return "audio"


CASES = [
    ("a.mkv", vtt_as_mkvmerge_writes_it),
    ("a.mkv", sound_of_an_unknown_kind),
    ("a.mp4", spatial_sound_of_a_phone),
]


@pytest.mark.parametrize(("name", "make"), CASES)
def test_a_track_of_unknown_codec_is_named_by_the_probe(tmp_path, name, make):
    kind = make(tmp_path / name)
    media = probe(str(tmp_path / name))
    assert media.video.num_frames == 12
    assert [stream.description for stream in media.streams if stream.codec == "unknown"] == [
        f"{kind} of a codec that is not known here"
    ]


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv", "webm", "avi"])
@pytest.mark.parametrize(("name", "make"), CASES)
def test_a_track_of_unknown_codec_is_left_out_with_a_reason(tmp_path, name, make, container):
    kind = make(tmp_path / name)
    with av.open(str(tmp_path / name)) as source:
        plans, notices = plan_streams(source, container, video_index=0)
    (notice,) = [notice for notice in notices if "its codec is unknown here" in notice.reason]
    assert notice.outcome == "left_out"
    assert notice.subject.startswith(f"{kind} stream")
    assert int(notice.subject.rpartition(" ")[2]) not in {plan.index for plan in plans}


@pytest.mark.parametrize(("name", "make"), CASES)
def test_the_rest_is_joined(tmp_path, name, make):
    make(tmp_path / name)
    target = tmp_path / f"out{Path(name).suffix}"
    _, _, report = restore_like(str(tmp_path / name), str(target))
    assert report.num_frames == 12
    assert any("unknown" in notice.reason for notice in report.left_out)
