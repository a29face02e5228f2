"""Laws of upload rows: what they confirm never shrinks nor exceeds what was announced, and has one writer at a time."""

from datetime import timedelta

import pytest

from seedvr2_ray.serve.db.database import Database
from seedvr2_ray.serve.db.upload_store import Upload, UploadState, UploadStore
from seedvr2_ray.serve.problems import ConflictRefusal, GoneRefusal, MissingRefusal, SizeRefusal
from tests.serve.conftest import HandClock
from tests.serve.racing import at_once

GIGABYTES = 5 * 2**30


@pytest.fixture
def store(database: Database) -> UploadStore:
    return UploadStore(database)


def _announced(store: UploadStore, num_bytes: int | None = GIGABYTES) -> Upload:
    return store.create(owner="ada", name="film.mov", num_bytes=num_bytes)


def test_an_upload_grows_and_completes(store: UploadStore, clock: HandClock) -> None:
    upload = _announced(store)
    assert (upload.state, upload.num_received, upload.created_at) == (UploadState.RECEIVING, 0, clock.now)
    clock.pass_by(9)
    grown = store.grow(upload.id, 0, GIGABYTES)
    assert (grown.num_received, grown.changed_at, grown.is_complete) == (GIGABYTES, clock.now, False)
    whole = store.complete(upload.id, num_bytes=GIGABYTES, sha256="ab")
    assert (whole.is_complete, whole.sha256) == (True, "ab")
    assert store.get(upload.id, owner="ada") == whole == store.complete(upload.id, num_bytes=GIGABYTES)
    with pytest.raises(ConflictRefusal, match="is complete"):
        store.grow(upload.id, GIGABYTES, GIGABYTES)


def test_an_upload_of_unknown_length_ends_where_its_sender_says(store: UploadStore) -> None:
    upload = _announced(store, None)
    store.grow(upload.id, 0, 7)
    assert store.complete(upload.id, num_bytes=7).num_bytes == 7
    with pytest.raises(ConflictRefusal, match="has 8"):
        store.complete(upload.id, num_bytes=8)


def test_only_one_of_many_senders_goes_on_from_the_same_place(store: UploadStore) -> None:
    upload = _announced(store)

    def grow(number: int) -> bool:
        try:
            store.grow(upload.id, 0, 100 + number)
        except ConflictRefusal:
            return False
        return True

    assert at_once(6, grow).count(True) == 1
    with pytest.raises(ConflictRefusal, match="bytes and not 0; go on from there"):
        store.grow(upload.id, 0, 1)


def test_more_than_was_announced_is_refused(store: UploadStore) -> None:
    upload = _announced(store, 10)
    with pytest.raises(SizeRefusal, match="was announced with 10 bytes and 11 came"):
        store.grow(upload.id, 0, 11)
    with pytest.raises(ConflictRefusal, match="was announced with 10 bytes and has 9"):
        store.complete(upload.id, num_bytes=9)
    with pytest.raises(ValueError, match="cannot shrink"):
        store.grow(upload.id, 0, -1)
    assert store.get(upload.id) == upload


def test_ids_may_be_given_and_are_unique(store: UploadStore) -> None:
    assert store.create(owner="ada", name="a", upload_id="mine").id == "mine"
    with pytest.raises(ConflictRefusal, match="use another id"):
        store.create(owner="bob", name="b", upload_id="mine")
    assert store.get("mine").owner == "ada"


def test_owners_see_and_delete_only_their_own(store: UploadStore) -> None:
    upload = _announced(store)
    for call in (store.get, store.delete):
        with pytest.raises(MissingRefusal, match="there is no upload"):
            call(upload.id, owner="eve")
    assert (store.stored("ada").num_receiving, store.stored("eve").num_receiving) == (1, 0)


def test_a_deleted_upload_is_gone_and_its_name_forgotten(store: UploadStore, clock: HandClock) -> None:
    upload = _announced(store)
    deleted = store.delete(upload.id, owner="ada")
    assert (deleted.state, deleted.name) == (UploadState.DELETED, "")
    for call in (store.get, store.delete):
        with pytest.raises(GoneRefusal, match="send the file again"):
            call(upload.id, owner="ada")
    with pytest.raises(GoneRefusal):
        store.grow(upload.id, 0, 1)
    assert store.idle(changed_before=clock.now + timedelta(days=1)) == []


def test_idle_uploads_are_those_that_nothing_came_to_for_long(store: UploadStore, clock: HandClock) -> None:
    old, fed = _announced(store), _announced(store)
    clock.pass_by(3600)
    store.grow(fed.id, 0, 1)
    assert [upload.id for upload in store.idle(changed_before=clock.now)] == [old.id]
