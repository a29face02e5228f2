"""Laws of signing in: who gets in, and what every kind of wrong credential is told."""

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import ValidationError

from seedvr2_ray.errors import DeploymentError, InputError
from seedvr2_ray.serve.config import Jwt, ServiceConfig
from seedvr2_ray.serve.problems import AuthenticationRefusal, PermissionRefusal
from seedvr2_ray.serve.secrets import Secrets
from seedvr2_ray.serve.security.api_keys import SCOPES, ApiKey, Scope, make_key, split_token
from seedvr2_ray.serve.security.auth import Authenticator, Caller, auth_of, require_safe_binding

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
SHARED = "a shared secret of more than sixty-four bytes, so that HS512 could take it too"
PEER = "203.0.113.9"


class _Keys(dict[str, ApiKey]):
    def find(self, prefix: str) -> ApiKey | None:
        return self.get(prefix)

    def touch(self, prefix: str) -> None:
        assert self[prefix].is_valid(NOW)

    def make(self, owner: str = "ada", *scopes: Scope, **changes: Any) -> str:
        key, token = make_key(owner, scopes or ("jobs:read", "jobs:write"), now=NOW)
        self[key.prefix] = replace(key, **changes)
        return token


@pytest.fixture
def keys() -> _Keys:
    return _Keys()


def _by_keys(keys: _Keys) -> Authenticator:
    return Authenticator(ServiceConfig(auth=("keys",)), Secrets(), keys, now=lambda: NOW)


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
def test_a_key_opens_with_its_owner_and_scopes(keys: _Keys, header: str) -> None:
    token = keys.make("ada", "jobs:read")
    value = f"Bearer {token}" if header == "authorization" else token
    caller = _by_keys(keys).authenticate({header: value}, {}, PEER)
    parts = split_token(token)
    assert parts is not None
    assert caller == Caller(owner="ada", scopes=frozenset({"jobs:read"}), key_id=parts[0])


def test_a_key_is_not_kept_and_not_shown() -> None:
    key, token = make_key("ada", ["admin"], now=NOW)
    secret = token.rpartition(f"{key.prefix}_")[2]
    assert len(secret) == 43
    assert secret not in repr(key) and key.digest not in repr(key)
    assert key.digest == hashlib.sha256(secret.encode()).hexdigest()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"revoked_at": NOW - timedelta(days=1)}, "was revoked"),
        ({"expires_at": NOW}, "expired at 2026-05-04 12:00 UTC"),
        ({"digest": "0" * 64}, "not known"),
    ],
)
def test_a_key_that_has_ended_or_another_secret_is_refused(keys: _Keys, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(AuthenticationRefusal, match=reason):
        _by_keys(keys).authenticate({"x-api-key": keys.make(**changes)}, {}, PEER)


def test_the_refusal_of_an_unknown_prefix_and_of_a_wrong_secret_are_the_same(keys: _Keys) -> None:
    known, other = keys.make(), make_key("eve", ["admin"], now=NOW)[1]
    wrong = known[:-43] + other[-43:]
    said = []
    for token in (other, wrong):
        with pytest.raises(AuthenticationRefusal) as refused:
            _by_keys(keys).authenticate({"x-api-key": token}, {}, PEER)
        said.append(str(refused.value))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("headers", "query", "reason"),
    [
        ({}, {}, "names no key"),
        ({"authorization": "Basic YTpi"}, {}, "names no key"),
        ({"authorization": "Bearer "}, {}, "names no key"),
        ({}, {"api_key": "x"}, "in the URL as api_key"),
        ({"x-api-key": "nonsense"}, {}, "form that is not accepted"),
        ({"x-api-key": "a.b.c"}, {}, "form that is not accepted"),
        ({"x-api-key": "x" * 10_000}, {}, "10000 characters"),
    ],
)
def test_a_request_without_a_usable_key_is_told_where_to_put_it(
    keys: _Keys, headers: dict[str, str], query: dict[str, str], reason: str
) -> None:
    with pytest.raises(AuthenticationRefusal, match=reason):
        _by_keys(keys).authenticate(headers, query, PEER)


def test_a_missing_scope_is_refused_and_admin_has_them_all() -> None:
    reader = Caller(owner="ada", scopes=frozenset({"jobs:read"}))
    reader.require("jobs:read")
    with pytest.raises(PermissionRefusal, match="needs the scope jobs:write and the key or token has jobs:read"):
        reader.require("jobs:write")
    admin = Caller(owner="root", scopes=frozenset({"admin"}))
    for scope in ("jobs:read", "jobs:write", "admin"):
        admin.require(scope)
    assert (reader.sees, admin.sees) == ("ada", None)


@pytest.mark.parametrize(("owner", "scopes"), [("ada", ["jobs:fly"]), ("ada", []), ("", ["admin"]), (" a", ["admin"])])
def test_a_key_without_a_known_scope_or_an_owner_is_not_made(owner: str, scopes: list[str]) -> None:
    with pytest.raises(InputError, match="scope|owner"):
        make_key(owner, scopes, now=NOW)


# Tokens


@pytest.fixture(scope="module")
def pair() -> tuple[str, str]:
    """A private and a public key in PEM."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return (
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
        private.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode(),
    )


def _claims(**changes: Any) -> dict[str, Any]:
    claims = {
        "sub": "ada",
        "aud": "seedvr2-ray",
        "iss": "https://id.example.org",
        "exp": datetime.now(UTC) + timedelta(minutes=5),
        "scope": "openid jobs:read jobs:write",
    }
    return {name: value for name, value in (claims | changes).items() if value is not None}


def _by_tokens(key: str, algorithm: Any, *modes: Any) -> Authenticator:
    rules = Jwt(algorithms=(algorithm,), issuer="https://id.example.org")
    return Authenticator(ServiceConfig(auth=modes or ("jwt",), jwt=rules), Secrets(jwt_key=key), _Keys())


def test_a_token_opens_with_either_algorithm_and_foreign_scopes_mean_nothing(pair: tuple[str, str]) -> None:
    for signer, checker, algorithm in ((SHARED, SHARED, "HS256"), (pair[0], pair[1], "RS256")):
        token = jwt.encode(_claims(), signer, algorithm)
        caller = _by_tokens(checker, algorithm).authenticate({"authorization": f"Bearer {token}"}, {}, PEER)
        assert caller == Caller(owner="ada", scopes=frozenset({"jobs:read", "jobs:write"}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": datetime.now(UTC) - timedelta(minutes=1)}, "has expired"),
        ({"exp": None}, "not valid"),
        ({"aud": "another"}, "meant for another service"),
        ({"aud": None}, "not valid"),
        ({"iss": "https://evil.example.org"}, "not valid"),
        ({"iss": None}, "not valid"),
        ({"sub": None}, "names no owner"),
        ({"sub": "a\nb"}, "names no owner"),
        ({"nbf": datetime.now(UTC) + timedelta(hours=1)}, "not valid"),
    ],
)
def test_a_token_with_a_wrong_claim_is_refused(changes: dict[str, Any], reason: str) -> None:
    token = jwt.encode(_claims(**changes), SHARED, "HS256")
    with pytest.raises(AuthenticationRefusal, match=reason):
        _by_tokens(SHARED, "HS256").authenticate({"authorization": f"Bearer {token}"}, {}, PEER)


def _forged(header: dict[str, str], secret: bytes | None) -> str:
    """A token made by hand: PyJWT itself refuses to sign with a public key or with nothing."""

    def encode(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    claims = _claims(exp=int(datetime.now(UTC).timestamp()) + 300)
    body = f"{encode(json.dumps(header).encode())}.{encode(json.dumps(claims).encode())}"
    signature = b"" if secret is None else hmac.digest(secret, body.encode(), "sha256")
    return f"{body}.{encode(signature)}"


def test_neither_no_algorithm_nor_the_public_key_as_a_secret_forges_a_token(pair: tuple[str, str]) -> None:
    by_public_key, by_secret = _by_tokens(pair[1], "RS256"), _by_tokens(SHARED, "HS256")
    forgeries = [
        (by_public_key, _forged({"alg": "none"}, None)),
        (by_secret, _forged({"alg": "none"}, None)),
        (by_secret, _forged({"alg": "nOnE"}, None)),
        (by_public_key, _forged({"alg": "HS256"}, pair[1].encode())),
        (by_secret, jwt.encode(_claims(), pair[0], "RS256")),
        (by_secret, jwt.encode(_claims(), SHARED, "HS512")),
        (by_secret, jwt.encode(_claims(), "another secret of more than thirty-two bytes", "HS256")),
    ]
    for authenticator, token in forgeries:
        with pytest.raises(AuthenticationRefusal, match="not valid"):
            authenticator.authenticate({"authorization": f"Bearer {token}"}, {}, PEER)


def test_keys_and_tokens_work_side_by_side(keys: _Keys) -> None:
    config = ServiceConfig(auth=("keys", "jwt"), jwt=Jwt(algorithms=("HS256",)))
    both = Authenticator(config, Secrets(jwt_key=SHARED), keys, now=lambda: NOW)
    token = jwt.encode(_claims(sub="bob"), SHARED, "HS256")
    owners = {both.authenticate({"x-api-key": each}, {}, PEER).owner for each in (keys.make("ada"), token)}
    assert owners == {"ada", "bob"}


@pytest.mark.parametrize(
    ("algorithms", "key", "reason"),
    [
        (("RS256",), None, "SEEDVR2_JWT_KEY is not set"),
        (("RS256",), SHARED, "no public key"),
        (("RS256",), "-----BEGIN PRIVATE KEY-----\n", "no public key"),
        (("HS256",), "short", "32 bytes or more"),
        (("HS256",), "-----BEGIN PUBLIC KEY-----" + "x" * 64, "32 bytes or more"),
        (("HS256", "RS256"), SHARED, "exactly one"),
    ],
)
def test_a_key_with_which_tokens_could_be_forged_is_refused_at_the_start(
    algorithms: tuple[Any, ...], key: str | None, reason: str
) -> None:
    with pytest.raises(DeploymentError, match=reason):
        Authenticator(ServiceConfig(auth=("jwt",), jwt=Jwt(algorithms=algorithms)), Secrets(jwt_key=key), _Keys())


# Nobody signs in

LOCAL = {"host": "127.0.0.1:8000"}


@pytest.fixture
def open_door(keys: _Keys) -> Authenticator:
    return Authenticator(ServiceConfig(auth=("none",)), Secrets(), keys)


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000", "localhost"])
@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_without_signing_in_this_machine_owns_everything(open_door: Authenticator, host: str, peer: str) -> None:
    caller = open_door.authenticate({"host": host, "origin": "http://localhost:3000"}, {}, peer)
    assert caller == Caller(owner="local", scopes=frozenset(SCOPES))


@pytest.mark.parametrize(
    ("headers", "peer", "reason"),
    [
        (LOCAL, PEER, "another machine"),
        (LOCAL, "10.0.0.1", "another machine"),
        (LOCAL, None, "another machine"),
        (LOCAL | {"x-forwarded-for": PEER}, "127.0.0.1", "through a proxy"),
        (LOCAL | {"forwarded": f"for={PEER}"}, "127.0.0.1", "through a proxy"),
        ({"host": "rebound.example.org"}, "127.0.0.1", "another name than localhost"),
        ({"host": "localhost.example.org"}, "127.0.0.1", "another name than localhost"),
        ({}, "127.0.0.1", "another name than localhost"),
        (LOCAL | {"origin": "https://evil.example.org"}, "127.0.0.1", "another site"),
        (LOCAL | {"origin": "null"}, "127.0.0.1", "another site"),
    ],
)
def test_without_signing_in_nobody_else_is_answered(
    open_door: Authenticator, headers: dict[str, str], peer: str | None, reason: str
) -> None:
    with pytest.raises(AuthenticationRefusal, match=reason):
        open_door.authenticate(headers, {}, peer)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org", ""])
def test_a_service_without_signing_in_must_listen_on_loopback(host: str) -> None:
    for address in ("127.0.0.1", "localhost", "::1"):
        require_safe_binding(ServiceConfig(auth=("none",)), address)
    require_safe_binding(ServiceConfig(auth=("keys",)), host)
    with pytest.raises(DeploymentError, match="listen on 127.0.0.1, or set auth"):
        require_safe_binding(ServiceConfig(auth=("none",)), host)


def test_the_environment_may_replace_the_mode_but_not_combine_none() -> None:
    config = ServiceConfig()
    assert auth_of(config, {}) is config
    assert auth_of(config, {"SEEDVR2_AUTH": "keys, jwt"}).auth == ("keys", "jwt")
    assert auth_of(config, {"SEEDVR2_AUTH": "none"}).auth == ("none",)
    for wrong in ("none,keys", "off"):
        with pytest.raises(DeploymentError, match="none"):
            auth_of(config, {"SEEDVR2_AUTH": wrong})
    with pytest.raises(ValidationError):
        ServiceConfig.model_validate({"auth": ["off"]})
