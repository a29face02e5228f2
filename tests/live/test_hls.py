"""Laws of fragments and of the HLS folder."""

import re
from pathlib import Path

import pytest

from seedvr2_ray.live.fragments import FragmentCutter, codecs_of
from seedvr2_ray.live.hls import PLAYLIST, HlsFolder, duration_of
from tests.live.senders import Sent, stream_bytes
from tests.live.streams import bytes_opener, receive, run_session


@pytest.fixture(scope="module")
def fragmented() -> bytes:
    sent = Sent()
    run_session(bytes_opener(stream_bytes(75)), sent, kind="browser")
    return bytes(sent.data)


@pytest.mark.parametrize("step", [1000, 7777, 10**9])
def test_fragments_joined_are_the_stream_however_its_bytes_come(fragmented: bytes, step: int) -> None:
    cutter, found = FragmentCutter(), []
    for start in range(0, len(fragmented), step):
        found += cutter.take(fragmented[start : start + step])
    assert [fragment.kind for fragment in found] == ["init"] + ["media"] * (len(found) - 1)
    assert fragmented.startswith(b"".join(fragment.data for fragment in found))
    assert found[1].starts_with_key_frame and not all(fragment.starts_with_key_frame for fragment in found[1:])
    assert sum(duration_of(fragment.data) for fragment in found[1:]) == pytest.approx(3.0)
    assert all(duration_of(fragment.data) < 0.4 for fragment in found[1:])


def test_a_player_is_told_the_codecs(fragmented: bytes) -> None:
    (init, *_) = FragmentCutter().take(fragmented)
    assert re.fullmatch(r"avc1\.[0-9a-f]{6},mp4a\.40\.2", codecs_of(init.data))


@pytest.mark.slow
def test_every_file_that_the_playlist_names_is_there_and_whole(tmp_path: Path) -> None:
    folder = HlsFolder(str(tmp_path / "hls"), 0.25, 2)
    run_session(bytes_opener(stream_bytes(150)), folder, kind="hls")
    playlist = (tmp_path / "hls" / PLAYLIST).read_text()
    assert playlist.endswith("#EXT-X-ENDLIST\n")
    named = re.findall(r'URI="([^"]+)"|^(segment\S+)$', playlist, re.MULTILINE)
    assert named
    for parts in named:
        assert (tmp_path / "hls" / "".join(parts)).stat().st_size > 0
    segments = re.findall(r"^segment\d+\.m4s$", playlist, re.MULTILINE)
    init = (tmp_path / "hls" / "init.mp4").read_bytes()
    whole = init + b"".join((tmp_path / "hls" / name).read_bytes() for name in segments)
    assert receive(whole).numbers == list(range(150))
    durations = [float(seconds) for seconds in re.findall(r"#EXTINF:([\d.]+)", playlist)]
    assert sum(durations) == pytest.approx(6.0, abs=0.05)
    (target,) = re.findall(r"#EXT-X-TARGETDURATION:(\d+)", playlist)
    assert max(durations) <= int(target)
    part_target = float(re.findall(r"PART-TARGET=([\d.]+)", playlist)[0])
    assert all(float(seconds) <= part_target for seconds in re.findall(r"PART:DURATION=([\d.]+)", playlist))
