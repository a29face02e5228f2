"""Who is asking, and what they may do: API keys, signed tokens (JWT), or nothing at all on loopback."""

import hashlib
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, get_args

import jwt

from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.serve.config import AuthMode, Jwt, ServiceConfig
from seedvr2_ray.serve.problems import AuthenticationRefusal, PermissionRefusal
from seedvr2_ray.serve.secrets import Secrets
from seedvr2_ray.serve.security.api_keys import SCOPES, ApiKey, Scope, is_owner_name, opens, split_token

LOCAL_OWNER = "local"
"""Owner of everything where nobody has to sign in."""

_CLOCK_SECONDS = 10
"""By how much the clocks of who signs tokens and of this machine may differ."""
_LONGEST_TOKEN = 8192
_SHORTEST_SHARED_SECRET = 32
_KEY_NAMES_IN_URLS = frozenset({"api_key", "apikey", "key", "token", "access_token"})
_NOT_A_KEY = ApiKey(
    prefix="",
    digest=hashlib.sha256(b"").hexdigest(),
    owner="nobody",
    scopes=frozenset(),
    created_at=datetime(1970, 1, 1, tzinfo=UTC),
)
"""Compared with where no key has the prefix, so that both refusals take equally long."""


class KeyBook(Protocol):
    """Where keys are looked up: :class:`seedvr2_ray.serve.db.key_store.KeyStore`."""

    def find(self, prefix: str) -> ApiKey | None:
        """Return the key with this public prefix, valid or not."""

    def touch(self, prefix: str) -> None:
        """Note that the key was used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Whoever a request comes from."""

    owner: str
    scopes: frozenset[str]
    key_id: str | None = None
    """Prefix of the API key; None for tokens and on loopback."""

    @property
    def is_admin(self) -> bool:
        """Whether they may see and end what belongs to others."""
        return "admin" in self.scopes

    @property
    def sees(self) -> str | None:
        """The owner whose things they may look at; None stands for everybody's."""
        return None if self.is_admin else self.owner

    def require(self, scope: Scope) -> None:
        """Refuse what the caller's key or token does not allow.

        Raises:
            PermissionRefusal: the scope is missing.
        """
        if scope not in self.scopes and not self.is_admin:
            held = ", ".join(sorted(self.scopes)) or "no scope"
            raise PermissionRefusal(f"this needs the scope {scope} and the key or token has {held}; use another one")


class Authenticator:
    """Turns the headers of a request into a :class:`Caller`."""

    def __init__(
        self,
        config: ServiceConfig,
        secrets: Secrets,
        keys: KeyBook,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Check that the deployment's modes fit together.

        Raises:
            DeploymentError: ``none`` beside another mode, or a key for tokens that is missing or of the wrong kind.
        """
        require_modes(config.auth)
        if "jwt" in config.auth:
            require_jwt_key(config.jwt, secrets.jwt_key)
        self._modes = config.auth
        self._jwt = config.jwt
        self._jwt_key = secrets.jwt_key
        self._keys = keys
        self._now = now

    def authenticate(self, headers: Mapping[str, str], query: Mapping[str, str], client_host: str | None) -> Caller:
        """Find out who sent a request.

        Args:
            headers: of the request, looked up by lower-case names.
            query: of the URL; never read for keys, which logs and histories of browsers would keep.
            client_host: address of the peer.

        Raises:
            AuthenticationRefusal: there is no key, or none that opens anything here.
        """
        if self._modes == ("none",):
            require_loopback_request(headers, client_host)
            return Caller(owner=LOCAL_OWNER, scopes=frozenset(SCOPES))
        credential = _credential(headers)
        if credential is None:
            in_url = sorted(_KEY_NAMES_IN_URLS & {name.lower() for name in query})
            where = f"the key stands in the URL as {in_url[0]}" if in_url else "the request names no key"
            raise AuthenticationRefusal(f"{where}; send it as `Authorization: Bearer ...` or `X-API-Key: ...`")
        if len(credential) > _LONGEST_TOKEN:
            raise AuthenticationRefusal(f"the key has {len(credential)} characters and {_LONGEST_TOKEN} are the most")
        parts = split_token(credential)
        if parts is not None and "keys" in self._modes:
            return self._by_key(*parts)
        if "jwt" in self._modes and credential.count(".") == 2:
            return self._by_token(credential)
        raise AuthenticationRefusal("the key or token has a form that is not accepted here; check that it is complete")

    def _by_key(self, prefix: str, secret: str) -> Caller:
        key = self._keys.find(prefix)
        fits = opens(key or _NOT_A_KEY, secret)
        if key is None or not fits:
            raise AuthenticationRefusal("the key is not known here; check it, or ask the operator for another one")
        if not key.is_valid(self._now()):
            how = "was revoked" if key.revoked_at is not None else f"expired at {key.expires_at:%Y-%m-%d %H:%M} UTC"
            raise AuthenticationRefusal(f"the key {prefix} {how}; ask the operator for another one")
        self._keys.touch(prefix)
        return Caller(owner=key.owner, scopes=key.scopes, key_id=prefix)

    def _by_token(self, token: str) -> Caller:
        claims = self._verified(token)
        owner = claims.get(self._jwt.owner_claim)
        if not isinstance(owner, str) or not is_owner_name(owner):
            raise AuthenticationRefusal(
                f"the token's claim {self._jwt.owner_claim!r} names no owner; get another token"
            )
        named = claims.get(self._jwt.scopes_claim, "")
        given = named.split() if isinstance(named, str) else named if isinstance(named, list) else []
        # The issuer may have scopes for other services too; they mean nothing here.
        return Caller(owner=owner, scopes=frozenset(scope for scope in SCOPES if scope in given))

    def _verified(self, token: str) -> dict[str, Any]:
        assert self._jwt_key is not None
        required = ["exp", "aud", *(["iss"] if self._jwt.issuer else [])]
        try:
            return jwt.decode(
                token,
                self._jwt_key,
                algorithms=list(self._jwt.algorithms),
                audience=self._jwt.audience,
                issuer=self._jwt.issuer,
                leeway=_CLOCK_SECONDS,
                options={"require": required},
            )
        except jwt.ExpiredSignatureError:
            raise AuthenticationRefusal("the token has expired; get a new one") from None
        except jwt.InvalidAudienceError:
            raise AuthenticationRefusal(
                f"the token is meant for another service; get one for the audience {self._jwt.audience}"
            ) from None
        except (jwt.PyJWTError, ValueError):
            # Which check failed would help only whoever forges one.
            raise AuthenticationRefusal("the token is not valid here; get a new one") from None


def auth_of(config: ServiceConfig, environ: Mapping[str, str]) -> ServiceConfig:
    """Let ``SEEDVR2_AUTH`` (``none``, ``keys``, ``jwt`` or ``keys,jwt``) replace what the configuration says.

    Raises:
        DeploymentError: it names something else.
    """
    named = environ.get("SEEDVR2_AUTH", "")
    if not named:
        return config
    modes = tuple(mode.strip() for mode in named.split(","))
    known = get_args(AuthMode)
    if not set(modes) <= set(known):
        raise DeploymentError(f"SEEDVR2_AUTH is {named!r}; it must be one or more of {', '.join(known)}")
    require_modes(modes)
    return config.model_copy(update={"auth": modes})


def require_modes(modes: Sequence[str]) -> None:
    """Refuse a combination of modes that leaves the door open, or shut for everybody.

    Raises:
        DeploymentError: there is no mode, or ``none`` stands beside another one.
    """
    if not modes or ("none" in modes and len(modes) > 1):
        raise DeploymentError(f"auth is {', '.join(modes) or 'empty'}; choose keys, jwt, both of them, or none alone")


def require_safe_binding(config: ServiceConfig, host: str) -> None:
    """Refuse to serve everybody who can reach this machine without asking who they are.

    Args:
        host: the address that Serve's HTTP proxies listen on.

    Raises:
        DeploymentError: nobody has to sign in, and others than this machine could call.
    """
    if "none" in config.auth and not is_loopback(host):
        raise DeploymentError(
            f"auth is none and the service would listen on {host}; listen on 127.0.0.1, or set auth to keys or jwt"
        )


def require_loopback_request(headers: Mapping[str, str], client_host: str | None) -> None:
    """Refuse requests that do not come from a program or a page of this machine.

    A peer on loopback is not enough: it may be a proxy that speaks for others, or a browser in which a foreign
    page posts a form to, or has rebound its name to, this address.

    Raises:
        AuthenticationRefusal: the request comes from elsewhere.
    """
    origin = headers.get("origin")
    foreign = (
        (not is_loopback(client_host or ""), "it comes from another machine"),
        (any(name in headers for name in ("forwarded", "x-forwarded-for", "x-real-ip")), "it came through a proxy"),
        (not is_loopback(_host_in(headers.get("host", ""))), "it was sent to another name than localhost"),
        (origin is not None and not is_loopback(_host_in(origin)), "it comes from a page of another site"),
    )
    for is_foreign, why in foreign:
        if is_foreign:
            raise AuthenticationRefusal(
                f"this service asks nobody to sign in and therefore answers this machine only, but {why}; "
                "set auth to keys or jwt to serve others"
            )


def is_loopback(host: str) -> bool:
    """Say whether a host name or address can only mean this machine."""
    bare = host.strip("[]")
    if bare.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def require_jwt_key(rules: Jwt, key: str | None) -> None:
    """Refuse a key for tokens with which tokens could be forged.

    Raises:
        DeploymentError: it is missing, too short, or does not fit the algorithm.
    """
    if len(rules.algorithms) != 1:
        # One key for both would let a public key serve as the shared secret of forged tokens.
        raise DeploymentError(f"jwt.algorithms is {', '.join(rules.algorithms) or 'empty'}; name exactly one")
    if key is None:
        raise DeploymentError("auth names jwt and SEEDVR2_JWT_KEY is not set; set it to the shared or public key")
    is_public_key = "-----BEGIN PUBLIC KEY-----" in key
    if rules.algorithms == ("RS256",) and not is_public_key:
        raise DeploymentError("SEEDVR2_JWT_KEY is no public key in PEM, which RS256 needs; never give a private key")
    if rules.algorithms == ("HS256",):
        if "-----BEGIN" in key or len(key.encode()) < _SHORTEST_SHARED_SECRET:
            raise DeploymentError(
                f"SEEDVR2_JWT_KEY must be a random secret of {_SHORTEST_SHARED_SECRET} bytes or more for HS256"
            )


def _credential(headers: Mapping[str, str]) -> str | None:
    scheme, _, value = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    if split_token(scheme) is not None and not value:
        return scheme  # A key alone, as RunPod's own examples for curl send it.
    return headers.get("x-api-key", "").strip() or None


def _host_in(text: str) -> str:
    """The host in a Host or Origin header."""
    authority = text.rpartition("://")[2]
    if authority.startswith("["):
        return authority.partition("]")[0].strip("[]")
    return authority.partition(":")[0]
