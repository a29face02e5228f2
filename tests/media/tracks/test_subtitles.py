"""Text that is not what its container says it is."""

import av
import pytest

from seedvr2_ray.media.tracks.tracks import _from_windows_1252
from tests.media.clips import make_clip
from tests.media.masters import restore_like


@pytest.fixture
def latin(tmp_path):
    """A Matroska file whose text has one letter of Windows-1252, as ``ffmpeg -c copy`` of an old .srt leaves it."""
    clip = make_clip(tmp_path / "in.mkv", num_frames=24, subtitles=("fra",))
    with open(clip.path, "rb") as file:
        data = file.read()
    word = next(line.split()[0] for line in lines(clip.path))
    spoiled = word[:-1] + b"\xe9"
    assert word in data
    with open(clip.path, "wb") as file:
        file.write(data.replace(word, spoiled, 1))
    return clip.path, spoiled


def lines(path):
    with av.open(path) as container:
        return [bytes(packet) for packet in container.demux(container.streams.subtitles[0]) if packet.size]


@pytest.mark.parametrize("target", ["out.mp4", "out.mov"])
def test_a_line_in_the_old_encoding_is_converted_and_said(latin, tmp_path, target):
    source, spoiled = latin
    written = str(tmp_path / target)
    _, _, report = restore_like(source, written)
    assert any(spoiled.decode("cp1252").encode() in line for line in lines(written))
    assert any("Windows-1252" in notice.reason for notice in report.converted)
    assert len([line for line in lines(written) if len(line) > 2]) == len(lines(source))


def test_a_copied_track_stays_as_it_was(latin, tmp_path):
    source, _ = latin
    restore_like(source, str(tmp_path / "out.mkv"))
    assert lines(str(tmp_path / "out.mkv")) == lines(source)


def test_every_code_has_a_letter():
    assert len(_from_windows_1252(bytes(range(256)))) == 256
