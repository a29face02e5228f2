import threading
from collections.abc import Iterator

import fsspec
import pytest

from seedvr2_ray.errors import MediaError
from seedvr2_ray.storage import sources
from seedvr2_ray.storage.address import fingerprint
from seedvr2_ray.storage.sources import SourceCopies, pin, require_unchanged


@pytest.fixture
def remote() -> Iterator[str]:
    store = fsspec.filesystem("memory")
    store.pipe_file("/archive/a.mp4", b"a" * 1000)
    store.pipe_file("/archive/b.mp4", b"b" * 1000)
    yield "memory://archive"
    store.rm("/archive", recursive=True)


def test_a_remote_source_is_fetched_once_however_many_want_it(remote, tmp_path, monkeypatch):
    fetched: list[str] = []
    real = sources.fetch
    monkeypatch.setattr(sources, "fetch", lambda url, folder: (fetched.append(url), real(url, folder))[1])
    version = fingerprint(f"{remote}/a.mp4")
    read: list[bytes] = []

    def use() -> None:
        with SourceCopies(tmp_path, 10**6).opened(f"{remote}/a.mp4", version) as path:
            read.append(path.read_bytes())

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [b"a" * 1000] * 6
    assert len(fetched) == 1


def test_a_copy_keeps_its_name_because_endings_say_what_a_file_is(remote, tmp_path):
    with SourceCopies(tmp_path, 10**6).opened(f"{remote}/a.mp4", fingerprint(f"{remote}/a.mp4")) as path:
        assert path.name == "a.mp4"


def test_copies_make_room_but_never_those_in_use(remote, tmp_path):
    copies = SourceCopies(tmp_path, 1500)
    one, other = (fingerprint(f"{remote}/{name}.mp4") for name in "ab")
    with copies.opened(f"{remote}/a.mp4", one) as first:
        with copies.opened(f"{remote}/b.mp4", other) as second:
            assert second.read_bytes() == b"b" * 1000
        assert first.read_bytes() == b"a" * 1000
    sizes = sum(path.stat().st_size for path in tmp_path.glob("*/content/*"))
    assert sizes <= 1500


def test_copies_that_nobody_asks_for_any_more_go_but_never_those_in_use(remote, tmp_path):
    copies = SourceCopies(tmp_path, 10**6)
    with copies.opened(f"{remote}/a.mp4", fingerprint(f"{remote}/a.mp4")) as path:
        copies.remove_unused(older_than_seconds=-60)
        assert path.read_bytes() == b"a" * 1000
    copies.remove_unused(older_than_seconds=60)
    assert path.exists()
    copies.remove_unused(older_than_seconds=-60)
    assert not path.exists()


def test_a_copy_whose_removal_was_cut_off_is_fetched_again(remote, tmp_path):
    copies, version = SourceCopies(tmp_path, 10**6), fingerprint(f"{remote}/a.mp4")
    with copies.opened(f"{remote}/a.mp4", version) as path:
        pass
    path.unlink()  # The first that a removal does; then its process was killed.
    with copies.opened(f"{remote}/a.mp4", version) as path:
        assert path.read_bytes() == b"a" * 1000


def test_a_local_source_is_read_where_it_lies(tmp_path):
    source = tmp_path / "a.mp4"
    source.write_bytes(b"a")
    with SourceCopies(tmp_path / "copies", 10).opened(str(source), fingerprint(source)) as path:
        assert path == source
    assert not (tmp_path / "copies").exists()


def test_a_replaced_remote_source_is_noticed(remote, tmp_path):
    url = f"{remote}/a.mp4"
    copy = tmp_path / "a.mp4"
    copy.write_bytes(b"a" * 1000)
    pinned = pin(url, fingerprint(url), copy)
    assert pinned.content == fingerprint(copy).text
    require_unchanged(pinned)
    fsspec.filesystem("memory").pipe_file("/archive/a.mp4", b"c" * 1000)
    with pytest.raises(MediaError, match="changed while the job was at work"):
        require_unchanged(pinned)


def test_a_source_larger_than_all_copies_may_be_is_fetched_once_and_not_for_every_segment(
    remote, tmp_path, monkeypatch
):
    fetched: list[str] = []
    real = sources.fetch
    monkeypatch.setattr(sources, "fetch", lambda url, folder: (fetched.append(url), real(url, folder))[1])
    copies, version = SourceCopies(tmp_path, 10), fingerprint(f"{remote}/a.mp4")
    for _ in range(3):
        with copies.opened(f"{remote}/a.mp4", version) as path:
            assert path.read_bytes() == b"a" * 1000
    assert fetched == [f"{remote}/a.mp4"]
    with copies.opened(f"{remote}/b.mp4", fingerprint(f"{remote}/b.mp4")):
        pass
    assert len(list(tmp_path.glob("*/content/*"))) == 1, "it makes room for the next one"
