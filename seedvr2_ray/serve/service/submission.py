"""What a caller asks for, whichever of the APIs it came through, and how it is checked before anything is read."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

from seedvr2_ray.errors import InputError, SettingsError
from seedvr2_ray.models.weights.catalogue import find_entry
from seedvr2_ray.restoration.planning.geometry import parse_resolution
from seedvr2_ray.serve.config import ServiceConfig
from seedvr2_ray.serve.jobs import Source
from seedvr2_ray.serve.security.fetch import plain_name, require_allowed_object, require_fetchable
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.address import digest_of
from seedvr2_ray.storage.faults import printable

MOST_METADATA_BYTES = 4096
DEEPEST_NESTING = 32
LONGEST_IDEMPOTENCY_KEY = 255
LONGEST_URL = 4096
PRIORITIES = range(-10, 11)


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A job to be."""

    upload_id: str | None = None
    """What was uploaded before; or else ``url``."""
    url: str | None = None
    """``http(s)``, or an object store's that the deployment allows."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """As they came; checked here."""
    priority: int = 0
    webhook_url: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    gang_size: int | None = None
    """GPUs that are to restore a segment together; None leaves it to the plan. It changes no picture."""
    idempotency_key: str | None = None
    request_digest: str | None = None
    """Of the request, where its upload is made anew by every try; by default of everything above."""

    def digest(self) -> str:
        """Identify the request, to tell a repetition from another one under the same key."""
        if self.request_digest is not None:
            return self.request_digest
        return digest_of(
            {
                "source": [self.upload_id, self.url],
                "settings": dict(self.settings),
                "priority": self.priority,
                "webhook_url": self.webhook_url,
                "metadata": dict(self.metadata),
                **({} if self.gang_size is None else {"gang_size": self.gang_size}),
            }
        )


def settle_settings(values: Mapping[str, Any], config: ServiceConfig) -> RestoreSettings:
    """Check settings and say which model they mean here.

    Raises:
        SettingsError: a setting is unknown or impossible, or this deployment does not have the model.
    """
    settings = RestoreSettings.from_mapping(values)
    parse_resolution(settings.resolution)
    require_storable("settings", settings.to_mapping())
    if settings.model == "auto":
        return replace(settings, model=config.default_model)
    if settings.model not in config.models:
        find_entry(settings.model)  # A model nobody has is told apart from one that is not here.
        raise SettingsError(
            f"model {settings.model!r} is not deployed here; this deployment has {', '.join(sorted(config.models))}"
        )
    return settings


def require_sane(submission: Submission) -> None:
    """Refuse what is wrong with a submission besides its settings and its source.

    Raises:
        InputError: a priority, key or metadata outside the limits, or not exactly one source.
    """
    if (submission.upload_id is None) == (submission.url is None):
        raise InputError("source must name exactly one of upload and url")
    if submission.priority not in PRIORITIES:
        raise InputError(f"priority must lie in {PRIORITIES[0]}..{PRIORITIES[-1]}, got {submission.priority}")
    key = submission.idempotency_key
    if key is not None and not (0 < len(key) <= LONGEST_IDEMPOTENCY_KEY and key.isprintable()):
        raise InputError(f"Idempotency-Key must have 1..{LONGEST_IDEMPOTENCY_KEY} printable characters")
    size = require_storable("metadata", submission.metadata)
    if size > MOST_METADATA_BYTES:
        raise InputError(f"metadata has {size} bytes as JSON and {MOST_METADATA_BYTES} are allowed; keep it elsewhere")


def require_storable(name: str, values: Mapping[str, Any]) -> int:
    """Return the bytes of a mapping as JSON, and refuse what databases cannot hold.

    Raises:
        InputError: a value is not plain JSON, or has characters that are no text.
    """
    require_shallow(name, values)
    try:
        text = json.dumps(dict(values), ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{name} must be a JSON object of plain values: {error}") from error
    if "\\u0000" in text:
        raise InputError(f"{name} has a NUL character, which is no text; leave it out")
    return size


def require_shallow(name: str, value: object) -> None:
    """Refuse what is nested so deeply that something on its way to the database and back would give up.

    Raises:
        InputError: it is.
    """
    level: list[object] = [value]
    for _ in range(DEEPEST_NESTING + 1):
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            return
    raise InputError(f"{name} is nested deeper than {DEEPEST_NESTING} levels, the limit here; make it flatter")


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def source_of_url(url: str, config: ServiceConfig) -> Source:
    """Turn a URL into a source; what its host is and says is only known when it is fetched.

    Raises:
        FetchRefusal: the deployment does not read such URLs.
    """
    scheme = url.partition(":")[0].lower()
    name = plain_name(unquote(printable(url).partition("://")[2].partition("/")[2]))
    if scheme in ("http", "https"):
        return Source(kind="url", location=str(require_fetchable(url, config.fetch)), name=name)
    return Source(kind="object", location=require_allowed_object(url, config.fetch), name=name)
