import errno
import hashlib
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from seedvr2_ray.errors import DeploymentError, SettingsError
from seedvr2_ray.models.weights import download as weights
from seedvr2_ray.models.weights.catalogue import CATALOGUE, Component, ModelEntry, WeightFile
from seedvr2_ray.models.weights.download import (
    WeightsSource,
    list_models,
    pull_model,
    require_model,
    verify_file,
    verify_model,
)

CONTENT = b"weights" * 1000
HASH = hashlib.sha256(CONTENT).hexdigest()


def _file(**changes):
    facts = {"name": "tiny.bin", "repository": "owner/tiny", "licence": "MIT", "num_gigabytes": 0.1}
    return WeightFile(**{**facts, "size_bytes": len(CONTENT), "sha256": HASH, **changes})


@pytest.fixture
def tiny(monkeypatch):
    """A catalogue with one more model, of one file."""

    def add(**changes):
        part = Component(role="vae", files=(_file(**changes),))
        entry = ModelEntry(name="tiny", summary="", licence="MIT", components=(part,))
        monkeypatch.setitem(CATALOGUE, "tiny", entry)
        return entry

    return add


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return WeightsSource(weights_dir=tmp_path / "weights", cache_dir=tmp_path / "cache")


@pytest.fixture
def hub():
    """Answers like the hub for one file; counts what it sends."""
    sent = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(404 if "/gone/" in self.path else 200)
            for name, value in {
                "ETag": f'"{HASH}"',
                "X-Repo-Commit": "a" * 40,
                "Content-Length": str(len(CONTENT)),
                "Accept-Ranges": "bytes",
            }.items():
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(CONTENT)
            sent.append(len(CONTENT))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", sent
    server.shutdown()
    thread.join()
    server.server_close()


def _write(source, content=CONTENT, name="tiny.bin"):
    source.weights_dir.mkdir(exist_ok=True)
    path = source.weights_dir / name
    path.write_bytes(content)
    return path


def test_a_file_in_the_weights_folder_is_used_and_verified(tiny, source):
    path = _write(source)
    (found,) = require_model(tiny(), source).values()
    assert (found.path, found.sha256) == (path, HASH)


def test_a_verified_file_is_not_hashed_again_until_it_changes(source, monkeypatch):
    path = _write(source)
    hashed = []
    real = weights.hash_file
    monkeypatch.setattr(weights, "hash_file", lambda path: hashed.append(path) or real(path))
    for _ in range(3):
        verify_file(_file(), path, source)
    assert len(hashed) == 1
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(DeploymentError, match="sha256"):
        verify_file(_file(), path, source)


def test_a_mismatching_file_is_refused_and_left_in_place(tiny, source):
    path = _write(source, b"x" * len(CONTENT))
    with pytest.raises(DeploymentError, match=r"not the released tiny\.bin.*left in place"):
        require_model(tiny(), source)
    assert path.read_bytes() == b"x" * len(CONTENT)


def test_a_truncated_file_is_told_by_its_size_without_hashing(source, monkeypatch):
    monkeypatch.setattr(weights, "hash_file", lambda path: pytest.fail("hashed"))
    with pytest.raises(DeploymentError, match="truncated: it has 5 of 7,000 bytes"):
        verify_file(_file(), _write(source, CONTENT[:5]), source)


def test_a_missing_file_is_an_error_with_the_command_where_downloads_are_off(tiny, source):
    with pytest.raises(DeploymentError, match="seedvr2-ray models pull tiny"):
        require_model(tiny(), source, may_download=False)


def test_a_file_is_pulled_from_the_hub_into_the_weights_folder_with_progress(tiny, source, hub):
    tiny()
    endpoint, sent = hub
    seen = []
    here = WeightsSource(weights_dir=source.weights_dir, endpoint=endpoint)
    (found,) = pull_model("tiny", here, lambda *progress: seen.append(progress))
    assert found.path.read_bytes() == CONTENT
    assert seen[-1] == ("tiny.bin", len(CONTENT), len(CONTENT))
    pull_model("tiny", here)
    assert sent == [len(CONTENT)]


def test_a_file_is_found_again_in_the_hugging_face_cache(tiny, source, hub):
    tiny(sha256=None)
    endpoint, sent = hub
    cached = WeightsSource(cache_dir=source.cache_dir, endpoint=endpoint)
    pull_model("tiny", cached)
    (record,) = verify_model("tiny", cached)
    assert record.state == "verified"
    assert len(sent) == 1


def test_a_hub_without_the_file_is_one_error_with_the_way_out(tiny, source, hub):
    tiny(repository="owner/gone")
    here = WeightsSource(weights_dir=source.weights_dir, endpoint=hub[0])
    with pytest.raises(DeploymentError, match=r"cannot download tiny\.bin from owner/gone.*weights folder"):
        pull_model("tiny", here)


def test_a_hub_out_of_reach_is_one_error_and_its_client_says_nothing(tiny, source, monkeypatch, capfd):
    def fail(*names, **options):
        logging.getLogger("huggingface_hub.file_download").warning("Retrying in 1s [Retry 1/5].")
        raise LocalEntryNotFoundError("An error happened while trying to locate the file on the Hub.")

    tiny()
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(DeploymentError, match="cannot be reached from here; check the connection"):
        pull_model("tiny", source)
    assert capfd.readouterr() == ("", "")


def test_what_came_from_a_mirror_is_found_again_without_a_weights_folder(tiny, source, tmp_path):
    entry = tiny()
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "tiny.bin").write_bytes(CONTENT)
    pull_model("tiny", WeightsSource(mirror_url=str(tmp_path / "mirror")))
    (found,) = require_model(entry, WeightsSource(), may_download=False).values()
    assert found.path.read_bytes() == CONTENT


def test_a_mirror_is_asked_instead_of_the_hub_and_resumes(tiny, source, tmp_path):
    tiny()
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "tiny.bin").write_bytes(CONTENT)
    source.weights_dir.mkdir()
    (source.weights_dir / "tiny.bin.partial").write_bytes(CONTENT[:3000])
    seen = []
    mirrored = WeightsSource(weights_dir=source.weights_dir, mirror_url=(tmp_path / "mirror").as_uri())
    (found,) = pull_model("tiny", mirrored, lambda *progress: seen.append(progress))
    assert found.path.read_bytes() == CONTENT
    assert seen == [("tiny.bin", 7000, 7000)]
    assert [path.name for path in source.weights_dir.glob("tiny*")] == ["tiny.bin"]


def test_of_several_who_want_a_file_of_a_mirror_one_fetches_it_while_the_others_wait(
    tiny, source, tmp_path, monkeypatch
):
    tiny()
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "tiny.bin").write_bytes(CONTENT)
    mirrored = WeightsSource(weights_dir=source.weights_dir, mirror_url=str(tmp_path / "mirror"))
    copy, num_begun, second_has_begun = weights._copy_resumable, 0, threading.Event()

    def copy_slowly(url, partial, name, progress):
        nonlocal num_begun
        num_begun += 1
        if num_begun > 1:
            second_has_begun.set()
        copy(url, partial, name, progress)
        second_has_begun.wait(0.2)

    monkeypatch.setattr(weights, "_copy_resumable", copy_slowly)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda _: pull_model("tiny", mirrored), range(2)))
    assert [file.sha256 for (file,) in found] == [HASH, HASH]
    assert num_begun == 1


def test_a_folder_that_knows_no_locks_is_fetched_into_with_a_word(tiny, source, tmp_path, monkeypatch, caplog):
    def refuse(file, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    tiny()
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "tiny.bin").write_bytes(CONTENT)
    monkeypatch.setattr(weights.fcntl, "flock", refuse)
    (found,) = pull_model("tiny", WeightsSource(weights_dir=source.weights_dir, mirror_url=str(tmp_path / "mirror")))
    assert found.sha256 == HASH
    assert "cannot be locked (Function not implemented)" in caplog.text


def test_a_wrong_file_from_a_mirror_is_set_aside_and_said_so(tiny, source, tmp_path):
    tiny()
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "tiny.bin").write_bytes(b"y" * len(CONTENT))
    mirrored = WeightsSource(weights_dir=source.weights_dir, mirror_url=str(tmp_path / "mirror"))
    with pytest.raises(DeploymentError, match=r"kept as .*tiny\.bin\.rejected"):
        pull_model("tiny", mirrored)
    assert (source.weights_dir / "tiny.bin.rejected").exists()
    assert not (source.weights_dir / "tiny.bin").exists()


def test_a_mirror_without_the_file_is_one_error(tiny, source, tmp_path):
    tiny()
    mirrored = WeightsSource(weights_dir=source.weights_dir, mirror_url=str(tmp_path / "nothing"))
    with pytest.raises(DeploymentError, match="check the mirror"):
        pull_model("tiny", mirrored)


def test_a_bundled_file_lies_in_the_package_and_its_absence_is_an_installation_fault(tiny, source):
    tiny(repository=None, name="nano/absent.safetensors")
    with pytest.raises(DeploymentError, match="install seedvr2-ray again"):
        pull_model("tiny", source)


def test_listing_tells_ready_from_missing_without_hashing(tiny, source, monkeypatch):
    monkeypatch.setattr(weights, "hash_file", lambda path: pytest.fail("hashed"))
    tiny()
    assert _state("tiny", source) == ("missing", ("tiny.bin",))
    _write(source)
    assert _state("tiny", source) == ("ready", ())
    assert _state("lanczos", source) == ("no weights needed", ())


def _state(name, source):
    (record,) = [record for record in list_models(source) if record.name == name]
    return record.state, record.missing


@pytest.mark.parametrize(
    ("changes", "content", "state"),
    [
        ({}, CONTENT, "verified"),
        ({}, b"z" * len(CONTENT), "damaged"),
        ({"sha256": None}, CONTENT, "unpublished hash"),
        ({}, None, "missing"),
    ],
)
def test_verifying_reports_every_file_and_raises_for_none(tiny, source, changes, content, state):
    tiny(**changes)
    if content is not None:
        _write(source, content)
    (record,) = verify_model("tiny", source)
    assert record.state == state


def test_an_unknown_model_cannot_be_pulled(source):
    with pytest.raises(SettingsError, match="unknown model"):
        pull_model("seedvr3", source)


REPLACED = b"replaced" * 875
assert len(REPLACED) == len(CONTENT)


@pytest.fixture
def two_releases(monkeypatch):
    """Two models of one file each, which bear one name and have one size: as a publisher replaced it."""
    for name, content in (("first", CONTENT), ("second", REPLACED)):
        file = _file(sha256=hashlib.sha256(content).hexdigest(), release=f"the {name}")
        entry = ModelEntry(name=name, summary="", licence="MIT", components=(Component(role="vae", files=(file,)),))
        monkeypatch.setitem(CATALOGUE, name, entry)


@pytest.mark.usefixtures("two_releases")
@pytest.mark.parametrize(("content", "own", "other"), [(CONTENT, "first", "second"), (REPLACED, "second", "first")])
def test_a_file_whose_name_two_releases_share_is_run_under_its_own_name_only(source, content, own, other):
    path = _write(source, content)
    states = {record.name: record.state for record in list_models(source)}
    assert (states[own], states[other]) == ("ready", "missing")
    (found,) = require_model(CATALOGUE[own], source).values()
    assert found.path == path
    for download in (True, False):
        with pytest.raises(DeploymentError, match=f"the {own} of tiny.bin, which {own} uses, and not the {other}"):
            require_model(CATALOGUE[other], source, may_download=download)
    assert path.read_bytes() == content
    (record,) = verify_model(other, source)
    assert record.state == "missing" and f"which {own} uses" in record.detail


@pytest.mark.usefixtures("two_releases")
def test_a_file_of_a_shared_name_that_is_neither_release_is_refused_by_its_hash(source):
    _write(source, b"x" * len(CONTENT))
    for name in ("first", "second"):
        with pytest.raises(DeploymentError, match="not the released tiny.bin"):
            require_model(CATALOGUE[name], source)


def test_a_file_of_another_model_is_named_as_what_it_is(tiny, source, monkeypatch):
    other = ModelEntry(
        name="other",
        summary="",
        licence="MIT",
        components=(Component(role="vae", files=(_file(name="x", sha256=hashlib.sha256(REPLACED).hexdigest()),)),),
    )
    monkeypatch.setitem(CATALOGUE, "other", other)
    _write(source, REPLACED)
    with pytest.raises(DeploymentError, match="it belongs to other"):
        require_model(tiny(), source)
