"""The law of redaction: a secret that stands where secrets stand never comes out again."""

import json
import string
import time
from urllib.parse import quote

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedvr2_ray.serve.db.database import utc_now
from seedvr2_ray.serve.secrets import Secrets
from seedvr2_ray.serve.security.api_keys import make_key
from seedvr2_ray.serve.security.redaction import HIDDEN, Redactor, secrets_in

PLAIN = Redactor()

_UNRESERVED = string.ascii_letters + string.digits + "-._~"
WORDS = st.text(_UNRESERVED, min_size=12, max_size=40)
"""What fits anywhere unescaped, and is long enough not to stand in a line by chance."""
ANYTHING = st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=12, max_size=40)
AROUND = st.sampled_from(["", " ", "(", '"', "GET ", "from=", "error at ", "\n"])


@pytest.mark.slow
@given(WORDS, WORDS, AROUND, st.sampled_from(["https", "s3", "redis", "postgresql+psycopg", "http"]))
def test_credentials_and_queries_of_urls(user: str, secret: str, around: str, scheme: str) -> None:
    for url in (
        f"{scheme}://{user}:{secret}@example.org/film.mov",
        f"{scheme}://{secret}@example.org",
        f"{scheme}://:{secret}@example.org:6379/0",
        f"{scheme}://{user}:a/{secret}@example.org/film.mov",
        f"{scheme}://{user}:a?{secret}@example.org/film.mov",
        f"{scheme}://{user}:a@{secret}@example.org/film.mov",
        f"{scheme}://{user}:{secret}#x@example.org/film.mov",
        f"{scheme}://example.org/film.mov?anything={secret}",
        f"{scheme}://example.org/film.mov?{secret}",
        f"{scheme}://example.org/film.mov#{secret}",
        f"{scheme}://example.org?a=1&b={secret}#c",
    ):
        shown = PLAIN.text(f"{around}{url} and more")
        assert secret not in shown
        assert "example.org" in shown and shown.endswith(" and more")


@given(ANYTHING.filter(lambda text: text.strip() == text), st.sampled_from(["Authorization", "X-API-Key", "Cookie"]))
def test_headers_that_sign_in(secret: str, name: str) -> None:
    for line in (
        f"{name}: {secret}\r\nAccept: */*",
        f"{name.lower()}={secret}",
        repr({name: secret, "accept": "*/*"}),
        repr({name.lower().encode(): secret.encode()}),
        repr([(name.lower().encode(), secret.encode()), (b"accept", b"*/*")]),
        json.dumps({name: secret}),
    ):
        assert secret not in PLAIN.text(line)
        assert "accept" not in line or "accept" in PLAIN.text(line)


@given(WORDS, st.sampled_from(["password", "api_key", "client_secret", "access_token", "X-Amz-Signature", "sig"]))
def test_values_that_are_named_as_secrets(secret: str, name: str) -> None:
    for line in (
        f"GET /v1/jobs/job_1/result?expires=1&{name}={secret}&x=1 HTTP/1.1",
        f"{name}={secret}, retrying",
        f"{name}: {secret}",
        f"Settings({name}='{secret}')",
        json.dumps({name: secret}),
    ):
        assert secret not in PLAIN.text(line)
    assert PLAIN.value({name: secret, "deep": [{name: [secret]}]}) == {name: HIDDEN, "deep": [{name: HIDDEN}]}


@given(AROUND)
def test_keys_and_tokens_by_their_looks(around: str) -> None:
    key, token = make_key("ada", ["admin"], now=utc_now())
    assert PLAIN.text(f"{around}{token}") == f"{around}svr2_{key.prefix}_{HIDDEN}"
    signed = jwt.encode({"sub": "ada"}, "x" * 32, "HS256")
    assert signed.split(".")[2] not in PLAIN.text(f"{around}{signed} end")
    for scheme in ("Bearer", "basic"):
        assert signed not in PLAIN.text(f"{around}{scheme} {signed}")
    assert "aGVsbG8" not in PLAIN.text(f"{around}whsec_aGVsbG8gd29ybGQ=")


def test_a_private_key_is_removed_even_when_it_is_cut_off() -> None:
    pem = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\nIBxx\n-----END EC PRIVATE KEY-----"
    for text in (pem, pem[:50]):
        assert "MHcCAQEE" not in PLAIN.text(f"loaded {text}")


@pytest.mark.slow
@given(st.text(min_size=6, max_size=60), st.text(max_size=20), st.text(max_size=20))
def test_what_the_deployment_knows_is_removed_wherever_it_stands(secret: str, before: str, after: str) -> None:
    redactor = Redactor([secret])
    if secret in HIDDEN * 20:
        return
    for text in (f"{before}{secret}{after}", f"{before}/{quote(secret, safe='')}/{after}"):
        shown = redactor.text(text)
        # Letters around what was removed may join to what was removed: that tells nothing.
        assert secret not in shown or secret in f"{before}{HIDDEN}{after}"


def test_a_deployments_secrets_include_the_passwords_of_its_stores() -> None:
    secrets = Secrets(
        signing_key=b"sign-sign-sign",
        jwt_key="jwt-jwt-jwt",
        webhook_secret="hook-hook-hook",
        sentry_dsn="https://public@sentry.example.org/1",
    )
    redactor = Redactor(secrets_in(secrets, "postgresql://u:data-base-word@host/x", "redis://:redis-word@host", None))
    for word in ("sign-sign-sign", "jwt-jwt-jwt", "hook-hook-hook", "data-base-word", "redis-word"):
        assert redactor.text(f"it said {word}!") == f"it said {HIDDEN}!"


@pytest.mark.parametrize("piece", ["a-", "a", "secret", "'", "authorization ", "http://", "eyJa.", "@", "password='"])
def test_no_line_takes_long_to_clean(piece: str) -> None:
    started = time.thread_time()  # Of this thread alone: others of this process serve other tests.
    PLAIN.text(piece * (40_000 // len(piece)))
    assert time.thread_time() - started < 5


@pytest.mark.parametrize(
    "text",
    [
        "segment 3 of 12 restored in 4.1 s",
        "job job_1 is restoring and cannot become queued",
        "https://example.org/v1/jobs/job_1/result",
        "listening on http://127.0.0.1:8000",
        "s3://films/incoming/a.mov: 25 fps, 00:10:30",
        "the token has expired; get a new one",
        "12 tokens, 3 keys; basic settings",
    ],
)
def test_ordinary_lines_stay_as_they_are(text: str) -> None:
    assert PLAIN.text(text) == text
    assert PLAIN.value({"line": text, "n": 3, "x": None}) == {"line": text, "n": 3, "x": None}
