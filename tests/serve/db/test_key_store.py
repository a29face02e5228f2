"""Laws of stored API keys: no secret is kept, an end stays an end, and a rotation loses nobody."""

from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa

from seedvr2_ray.errors import StorageError
from seedvr2_ray.serve.config import ServiceConfig
from seedvr2_ray.serve.db.database import Database
from seedvr2_ray.serve.db.key_store import KeyStore, UsedKeys
from seedvr2_ray.serve.db.tables import api_keys
from seedvr2_ray.serve.problems import AuthenticationRefusal, ConflictRefusal, MissingRefusal
from seedvr2_ray.serve.secrets import Secrets
from seedvr2_ray.serve.security.api_keys import ApiKey, make_key, split_token
from seedvr2_ray.serve.security.auth import Authenticator
from tests.serve.conftest import HandClock


@pytest.fixture
def store(database: Database) -> KeyStore:
    return KeyStore(database)


@pytest.fixture
def opens(store: KeyStore, clock: HandClock) -> Callable[[str], bool]:
    """Say whether a token opens the service, as its authenticator sees it."""
    authenticator = Authenticator(ServiceConfig(auth=("keys",)), Secrets(), store, now=clock)

    def opens(token: str) -> bool:
        try:
            caller = authenticator.authenticate({"x-api-key": token}, {}, "203.0.113.9")
        except AuthenticationRefusal:
            return False
        assert caller.owner == "ada"
        return True

    return opens


def _add(store: KeyStore, clock: HandClock, owner: str = "ada") -> tuple[ApiKey, str]:
    key, token = make_key(owner, ["jobs:read", "jobs:write"], now=clock.now, name="laptop")
    store.add(key)
    return key, token


def test_a_key_comes_back_as_it_was_made_and_no_other_does(store: KeyStore, clock: HandClock) -> None:
    key, _ = _add(store, clock)
    assert store.find(key.prefix) == key
    assert store.find("unknown") is None
    with pytest.raises(ConflictRefusal, match="already"):
        store.add(key)


def test_the_database_holds_nothing_that_opens_the_service(
    store: KeyStore, database: Database, clock: HandClock
) -> None:
    _, token = _add(store, clock)
    parts = split_token(token)
    assert parts is not None
    with database.reading() as connection:
        kept = repr(connection.execute(sa.select(api_keys)).mappings().all())
    assert parts[0] in kept
    assert parts[1] not in kept


def test_keys_are_listed_by_owner(store: KeyStore, clock: HandClock) -> None:
    first, _ = _add(store, clock)
    clock.pass_by(1)
    second, _ = _add(store, clock)
    other, _ = _add(store, clock, "bob")
    assert store.list(owner="ada") == [first, second]
    assert {key.prefix for key in store.list()} == {first.prefix, second.prefix, other.prefix}


def test_a_revoked_key_opens_nothing(store: KeyStore, clock: HandClock, opens: Callable[[str], bool]) -> None:
    key, token = _add(store, clock)
    assert opens(token)
    store.end(key.prefix, revoked_at=clock.now)
    assert not opens(token)


def test_an_end_is_only_ever_brought_forward(store: KeyStore, clock: HandClock) -> None:
    key, _ = _add(store, clock)
    soon, late = clock.now + timedelta(hours=1), clock.now + timedelta(days=1)
    assert store.end(key.prefix, expires_at=late).expires_at == late
    assert store.end(key.prefix, expires_at=soon).expires_at == soon
    assert store.end(key.prefix, expires_at=late, revoked_at=soon).expires_at == soon
    assert store.end(key.prefix, revoked_at=late).revoked_at == soon
    with pytest.raises(MissingRefusal, match="there is no key"):
        store.end("unknown", revoked_at=soon)


def test_a_rotated_key_goes_on_working_for_the_grace_period_only(
    store: KeyStore, clock: HandClock, opens: Callable[[str], bool]
) -> None:
    old, old_token = _add(store, clock)
    new, new_token = store.rotate(old.prefix, grace_seconds=60)
    assert (new.owner, new.scopes, new.name) == (old.owner, old.scopes, old.name)
    assert opens(old_token) and opens(new_token)
    clock.pass_by(60)
    assert opens(new_token) and not opens(old_token)
    with pytest.raises(ConflictRefusal, match="has ended"):
        store.rotate(old.prefix)
    with pytest.raises(MissingRefusal):
        store.rotate("unknown")


def test_without_grace_the_old_token_ends_at_once(
    store: KeyStore, clock: HandClock, opens: Callable[[str], bool]
) -> None:
    old, old_token = _add(store, clock)
    _, new_token = store.rotate(old.prefix)
    assert opens(new_token) and not opens(old_token)


def test_use_is_noted_at_most_once_a_minute(store: KeyStore, clock: HandClock) -> None:
    key, _ = _add(store, clock)
    assert store.last_used_at(key.prefix) is None
    first = clock.now
    store.touch(key.prefix)
    clock.pass_by(59)
    store.touch(key.prefix)
    assert store.last_used_at(key.prefix) == first
    clock.pass_by(2)
    store.touch(key.prefix)
    assert store.last_used_at(key.prefix) == clock.now
    store.touch("unknown")


def test_the_use_of_a_key_is_noted_later_and_nobody_waits_for_it(store: KeyStore, clock: HandClock) -> None:
    key, _ = make_key("ada", ["jobs:read"], now=clock.now)
    store.add(key)
    used = UsedKeys(store)
    assert used.find(key.prefix) == key
    used.touch(key.prefix)
    used.close()
    assert store.last_used_at(key.prefix) == clock.now


def test_a_key_whose_use_cannot_be_noted_opens_all_the_same() -> None:
    class Locked(KeyStore):
        def __init__(self) -> None:
            self.num_tries = 0

        def touch(self, prefix: str) -> None:
            self.num_tries += 1
            raise StorageError("the database is locked")

    locked = Locked()
    used = UsedKeys(locked)
    used.touch("prefix")
    used.close()
    assert locked.num_tries == 1
