"""Fetching what callers name by URL, without letting them reach what only this machine can reach.

Every address is checked at the moment of connecting (:mod:`seedvr2_ray.serve.security.egress`), every redirect is a
new URL to be checked, and no URL appears in a message with its user, password or query.
"""

import base64
import errno
import os
import re
import ssl
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import httpcore
import httpx

from seedvr2_ray.errors import CapacityError, SeedVR2Error, StorageError
from seedvr2_ray.serve.config import FetchRules, Limits
from seedvr2_ray.serve.problems import FetchRefusal
from seedvr2_ray.serve.security.egress import Egress, NoAddressError
from seedvr2_ray.serve.security.network_addresses import matches_host
from seedvr2_ray.storage.location import PART_PREFIX, printable

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAY_PASS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that may be others in a while."""
_FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_HOST = re.compile(r"[A-Za-z0-9._-]*|[0-9a-fA-F:.]+")
"""After names in other scripts have been turned into ASCII; the second form without its brackets."""
_MOST_URL_CHARACTERS = 4096
_MOST_NAME_CHARACTERS = 120
_MOST_NAME_BYTES = 200
"""In UTF-8: file systems take 255, and what is written beside a file adds to its name."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that has arrived whole."""

    num_bytes: int
    name: str
    """What the server or the URL calls it, made safe to use as a file name."""


def fetch_url(
    url: str,
    target: Path,
    rules: FetchRules,
    limits: Limits,
    *,
    egress: Egress | None = None,
    check_cancelled: Callable[[], None] = lambda: None,
) -> Fetched:
    """Download a file; the target appears when it is complete, or not at all.

    Args:
        url: of a caller.
        target: a path in a folder of ours.
        rules: which URLs the deployment fetches.
        limits: how many bytes, seconds and redirects.
        egress: how hosts are looked up and trusted; tests put other answers here.
        check_cancelled: called between pieces; raises to stop.

    Raises:
        FetchRefusal: the URL is not fetched here, or its server gives no usable file.
        StorageError: the server does not answer now.
        CapacityError: there is no room for the file here.
    """
    way = egress or Egress(allow_private=rules.allow_private)
    deadline = time.monotonic() + limits.fetch_seconds
    part = target.with_name(f"{PART_PREFIX}{uuid4().hex}")
    try:
        fetched = _follow(require_fetchable(url, rules), part, rules, limits, way, deadline, check_cancelled)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return fetched


def require_fetchable(url: str, rules: FetchRules) -> httpx.URL:
    """Check what can be checked of a URL without asking anybody.

    Raises:
        FetchRefusal: it is no URL, or its scheme or host are not fetched here.
    """
    if len(url) > _MOST_URL_CHARACTERS:
        raise FetchRefusal(f"the URL has {len(url)} characters and {_MOST_URL_CHARACTERS} are the most; shorten it")
    try:
        parsed = httpx.URL(url)
        is_sound = _HOST.fullmatch(parsed.raw_host.decode()) is not None and 0 < (parsed.port or 1) < 65536
    except (httpx.InvalidURL, TypeError, UnicodeError, ValueError):
        is_sound = False
    if not is_sound:
        raise FetchRefusal("the URL is malformed; check it, or upload the file instead")
    if parsed.scheme not in rules.schemes:
        allowed = " and ".join(rules.schemes)
        raise FetchRefusal(f"{printable(url)[:200]} is no URL that is fetched here: its scheme must be {allowed}")
    if not parsed.host:
        raise FetchRefusal("the URL names no host; check it, or upload the file instead")
    if rules.allow_hosts and not matches_host(parsed.host, rules.allow_hosts):
        raise FetchRefusal(
            f"{parsed.host} is not among the hosts this deployment fetches from; upload the file instead"
        )
    return parsed


def require_allowed_object(url: str, rules: FetchRules) -> str:
    """Check that a URL of an object store lies below a prefix that the deployment has opened.

    Args:
        url: of a caller: ``s3://bucket/key``.

    Returns:
        The URL.

    Raises:
        FetchRefusal: it does not, or tries to look as if it did.
    """
    shown = printable(url)[:200]
    path = unquote(url)
    odd = (
        "::" in url,
        not url.isprintable() or "\\" in path or "%" in path,
        any(piece in ("", ".", "..") for piece in path.partition("://")[2].rstrip("/").split("/")),
    )
    parts = urlsplit(url)
    if any(odd) or parts.query or parts.fragment or "@" in parts.netloc:
        raise FetchRefusal(
            f"{shown} is no plain name of an object; name it as scheme://bucket/key, without credentials"
        )
    for prefix in rules.object_prefixes:
        if url.startswith(prefix.rstrip("/") + "/"):
            return url
    raise FetchRefusal(f"{shown} is in no place that this deployment reads objects from; upload the file instead")


def require_webhook_url(url: str, secret: str | None) -> str:
    """Check an address for notifications when a job is submitted.

    Raises:
        FetchRefusal: it is no URL that could be notified, or this deployment notifies nobody.
    """
    if secret is None:
        raise FetchRefusal("this deployment sends no notifications; leave out webhook_url and follow the job's events")
    parsed = require_fetchable(url, FetchRules())
    if parsed.userinfo:
        raise FetchRefusal("webhook_url holds a user or password; leave them out: messages are signed instead")
    return url


def plain_name(text: str, *, default: str = "source") -> str:
    """Make a file name of what somebody calls a file: no folders, no control characters, not hidden, not long."""
    last = unicodedata.normalize("NFC", text).replace("\\", "/").rstrip("/").rpartition("/")[2]
    # What is not printable includes the characters that turn the reading direction around.
    visible = "".join(character for character in last if character.isprintable() or character.isspace())
    name = re.sub(r'[:*?"<>|]', "_", " ".join(visible.split())).lstrip(". ")
    suffix = PurePosixPath(name).suffix[:16]
    stem = name.removesuffix(suffix) if suffix else name
    while stem and (len(stem) + len(suffix) > _MOST_NAME_CHARACTERS or _num_bytes(stem + suffix) > _MOST_NAME_BYTES):
        stem = stem[:-1].rstrip()
    return f"{stem}{suffix}" or default


def _num_bytes(name: str) -> int:
    return len(name.encode("utf-8", "surrogatepass"))


def _follow(
    url: httpx.URL,
    part: Path,
    rules: FetchRules,
    limits: Limits,
    way: Egress,
    deadline: float,
    check_cancelled: Callable[[], None],
) -> Fetched:
    """Go from redirect to redirect until there is a file, and write it."""
    first = url
    for _ in range(limits.max_redirects + 1):
        check_cancelled()
        # Credentials of the caller's URL are for that host alone; those that a redirect names are its server's.
        headers = _credentials(first) if _origin(url) == _origin(first) else {}
        try:
            with way.request("GET", url, headers=headers, deadline=deadline) as response:
                if response.status not in _REDIRECTS:
                    num_bytes = _receive(response, url, part, limits, check_cancelled)
                    return Fetched(num_bytes, _name_of(response, url))
                url = _next_url(response, url, rules)
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
            # Nothing of httpcore's goes along: its traceback could show the URL.
            raise _our_error(error, url, limits, is_over=time.monotonic() >= deadline) from None
    raise FetchRefusal(
        f"{_shown(first)} leads through more than {limits.max_redirects} redirects, the limit here; name its end"
    )


def _next_url(response: httpcore.Response, url: httpx.URL, rules: FetchRules) -> httpx.URL:
    place = _header(response, "location")
    try:
        following = url.join(place)
    except (httpx.InvalidURL, ValueError):
        place = ""
    if not place:
        raise FetchRefusal(f"{_shown(url)} redirects to no usable address; upload the file instead")
    if url.scheme == "https" and following.scheme != "https":
        raise FetchRefusal(f"{_shown(url)} redirects from https to {following.scheme}; name the file itself")
    return require_fetchable(str(following), rules)


def _receive(
    response: httpcore.Response, url: httpx.URL, part: Path, limits: Limits, check_cancelled: Callable[[], None]
) -> int:
    if response.status != 200:
        kind = StorageError if response.status in _MAY_PASS else FetchRefusal
        raise kind(
            f"the server of {_shown(url)} answers with HTTP {response.status}; check the URL, or try again later"
        )
    coding = _header(response, "content-encoding").lower()
    if coding not in ("", "identity"):
        raise FetchRefusal(
            f"the server of {_shown(url)} compresses the file ({coding[:20]}) unasked; upload it instead"
        )
    named = _header(response, "content-length")
    if named.isdigit() and int(named) > limits.max_upload_bytes:
        raise _too_large(url, limits)
    num_bytes = 0
    try:
        with part.open("xb") as file:
            for piece in response.iter_stream():
                num_bytes += len(piece)
                if num_bytes > limits.max_upload_bytes:
                    raise _too_large(url, limits)
                file.write(piece)
                check_cancelled()
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in _FULL_DISK:
            raise CapacityError(f"no space left here for {_shown(url)}; try again later") from error
        raise
    if num_bytes == 0:
        raise FetchRefusal(f"{_shown(url)} is empty (0 bytes); check the URL, or upload the file instead")
    return num_bytes


def _too_large(url: httpx.URL, limits: Limits) -> FetchRefusal:
    return FetchRefusal(
        f"{_shown(url)} has more than {limits.max_upload_bytes} bytes, the limit here; "
        "cut the video or submit it as a batch job"
    )


def _our_error(error: Exception, url: httpx.URL, limits: Limits, *, is_over: bool) -> SeedVR2Error:
    if isinstance(error, NoAddressError):
        # Whether a private name exists, and where, is nobody's business.
        return FetchRefusal(
            f"{url.host} has no public address; name a host that everybody can reach, or upload the file"
        )
    if is_over and isinstance(error, httpcore.TimeoutException):
        return FetchRefusal(
            f"{_shown(url)} takes longer than {limits.fetch_seconds:g} s to fetch, the limit here; upload it instead"
        )
    if _is_distrust(error):
        return FetchRefusal(f"{url.host} has no valid certificate for its name; repair it, or upload the file instead")
    if isinstance(error, httpcore.ProtocolError):
        return StorageError(
            f"the server of {_shown(url)} broke off or does not speak HTTP; check the URL, or try again"
        )
    return StorageError(f"{_shown(url)} could not be reached; check the URL, or try again later")


def _is_distrust(error: BaseException | None) -> bool:
    """Whether a certificate that did not fit is behind an error, however often it was wrapped."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _name_of(response: httpcore.Response, url: httpx.URL) -> str:
    disposition = _header(response, "content-disposition")
    if disposition:
        message = Message()
        message["content-disposition"] = disposition.replace("\r", " ").replace("\n", " ")
        named = message.get_filename()
        if named:
            return plain_name(named)
    return plain_name(url.path)


def _header(response: httpcore.Response, wanted: str) -> str:
    for name, value in response.headers:
        if name.lower() == wanted.encode():
            return value.decode("latin-1").strip()
    return ""


def _credentials(url: httpx.URL) -> dict[str, str]:
    if not url.userinfo:
        return {}
    pair = f"{url.username}:{url.password}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _shown(url: httpx.URL) -> str:
    return printable(str(url))[:200]
