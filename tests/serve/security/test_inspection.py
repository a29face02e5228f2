"""Laws of looking at files nobody has vouched for: one sentence each, and the caller lives."""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedvr2_ray.errors import DamagedMediaError, DeploymentError, MediaError
from seedvr2_ray.frames import FrameSpan
from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.reading.decode import decode_span
from seedvr2_ray.serve.config import Limits
from seedvr2_ray.serve.security.confinement import allow_only_reading, forbid_network_and_programs
from seedvr2_ray.serve.security.inspection import Inspector, _read_answer
from tests.media.stills.still_samples import CLOSE, EXACT
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

DEMO = Path(__file__).parents[3] / "examples" / "demo.mp4"
LIMITS = Limits()


@pytest.fixture(scope="module")
def inspector() -> Iterator[Inspector]:
    """One whose reader misbehaves when a file's name asks for it; started with a secret in the environment."""
    inspector = Inspector(reader="tests.serve.hostile_readers:misbehave")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEEDVR2_JWT_KEY", "secret")
        inspector.start()
    yield inspector
    inspector.close()


def test_a_file_is_described_as_by_probing_it_directly(inspector: Inspector, tmp_path: Path) -> None:
    video = tmp_path / "tag 10:30 %d äö.mp4"
    shutil.copy(DEMO, video)
    assert inspector.inspect(video, LIMITS) == probe(str(video))
    picture = tmp_path / "still.png"
    picture.write_bytes(_png(32, 16))
    assert inspector.inspect(picture, LIMITS) == probe(str(picture))


@pytest.mark.parametrize("kind", ["heic", "avif", "jpeg xl of 16 bits", "jpeg 2000", "tiff jpeg", "tiff lzma", "webp"])
def test_a_still_of_any_kind_is_read_without_any_rights(inspector: Inspector, tmp_path: Path, kind: str) -> None:
    picture = tmp_path / "picture"
    picture.write_bytes({**EXACT, **CLOSE}[kind][0]())
    assert inspector.inspect(picture, LIMITS) == probe(str(picture))


@pytest.mark.parametrize("name", ["sleep", "spin", "hang"])
def test_a_file_that_hangs_its_reader_is_refused_in_time(inspector: Inspector, tmp_path: Path, name: str) -> None:
    video = tmp_path / f"{name}.mp4"
    shutil.copy(DEMO, video)
    with pytest.raises(MediaError, match=f"{name}.mp4 takes longer than 0.3 s to look at, the limit here; cut it"):
        inspector.inspect(video, Limits(probe_seconds=0.3))  # It would take an hour, or for ever.


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("crash", "crash.mp4 crashed its reader; the file is damaged or hostile"),
        ("abort", "abort.mp4 crashed its reader"),
        ("exit", "exit.mp4 crashed its reader"),
        ("raise", "raise.mp4 crashed its reader"),
        ("eat", "eat.mp4 needs more than 2048 MiB to look at, the limit here"),
    ],
)
def test_a_file_that_breaks_its_reader_is_refused_and_the_next_is_read(
    inspector: Inspector, tmp_path: Path, name: str, reason: str
) -> None:
    video = tmp_path / f"{name}.mp4"
    shutil.copy(DEMO, video)
    with pytest.raises(MediaError, match=reason):
        inspector.inspect(video, LIMITS)
    assert inspector.inspect(DEMO, LIMITS).kind == "video"


def test_a_reader_that_was_taken_over_reaches_nothing_but_its_file(inspector: Inspector, tmp_path: Path) -> None:
    if not _kernel_confines():
        pytest.skip("this kernel offers no seccomp or no Landlock")
    (tmp_path / "break_out.bin").write_bytes(b"content")
    (tmp_path / "neighbour.txt").write_text("another owner's")
    with pytest.raises(MediaError, match=r"^worked: \[\]$"):
        inspector.inspect(tmp_path / "break_out.bin", LIMITS)
    assert (tmp_path / "break_out.bin").read_bytes() == b"content"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["break_out.bin", "neighbour.txt"]


def test_several_files_are_looked_at_side_by_side(inspector: Inspector, tmp_path: Path) -> None:
    slow = tmp_path / "sleep.mp4"
    shutil.copy(DEMO, slow)

    def look(path: Path) -> str:
        try:
            return inspector.inspect(path, Limits(probe_seconds=600)).kind
        except MediaError:
            return "refused"

    with ThreadPoolExecutor(4) as threads:
        late = threads.submit(look, slow)
        others = [future.result() for future in [threads.submit(look, DEMO) for _ in range(6)]]
        assert not late.done()
        assert inspector._server is not None
        (reader,) = _children(inspector._server.pid)
        os.kill(reader, signal.SIGKILL)
        assert (others, late.result()) == (["video"] * 6, "refused")


def test_a_server_that_was_killed_is_replaced(inspector: Inspector, tmp_path: Path) -> None:
    slow = tmp_path / "sleep.mp4"
    shutil.copy(DEMO, slow)
    inspector.start()
    server = inspector._server
    assert server is not None
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(inspector.inspect, slow, Limits(probe_seconds=600))
        wait_for(lambda: len(_children(server.pid)) == 1, "a reader")
        os.kill(server.pid, signal.SIGKILL)
        # Asked again of the second server, which lives.
        wait_for(
            lambda: inspector._server not in (None, server) and len(_children(inspector._server.pid)) == 1,
            "another server and its reader",
        )
        os.kill(_children(inspector._server.pid)[0], signal.SIGKILL)
        with pytest.raises(MediaError, match="crashed its reader"):
            asked.result()
    assert inspector.inspect(DEMO, LIMITS).kind == "video"


def test_a_reader_whose_server_was_killed_as_it_was_forked_ends_too() -> None:
    """It held the line to whoever asked until the time for the file was over, and would have stayed for good."""
    program = (
        "import os, signal, time\n"
        "from seedvr2_ray.serve.security.confinement import end_with_parent\n"
        "server = os.fork()\n"
        "if not server:\n"
        "    server = os.getpid()\n"
        "    if not os.fork():\n"
        "        while os.getppid() == server:\n"
        "            time.sleep(0.01)\n"
        "        end_with_parent(signal.SIGKILL, server)\n"
        "        print('lives', flush=True)\n"
        "    os._exit(0)\n"
        "os.waitpid(server, 0)\n"
    )
    assert subprocess.check_output([sys.executable, "-c", program], timeout=240) == b""


def test_nothing_stays_behind_when_the_caller_is_killed(tmp_path: Path) -> None:
    slow = tmp_path / "sleep.mp4"
    shutil.copy(DEMO, slow)
    program = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from seedvr2_ray.serve.config import Limits\n"
        "from seedvr2_ray.serve.security.inspection import Inspector\n"
        "inspector = Inspector(reader='tests.serve.hostile_readers:misbehave')\n"
        "inspector.start()\n"
        "print(inspector._server.pid, flush=True)\n"
        "inspector.inspect(Path(sys.argv[1]), Limits(probe_seconds=600))\n"
    )
    caller = subprocess.Popen([sys.executable, "-c", program, slow], stdout=subprocess.PIPE, text=True)
    with caller:
        assert caller.stdout is not None
        server = int(caller.stdout.readline())
        wait_for(lambda: len(_children(server)) == 1, "a reader")
        child = _children(server)[0]
        caller.kill()
    wait_for(lambda: not _lives(server) and not _lives(child), "the end of both")


def test_an_inspector_that_cannot_load_its_parsers_says_so() -> None:
    with pytest.raises(DeploymentError, match="does not start"):
        Inspector(reader="seedvr2_ray.no_such_module:probe").start()


# What files must not be able to do with a reader that works as it should.


def test_a_picture_that_only_claims_to_be_huge_is_refused_by_its_header(inspector: Inspector, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(_png(60_000, 60_000, rows=1))
    with pytest.raises(MediaError, match=r"bomb.png is 60000x60000 and the limit here is"):
        inspector.inspect(bomb, LIMITS)


def test_frames_and_pixels_are_limited_by_the_deployment(inspector: Inspector) -> None:
    with pytest.raises(MediaError, match="limit here is 16384x16384 with 1000 pixels"):
        inspector.inspect(DEMO, Limits(max_pixels=1000))
    with pytest.raises(MediaError, match="frames"):
        inspector.inspect(DEMO, Limits(max_frames=3))


def test_messages_show_a_files_name_and_not_where_the_service_keeps_it(inspector: Inspector, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(DEMO.read_bytes()[: DEMO.stat().st_size // 2])
    text = tmp_path / "text.mp4"
    text.write_text("This is no video.")
    for path in (cut, text, tmp_path / "missing.mp4"):
        with pytest.raises(MediaError) as refused:
            inspector.inspect(path, LIMITS)
        assert str(refused.value).startswith(path.name)
        assert str(tmp_path) not in str(refused.value)


def test_a_damaged_file_is_described_when_asked(inspector: Inspector, tmp_path: Path) -> None:
    source = tmp_path / "cut.mkv"
    with av.open(str(DEMO)) as video, av.open(str(source), "w") as target:
        pictures = video.streams.video[0]
        copied = target.add_stream_from_template(pictures)
        for packet in video.demux(pictures):
            if packet.size:
                packet.stream = copied
                target.mux(packet)
    os.truncate(source, source.stat().st_size // 2)
    with pytest.raises(DamagedMediaError, match="cut.mkv is damaged"):
        inspector.inspect(source, LIMITS)
    assert inspector.inspect(source, LIMITS, salvage=True) == probe(str(source), salvage=True)


POINTING_ELSEWHERE = {
    "list.m3u8": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{other}\n#EXT-X-ENDLIST\n",
    "list.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:{port}/x.ts\n#EXT-X-ENDLIST\n",
    "concat.mp4": "ffconcat version 1.0\nfile '{other}'\n",
    "concat.txt": "ffconcat version 1.0\nfile '{other}'\nfile 'http://127.0.0.1:{port}/x.mp4'\n",
    "manifest.mpd": (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" profiles="x">'
        '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
        "<BaseURL>{other}</BaseURL></Representation></AdaptationSet></Period></MPD>"
    ),
    "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n",
    "picture.svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="file://{other}"/></svg>',
    "list.asx": '<asx version="3.0"><entry><ref href="http://127.0.0.1:{port}/x"/></entry></asx>',
    "meta.mp4": ";FFMETADATA1\ntitle=x\n",
    "frame%03d.png": "{other}",
}


@pytest.mark.parametrize("name", POINTING_ELSEWHERE)
def test_a_file_that_points_at_other_files_or_addresses_is_no_media(
    inspector: Inspector, tmp_path: Path, name: str
) -> None:
    other = tmp_path / "another_owners.mp4"
    shutil.copy(DEMO, other)
    (tmp_path / "frame001.png").write_bytes(_png(16, 16))
    with _Listener() as listener:
        hostile = tmp_path / name
        hostile.write_text(POINTING_ELSEWHERE[name].format(other=other, port=listener.port))
        with pytest.raises(MediaError, match="holds text, not a video"):
            inspector.inspect(hostile, LIMITS)
        # The same law without any confinement: later stages open files in processes of their own.
        with pytest.raises(MediaError, match="holds text, not a video"):
            probe(str(hostile))
        assert not listener.was_asked()


@pytest.mark.parametrize("name", ["subfile,,start,0,end,0,,:{}", "concat:{}", "crypto:{}", "async:{}", "data:{}"])
def test_a_protocol_in_a_files_name_is_part_of_the_name(inspector: Inspector, tmp_path: Path, name: str) -> None:
    other = tmp_path / "other.mp4"
    shutil.copy(DEMO, other)
    literal = tmp_path / name.format("other.mp4")
    with pytest.raises(MediaError, match="does not exist"):
        inspector.inspect(literal, LIMITS)
    with pytest.raises(MediaError, match="does not exist"):
        probe(name.format(other))
    literal.write_bytes(_png(8, 8))
    assert inspector.inspect(literal, LIMITS).video.width == 8


def test_frames_are_decoded_from_the_file_alone_too(tmp_path: Path) -> None:
    media = probe(str(DEMO))
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{DEMO}\n#EXT-X-ENDLIST\n")
    with pytest.raises(MediaError, match="holds text"):
        list(decode_span(str(playlist), media.video, FrameSpan(0, tuple(media.frame_pts[:2]))))


_VALUES = st.recursive(st.none() | st.text() | st.integers(), st.lists)
_ANSWERS = _VALUES | st.dictionaries(st.sampled_from(["error", "message", "video", "frame_pts"]), _VALUES)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300) | _ANSWERS.map(lambda value: json.dumps(value).encode()))
def test_whatever_a_taken_over_reader_answers_is_one_refusal(said: bytes) -> None:
    ended = json.dumps({"signal": 0, "is_late": False}).encode()
    with pytest.raises(MediaError, match="film.mp4"):
        _read_answer(said + b"\n" + ended + b"\n", Path("film.mp4"), LIMITS)


def _png(width: int, height: int, *, rows: int | None = None) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((1 + width) * (height if rows is None else rows)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


class _Listener:
    """An address of this machine that notices whether anybody asks it for something."""

    def __enter__(self) -> "_Listener":
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.port = self._socket.getsockname()[1]
        return self

    def was_asked(self) -> bool:
        try:
            self._socket.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def _kernel_confines() -> bool:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if allow_only_reading([]) and forbid_network_and_programs() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
