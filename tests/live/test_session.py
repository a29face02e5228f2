"""Laws of a stream from end to end, over memory."""

import io
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from seedvr2_ray.errors import CapacityError, MediaError
from seedvr2_ray.frames import ColourTags, Frames
from seedvr2_ray.live.session import LiveRules
from seedvr2_ray.restoration.lanczos import LANCZOS, LanczosRestorer
from seedvr2_ray.restoration.restorer import RestorerIdentity, SegmentTask
from tests.live.restorers import ChunkedRestorer
from tests.live.senders import RATE, SIZE, Sent, make_stream, stream_bytes
from tests.live.streams import bytes_opener, file_opener, make_session, receive, run_session
from tests.media.clips import make_clip
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

FRAME = 1 / RATE
HLG = ColourTags(primaries="bt2020", transfer="arib-std-b67", matrix="bt2020nc")


class GatedRestorer:
    """Waits for a gate before every frame but the first: as slow as a test wants it."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)

    @property
    def identity(self) -> RestorerIdentity:
        return LANCZOS

    def restore(self, frames: Iterable[Frames], task: SegmentTask) -> Iterator[Frames]:
        for batch in LanczosRestorer().restore(frames, task):
            yield batch
            self.gate.acquire()


@pytest.mark.parametrize("kind", ["mpegts", "fmp4", "webm"])
@pytest.mark.parametrize("out", ["mpegts", "mp4", "browser"])
def test_pictures_and_sound_come_out_in_step(kind: str, out: Any) -> None:
    sent = Sent()
    outcome = run_session(bytes_opener(stream_bytes(55, kind=kind)), sent, kind=out)
    found = receive(sent.data)
    assert (outcome.frames_in, outcome.frames_out, outcome.dropped) == (55, 55, 0)
    assert found.numbers == list(range(55))
    assert found.size == (2 * SIZE[0], 2 * SIZE[1])
    assert sent.is_closed
    # The clicks belong to the pictures 0, 25 and 50; the first may lie before the sound's beginning.
    for number in (25, 50):
        shown = found.times[found.numbers.index(number)]
        assert any(abs(click - shown) <= FRAME for click in found.clicks), (shown, found.clicks)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 7, 8, 9, 20, 21, 22, 41, 42, 60])
@pytest.mark.parametrize("model", ["lanczos", "nano"])
def test_a_stream_that_stops_in_mid_chunk_ends_with_every_frame_that_came_in(num_frames: int, model: str) -> None:
    restorer = LanczosRestorer() if model == "lanczos" else ChunkedRestorer()
    sent = Sent()
    data = stream_bytes(num_frames, has_sound=False)
    outcome = run_session(bytes_opener(data), sent, model=model, restorer=restorer)
    assert outcome.frames_out == num_frames
    assert receive(sent.data).numbers == list(range(num_frames))
    if isinstance(restorer, ChunkedRestorer):
        starts = range(0, num_frames, 21)
        assert restorer.segments == [(start, min(21, num_frames - start)) for start in starts]


def test_a_file_becomes_a_stream(tmp_path: Path) -> None:
    path, sent = tmp_path / "in.ts", Sent()
    make_stream(str(path), 10)
    assert run_session(file_opener(path), sent).frames_out == 10
    assert receive(sent.data).numbers == list(range(10))


def test_senders_that_start_anew_become_one_stream_without_a_seam() -> None:
    sent = Sent()
    parts = [stream_bytes(30, first=first, start=start) for first, start in ((0, 100.0), (30, 7.0), (60, 50000.0))]
    outcome = run_session(bytes_opener(*parts), sent, kind="mp4")
    found = receive(sent.data)
    assert outcome.jumps == 2
    assert found.numbers == list(range(90))
    steps = [late - early for early, late in zip(found.times, found.times[1:], strict=False)]
    assert min(steps) > 0
    # Sound of a part may be longer than its pictures by a packet or two; nothing else stretches a seam.
    assert max(steps) < 0.15
    for number in (25, 50, 75):
        shown = found.times[found.numbers.index(number)]
        assert any(abs(click - shown) <= FRAME for click in found.clicks), (number, shown, found.clicks)


def test_a_slow_restorer_drops_the_oldest_frames_and_says_how_many() -> None:
    events: list[Any] = []
    sent, restorer = Sent(), GatedRestorer()
    session = make_session(
        bytes_opener(stream_bytes(60, has_sound=False)),
        sent,
        restorer=restorer,
        rules=LiveRules(policy="drop", measures=False, queue_chunks=1),
        events=events,
    )
    outcome = []
    runner = threading.Thread(target=lambda: outcome.append(session.run()))
    runner.start()
    wait_for(lambda: session.num_dropped >= 20, "frames to be dropped")
    for _ in range(100):
        restorer.gate.release()
    runner.join(120)
    (end,) = outcome
    assert end.dropped >= 20
    assert end.frames_out == end.frames_in - end.dropped
    numbers = receive(sent.data).numbers
    assert len(numbers) == end.frames_out
    assert numbers[-1] == 59, "the newest is kept"
    assert any(event["event"] == "dropped" for event in events)


def test_interlaced_streams_are_refused_merged_or_taken_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "in.ts"
    make_clip(path, num_frames=10, interlaced=True)
    with pytest.raises(MediaError, match=r"is interlaced.*set deinterlace to bwdif .*or to off"):
        run_session(file_opener(path), Sent())
    combs = {}
    for way in ("bwdif", "off"):
        sent = Sent()
        assert run_session(file_opener(path), sent, deinterlace=way).frames_out == 10
        assert receive(sent.data).numbers == list(range(10)), way
        with av.open(io.BytesIO(bytes(sent.data))) as container:
            rows = [frame.to_ndarray(format="gray").astype(int) for frame in container.decode(video=0)][5]
        # Of every row, how much it differs from what lies between its neighbours.
        combs[way] = abs(2 * rows[1:-1] - rows[:-2] - rows[2:]).mean()
    assert combs["bwdif"] < 0.7 * combs["off"], combs


def test_hdr_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "in.ts"
    make_clip(path, codec="hevc", pixel_format="yuv420p10le", num_frames=3, colour=HLG)
    with pytest.raises(MediaError, match=r"is HDR \(arib-std-b67\) and live output has 8 bits; send it in SDR, or"):
        run_session(file_opener(path), Sent())


def test_a_change_of_size_ends_the_stream_with_one_sentence_after_what_came_before() -> None:
    sent = Sent()
    parts = [stream_bytes(10, has_sound=False), stream_bytes(10, has_sound=False, size=(128, 64))]
    with pytest.raises(MediaError, match="changed from 96x64 to 128x64 in mid-stream"):
        run_session(bytes_opener(*parts), sent)
    assert receive(sent.data).numbers == list(range(10))


@pytest.mark.parametrize(
    "garbage", [b"no video at all, but some text that is long enough to be looked at" * 8, b"\0" * 999]
)
def test_garbage_is_refused_in_one_sentence(garbage: bytes) -> None:
    with pytest.raises(MediaError, match="no video stream that is understood here; send MPEG-TS"):
        run_session(bytes_opener(garbage), Sent())


def test_an_empty_stream_is_refused_in_one_sentence() -> None:
    with pytest.raises(MediaError, match="ended before its first picture"):
        run_session(bytes_opener(b""), Sent())


class GoneAway(Sent):
    """A receiver that leaves after a while."""

    def write(self, data: bytes) -> int:
        if len(self.data) > 2000:
            raise BrokenPipeError
        return super().write(data)


def test_a_receiver_that_leaves_ends_the_stream() -> None:
    with pytest.raises(BrokenPipeError):
        run_session(bytes_opener(stream_bytes(60)), GoneAway())


def test_a_stream_that_cannot_keep_up_is_refused_before_it_begins() -> None:
    events: list[Any] = []
    sent = Sent()
    with pytest.raises(CapacityError, match="times real time here, and 1e.06 is the least"):
        run_session(
            bytes_opener(stream_bytes(10)), sent, rules=LiveRules(policy="slow", least_factor=1e6), events=events
        )
    assert not sent.data
    (plan,) = [event for event in events if event["event"] == "plan"]
    assert plan["real_time_factor"] > 0 and plan["size"] == "192x128"


def test_every_chunk_says_how_late_it_is() -> None:
    events: list[Any] = []
    run_session(bytes_opener(stream_bytes(30)), Sent(), events=events)
    chunks = [event for event in events if event["event"] == "chunk"]
    assert sum(chunk["frames"] for chunk in chunks) == 30
    assert all(0 < chunk["mean_latency_ms"] <= chunk["latency_ms"] < 20_000 for chunk in chunks)
    assert events[-1]["event"] == "end" and events[-1]["frames_out"] == 30
