"""Taking secrets out of whatever is about to be logged, traced or reported.

Two nets, one behind the other: secrets that this deployment knows are removed wherever they stand; secrets of others
are recognised by where they stand (users, passwords and queries of URLs, headers that sign in, values named so) and by
their looks (keys of ours, signed tokens).
"""

import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, urlsplit

from seedvr2_ray.serve.secrets import Secrets

HIDDEN = "***"

_SHORTEST_KNOWN = 6
"""A known secret that is shorter would hide half of every line."""

_SECRET_NAMES = (
    r"(?:proxy-)?authorization|x-api-key|api[_-]?key|(?:set-)?cookie|webhook-signature|x-runpod-signature|"
    r"(?:[a-z0-9_-]*[_-])?(?:secret|password|passwd|pwd|token|signature|credentials?|private[_-]?key)|"
    r"x-amz-[a-z-]+|awsaccesskeyid|aws_[a-z_]+|dsn|sig"
)
_NAME = re.compile(rf"(?:{_SECRET_NAMES})", re.IGNORECASE)
_URL = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{0,30})://([^\s\"'<>]*)")
_RULES = (
    # A header that signs in: up to the end of its line, for its value may hold anything.
    (re.compile(r"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|x-api-key)(\s*[:=]\s*)[^\r\n]+"), rf"\1\2{HIDDEN}"),
    # A value named as a secret: in quotes up to the closing one, ...
    (
        re.compile(
            rf"(?i)(?<![a-z0-9_-])({_SECRET_NAMES})(b?[\"']?\s*[:=,]\s*b?)(\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')"
        ),
        rf"\1\2'{HIDDEN}'",
    ),
    # ... and anything else up to what separates values.
    (
        re.compile(rf"(?i)(?<![a-z0-9_-])({_SECRET_NAMES})(\s*[:=]\s*)(?![\"'\s])[^\s&,;)}}\]\"']+"),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"(?i)\b(bearer)(\s+)[A-Za-z0-9._~+/=-]{4,}"), rf"\1\2{HIDDEN}"),
    (re.compile(r"\b([Bb]asic)(\s+)(?=[a-z]*[A-Z0-9+/=])[A-Za-z0-9+/=]{4,}"), rf"\1\2{HIDDEN}"),
    (re.compile(r"\b(svr2_[a-z0-9]{12}_)[A-Za-z0-9_-]+"), rf"\1{HIDDEN}"),
    (re.compile(r"\bwhsec_[A-Za-z0-9+/=_-]+"), f"whsec_{HIDDEN}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), HIDDEN),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), HIDDEN),
)


class Redactor:
    """Removes secrets from text and from values made of text."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        """Remember the secrets of this deployment."""
        forms = {form for secret in known for form in (secret, quote(secret, safe=""), secret.replace("\n", "\\n"))}
        # The longest first, so that of two secrets of which one begins the other no end is left.
        ordered = sorted((form for form in forms if len(form) >= _SHORTEST_KNOWN), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        text = _URL.sub(_without_secrets, text)
        for pattern, replacement in _RULES:
            text = pattern.sub(replacement, text)
        return text

    def value(self, value: object) -> object:
        """Return a value without secrets: numbers as they are, collections item by item, all else as text."""
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, Mapping):
            return {
                self.text(str(name)): HIDDEN if is_secret_name(_as_text(name)) else self.value(item)
                for name, item in value.items()
            }
        if isinstance(value, (list, tuple, set, frozenset)):
            items = list(value)
            if len(items) == 2 and isinstance(items[0], (str, bytes)) and is_secret_name(_as_text(items[0])):
                return [_as_text(items[0]), HIDDEN]  # A header as clients and servers pass it on.
            return [self.value(item) for item in items]
        return self.text(_as_text(value))


def is_secret_name(name: str) -> bool:
    """Say whether what goes by a name is a secret."""
    return _NAME.fullmatch(name) is not None


def secrets_in(secrets: Secrets, *urls: str | None) -> tuple[str, ...]:
    """List the secrets of a deployment, for a :class:`Redactor` to know.

    Args:
        urls: whose passwords are secrets too: of the database, of the store of rate limits.
    """
    known = [secrets.jwt_key, secrets.webhook_secret, secrets.sentry_dsn]
    if secrets.signing_key is not None:
        known.append(secrets.signing_key.decode(errors="replace"))
    for url in urls:
        known.append(urlsplit(url).password if url else None)
    return tuple(secret for secret in known if secret)


def _as_text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _without_secrets(match: re.Match[str]) -> str:
    """A URL without user, password, query and fragment. What stands before an @ may always be a password."""
    scheme, rest = match.groups()
    place, mark, _ = rest.partition("?")
    place, hash_mark, _ = place.partition("#")
    _, at, after = place.rpartition("@")
    if at:
        # Whether the @ was in a password with a question mark or ends the password is no longer known.
        place = f"{HIDDEN}@{after}"
    elif "@" in rest:
        place = f"{HIDDEN}@{rest.rpartition('@')[2].partition('?')[0].partition('#')[0]}"
        return f"{scheme}://{place}"
    return f"{scheme}://{place}{f'?{HIDDEN}' if mark else ''}{f'#{HIDDEN}' if hash_mark else ''}"
