import asyncio
import os
import threading

import pytest

from seedvr2_ray.errors import InputError
from seedvr2_ray.serve.problems import ConflictRefusal, SizeRefusal
from seedvr2_ray.serve.service import upload_files
from seedvr2_ray.serve.service.upload_files import UploadFiles

DATA = os.urandom(50_000)


class Confirmed:
    """Remembers how much is said to have arrived."""

    offset = 0

    def __call__(self, offset):
        self.offset = offset


@pytest.fixture(params=["folder", "store"])
def files(request, tmp_path):
    """Uploads in a folder, and in something that cannot append."""
    data = str(tmp_path / "data") if request.param == "folder" else f"memory://{tmp_path.name}"
    return UploadFiles(data, tmp_path / "scratch", idle_seconds=0.2)


async def _pieces(*pieces, then=None):
    for piece in pieces:
        yield piece
    if then is not None:
        raise then


async def _silent(*pieces, is_silent=None):
    for piece in pieces:
        yield piece
    if is_silent is not None:
        is_silent.set()
    await asyncio.sleep(600)


def _read(files, upload_id, name):
    with files.opened(upload_id, name) as path:
        return path.read_bytes()


def _extend(files, upload_id, chunks, confirmed, offset=0):
    asyncio.run(files.extend(upload_id, "a.mp4", chunks, offset=offset, num_bytes=len(DATA), confirm=confirmed))


def test_a_file_arrives_whole_and_is_measured(files):
    received = asyncio.run(files.store("u1", "a.mp4", _pieces(DATA[:1000], DATA[1000:]), most_bytes=len(DATA)))
    assert (received.num_bytes, received.is_whole) == (len(DATA), True)
    assert _read(files, "u1", "a.mp4") == DATA
    files.remove("u1", "a.mp4")
    assert files.num_bytes("u1", "a.mp4") is None


@pytest.mark.parametrize(
    ("chunks", "error"),
    [
        (lambda: _pieces(DATA, b"x"), SizeRefusal),
        (lambda: _pieces(DATA[:10], then=ConnectionError()), InputError),
        (lambda: _silent(DATA[:10]), InputError),
    ],
)
def test_nothing_stays_of_a_file_that_does_not_arrive_whole(files, tmp_path, chunks, error):
    with pytest.raises(error):
        asyncio.run(files.store("u2", "a.mp4", chunks(), most_bytes=len(DATA)))
    assert files.num_bytes("u2", "a.mp4") is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.slow
def test_what_arrived_before_a_break_is_kept_and_gone_on_from(files):
    confirmed = Confirmed()
    _extend(files, "u3", _pieces(DATA[:20_000], then=ConnectionError()), confirmed)
    assert confirmed.offset == 20_000
    _extend(files, "u3", _silent(DATA[20_000:30_000]), confirmed, 20_000)
    assert confirmed.offset == 30_000
    _extend(files, "u3", _pieces(DATA[30_000:]), confirmed, 30_000)
    assert confirmed.offset == len(DATA)
    files.complete("u3", "a.mp4", len(DATA))
    assert _read(files, "u3", "a.mp4") == DATA


def test_too_much_changes_nothing(files):
    confirmed = Confirmed()
    _extend(files, "u4", _pieces(DATA[:10]), confirmed)
    with pytest.raises(SizeRefusal):
        _extend(files, "u4", _pieces(DATA[10:], b"x"), confirmed, 10)
    assert confirmed.offset == 10
    _extend(files, "u4", _pieces(DATA[10:]), confirmed, 10)
    files.complete("u4", "a.mp4", len(DATA))
    assert _read(files, "u4", "a.mp4") == DATA


def test_a_piece_that_was_stored_but_never_confirmed_is_found_again(tmp_path):
    """The process died between the commit of a piece and the row that says so."""
    files = UploadFiles(f"memory://{tmp_path.name}", tmp_path / "scratch")

    def die(offset):
        if offset:
            raise SystemExit

    with pytest.raises(SystemExit):
        _extend(files, "u5", _pieces(DATA[:1000]), die)
    confirmed = Confirmed()
    with pytest.raises(ConflictRefusal, match="offset"):
        _extend(files, "u5", _pieces(DATA[:500]), confirmed)
    assert confirmed.offset == 1000
    _extend(files, "u5", _pieces(DATA[1000:]), confirmed, 1000)
    files.complete("u5", "a.mp4", len(DATA))
    assert _read(files, "u5", "a.mp4") == DATA


def test_a_file_that_was_joined_by_somebody_who_died_is_complete_all_the_same(files, tmp_path):
    """The process died between the publishing of the whole and the row that says so."""
    confirmed = Confirmed()
    _extend(files, "u8", _pieces(DATA[:1000]), confirmed)
    _extend(files, "u8", _pieces(DATA[1000:]), confirmed, 1000)
    for _ in range(2):
        files.complete("u8", "a.mp4", len(DATA))
        assert _read(files, "u8", "a.mp4") == DATA
    assert not (tmp_path / "scratch").exists() or not any((tmp_path / "scratch").iterdir())


def test_a_newer_sender_takes_over(files, monkeypatch):
    confirmed = Confirmed()
    monkeypatch.setattr(files, "_idle_seconds", 600.0)  # Nobody is given up before that.

    async def both():
        is_silent = asyncio.Event()
        chunks = _silent(DATA[:100], is_silent=is_silent)
        old = asyncio.create_task(files.extend("u6", "a.mp4", chunks, offset=0, num_bytes=len(DATA), confirm=confirmed))
        await is_silent.wait()
        new = files.extend("u6", "a.mp4", _pieces(DATA), offset=0, num_bytes=len(DATA), confirm=lambda _: None)
        return await asyncio.gather(old, new, return_exceptions=True)

    old, _ = asyncio.run(both())
    assert isinstance(old, ConflictRefusal)
    assert confirmed.offset == 100


def test_a_request_that_is_ended_while_the_disk_is_slow_keeps_and_tells_all_that_was_written(files, monkeypatch):
    """As Ray Serve ends it when its caller has gone: by cancelling its task."""
    confirmed, is_writing, may_go_on, append = Confirmed(), threading.Event(), threading.Event(), upload_files._append

    def append_slowly(*values):
        is_writing.set()
        may_go_on.wait(240)
        append(*values)

    monkeypatch.setattr(upload_files, "_append", append_slowly)

    async def story():
        sending = asyncio.create_task(
            files.extend("u9", "a.mp4", _pieces(DATA[:1000]), offset=0, num_bytes=len(DATA), confirm=confirmed)
        )
        await asyncio.to_thread(is_writing.wait, 240)
        sending.cancel()
        await asyncio.wait([sending], timeout=0.1)
        may_go_on.set()
        await asyncio.wait([sending], timeout=240)
        assert sending.cancelled()

    asyncio.run(story())
    assert confirmed.offset == 1000
    _extend(files, "u9", _pieces(DATA[1000:]), confirmed, 1000)
    files.complete("u9", "a.mp4", len(DATA))
    assert _read(files, "u9", "a.mp4") == DATA


def test_a_sender_who_is_late_cannot_cut_off_what_was_confirmed(files):
    confirmed = Confirmed()
    _extend(files, "u7", _pieces(DATA[:1000]), confirmed)

    def refuse(offset):
        raise ConflictRefusal("1000 bytes had arrived")

    with pytest.raises(ConflictRefusal):
        _extend(files, "u7", _pieces(DATA[:10]), refuse)
    _extend(files, "u7", _pieces(DATA[1000:]), confirmed, 1000)
    files.complete("u7", "a.mp4", len(DATA))
    assert _read(files, "u7", "a.mp4") == DATA
