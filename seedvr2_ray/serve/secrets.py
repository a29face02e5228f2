"""What must not stand in a configuration file: read from the environment by the entry points, never at import."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Secrets:
    """Keys of one deployment. Never shown: their ``repr`` says only that they are there."""

    signing_key: bytes | None = field(default=None, repr=False)
    """Signs links to results. Without one, a random key is kept in the database, so that all replicas share it."""
    jwt_key: str | None = field(default=None, repr=False)
    """Shared secret (HS256) or public key in PEM (RS256)."""
    webhook_secret: str | None = field(default=None, repr=False)
    """``whsec_...``; without one no webhooks are accepted."""
    sentry_dsn: str | None = field(default=None, repr=False)


def read_secrets(environ: Mapping[str, str]) -> Secrets:
    """Take the secrets from ``SEEDVR2_*`` variables; empty ones count as not set."""
    signing_key = environ.get("SEEDVR2_SIGNING_KEY") or None
    return Secrets(
        signing_key=None if signing_key is None else signing_key.encode(),
        jwt_key=environ.get("SEEDVR2_JWT_KEY") or None,
        webhook_secret=environ.get("SEEDVR2_WEBHOOK_SECRET") or None,
        sentry_dsn=environ.get("SEEDVR2_SENTRY_DSN") or None,
    )
