"""API keys as values: how a token is made, taken apart and compared. No database, no HTTP.

A token reads ``svr2_<prefix>_<secret>``. The prefix is public: it names the row, shows in listings and logs, and lets
scanners of code repositories recognise a leaked key. Of the secret only a hash is kept; it has 256 random bits, so
that a plain SHA-256 cannot be searched and a slow one would only slow every request down.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, get_args

from seedvr2_ray.errors import InputError

Scope = Literal["jobs:read", "jobs:write", "admin"]
"""What a caller may do; ``admin`` includes the others and sees every owner's jobs."""

SCOPES: tuple[str, ...] = get_args(Scope)

TOKEN_START = "svr2"
_TOKEN = re.compile(rf"{TOKEN_START}_([a-z0-9]{{12}})_([A-Za-z0-9_-]{{43}})")
_PREFIX_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_MOST_OWNER_CHARACTERS = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """A row of the table of keys."""

    prefix: str
    """Public and unique: the key's id."""
    digest: str = field(repr=False)
    """SHA-256 of the secret, in hex."""
    owner: str
    scopes: frozenset[str]
    created_at: datetime
    """UTC, like every time here."""
    name: str = ""
    """For people: where the key is used."""
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        """Whether the key opens anything at this time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def make_key(
    owner: str,
    scopes: Iterable[str],
    *,
    now: datetime,
    name: str = "",
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """Make a key and its token; the token cannot be had again.

    Raises:
        InputError: a scope is unknown, there is none, or the owner's name is no name.
    """
    chosen = frozenset(scopes)
    if not chosen or not chosen <= set(SCOPES):
        found = ", ".join(sorted(chosen)) or "none"
        raise InputError(f"the scopes are {found}; choose from {', '.join(SCOPES)}")
    if not is_owner_name(owner):
        raise InputError(
            f"{owner[:_MOST_OWNER_CHARACTERS]!r} is no owner's name; use 1 to {_MOST_OWNER_CHARACTERS} "
            "printable characters without spaces at the ends"
        )
    prefix = "".join(secrets.choice(_PREFIX_LETTERS) for _ in range(12))
    secret = secrets.token_urlsafe(32)
    key = ApiKey(
        prefix=prefix,
        digest=digest_of_secret(secret),
        owner=owner,
        scopes=chosen,
        created_at=now,
        name=name,
        expires_at=expires_at,
    )
    return key, f"{TOKEN_START}_{prefix}_{secret}"


def is_owner_name(text: str) -> bool:
    """Say whether a text can name an owner: short, printable, no spaces at its ends."""
    return bool(text) and text.isprintable() and text == text.strip() and len(text) <= _MOST_OWNER_CHARACTERS


def split_token(token: str) -> tuple[str, str] | None:
    """Return a token's prefix and secret, or None when it is no API key."""
    match = _TOKEN.fullmatch(token)
    return (match[1], match[2]) if match else None


def digest_of_secret(secret: str) -> str:
    """Hash the secret part of a token."""
    return hashlib.sha256(secret.encode()).hexdigest()


def opens(key: ApiKey, secret: str) -> bool:
    """Compare in constant time, so that the time an answer takes tells nothing about the digest."""
    return hmac.compare_digest(key.digest, digest_of_secret(secret))
