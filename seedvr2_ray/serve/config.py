"""What one deployment is: the ``args`` of ``serve_config.yaml``. Unknown keys are refused.

Secrets do not belong here: they are read from the environment in the entry point (:mod:`seedvr2_ray.serve.secrets`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.storage.location import is_local, open_location, printable

_MIB = 2**20

AuthMode = Literal["none", "keys", "jwt"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Section):
    """What callers may ask for. Changes of these through ``user_config`` take effect without a restart."""

    max_upload_bytes: int = 500 * 10**6
    max_frames: int = 500_000
    max_pixels: int = 8192 * 4320
    """Of a picture, read or written."""
    probe_seconds: float = 30.0
    """A file that takes longer to look at is refused."""
    probe_memory_bytes: int = 2048 * _MIB
    fetch_seconds: float = 600.0
    estimate_fetch_seconds: float = 60.0
    """Likewise where a file is fetched only to be estimated, which somebody waits for."""
    max_redirects: int = 3
    max_queued_jobs: int = 1000
    """Of all owners together; one more is answered with 429."""
    max_queued_gpu_seconds: float = 200_000.0
    """Estimated device time of everything that waits."""
    max_unfinished_jobs_per_owner: int = 200
    max_active_jobs: int = 64
    """Jobs that one runner works on side by side; their segments share the replicas fairly."""
    max_active_jobs_per_owner: int = 16
    """Of those, so that one owner's long videos leave room for others to begin."""
    gpu_seconds_per_day: float = 0.0
    """Quota of one owner in 24 hours; 0 sets none. What his unfinished jobs are estimated to take counts as used."""
    max_stored_upload_bytes_per_owner: int = 100 * 10**9
    """Of uploads that are not deleted, as announced; one that does not say how long it is counts as the longest."""
    max_uploads_per_owner: int = 2000
    """Likewise, by number."""
    min_free_bytes: int = 256 * 2**20
    """Of the disk that holds ``data``; with less, nothing is taken and the service is not ready."""
    requests_per_minute: int = 1200
    """Of one key, or of one address without keys."""
    max_requests_at_once_per_owner: int = 100
    """That one ingress replica answers at a time, event streams among them; one more is answered with 429."""
    max_requests_at_once_per_address: int = 400
    """Likewise of one address. Callers behind a proxy have its address, unless it says theirs and uvicorn trusts it."""
    body_seconds: float = 30.0
    """For a JSON body to arrive whole, and for each piece of a longer one to follow the one before."""
    stall_seconds: float = 600.0
    """A segment that shows no progress for so long is given to another replica."""
    max_segment_tries: int = 3
    max_parallel_streams: int = 200
    """Event streams and sockets that one ingress replica keeps open."""
    max_inline_result_bytes: int = 50 * 10**6
    """Largest result that is sent as base64 inside JSON; a larger one is named by its link."""
    runsync_seconds: float = 300.0
    """How long RunPod's ``runsync`` waits before it answers IN_PROGRESS. Plain scripts read only that answer."""


class GangPool(_Section):
    """Gangs of another size of a model: a pool of their own, which is like the model's but for what is said here."""

    num_cpus: float | None = None
    min_replicas: int = 0
    max_replicas: int = 1
    megapixels_per_second: float | None = None
    """By default the model's, times how many more devices there are."""
    price_per_gpu_hour: float | None = None


class ModelPool(_Section):
    """One restorer deployment: a model, what a replica of it needs, and how many there may be."""

    num_gpus: float = 0.0
    num_cpus: float = 1.0
    gang_size: int = 1
    """Devices of one machine that act as one restorer: a gang. ``num_gpus`` is then what each of its ranks has, and
    ``num_cpus`` what its leader has."""
    sp_strategy: Literal["auto", "windows", "ulysses"] = "auto"
    """How the ranks of a gang share the transformer's work; changes speed, not the picture."""
    rank_silence_seconds: float = 30.0
    """A rank whose process gives no sign of life for so long ends its gang, which is started again."""
    min_replicas: int = 0
    max_replicas: int = 1
    downscale_to_zero_seconds: float = 300.0
    megapixels_per_second: float = 1.0
    """Assumed of one replica until it has been measured by jobs that ran."""
    price_per_gpu_hour: float = 0.0
    gpu_memory_bytes: int = 0
    """Of one device: what a job needs is held against it, and clients of the RunPod API may ask; 0 where nobody has
    said."""
    gangs: dict[int, GangPool] = Field(default_factory=dict)
    """More gangs of this model, by their size. A job goes to the smallest that can hold it, if ``gpu_memory_bytes`` is
    known, or to the size that its caller asks for; otherwise to the pool that is described above."""

    @property
    def sizes(self) -> dict[int, "ModelPool"]:
        """All pools of this model, by the size of their gangs, from small to large."""
        found = {self.gang_size: self}
        for size, gang in self.gangs.items():
            usual = {"megapixels_per_second": self.megapixels_per_second * size / self.gang_size}
            said = {name: value for name, value in gang.model_dump().items() if value is not None}
            found[size] = self.model_copy(update={**usual, **said, "gang_size": size, "gangs": {}})
        return dict(sorted(found.items()))


class FetchRules(_Section):
    """Which URLs the service reads sources from."""

    schemes: tuple[Literal["https", "http"], ...] = ("https", "http")
    allow_hosts: tuple[str, ...] = ()
    """Host names, or ``*.example.org``; empty allows every public host."""
    allow_private: tuple[str, ...] = ()
    """Networks (CIDR) below the private and loopback ranges that may be fetched from all the same."""
    object_prefixes: tuple[str, ...] = ()
    """URLs of object stores (``s3://bucket/prefix/``) that jobs may name; empty allows none."""


class Retention(_Section):
    """When what belongs to finished jobs is deleted. Usage records stay.

    Where ``data`` is an object store, copies of sources on the machines go an hour after a job last read them.
    """

    uploads_hours: float = 24.0
    """Of uploads that no job uses, and of inputs after their job ended."""
    intermediates_hours: float = 24.0
    results_hours: float = 24.0 * 7


class Webhooks(_Section):
    """Delivery of signed notifications."""

    max_tries: int = 8
    first_pause_seconds: float = 5.0
    longest_pause_seconds: float = 3600.0
    timeout_seconds: float = 10.0
    allow_private: tuple[str, ...] = ()
    """Networks (CIDR) that may be notified although they are private."""


class Jwt(_Section):
    """How bearer tokens are checked; the key itself comes from the environment."""

    algorithms: tuple[Literal["HS256", "RS256"], ...] = ("RS256",)
    audience: str = "seedvr2-ray"
    issuer: str | None = None
    owner_claim: str = "sub"
    scopes_claim: str = "scope"


class UpscaleApi(_Section):
    """Which models the ``/upscale`` API uses."""

    standard_model: str | None = None
    """For 720p and 1080p; by default the deployment's default model."""
    large_model: str | None = None
    """For 2k and 4k, which want more memory or a gang; by default the standard one."""
    standard_gpu_type: str = ""
    """What callers are told about the devices of the standard model; by default how many it has, or ``CPU``."""
    large_gpu_type: str = ""
    largest_batch: int = 21
    """Longest ``batch_size`` that is followed; longer chunks need more memory than these devices may have."""


class LiveLimits(_Section):
    """Live streams: who is let in, and how long they are waited for."""

    max_streams: int = 64
    """That one ingress replica keeps open; each takes a restorer replica of its own."""
    wait_seconds: float = 30.0
    """For a free replica; a stream that finds none is refused."""
    least_factor: float = 1.0
    """Least real-time factor, measured on the stream's first picture, of a stream that may not drop frames."""
    least_factor_dropping: float = 0.2
    """The same of a stream that may."""
    grace_seconds: float = 10.0
    """How long a caller whose connection broke may come back."""
    stall_seconds: float = 30.0
    """How long a caller may send nothing, or read nothing while what waits for it has no room."""
    most_waiting_bytes: int = 32 << 20
    """Of a restored stream that wait to be read; some more are on their way in the connection."""


class ServiceConfig(_Section):
    """The whole deployment."""

    data: str = "seedvr2-data"
    """Folder or fsspec URL of uploads, intermediates and results; every machine must see the same one."""
    results_from: Literal["service", "nginx", "store"] = "service"
    """Who sends results: ``nginx`` in front (X-Accel-Redirect, see ``examples/nginx.conf``) or the object ``store`` to
    which callers are redirected; both cost an ingress nothing."""
    database_url: str | None = None
    """SQLAlchemy URL; by default SQLite inside ``data``, which must then be local."""
    auth: tuple[AuthMode, ...] = ("keys",)
    """``SEEDVR2_AUTH`` in the environment overrides it; ``none`` is refused unless only loopback is served."""
    jwt: Jwt = Field(default_factory=Jwt)
    models: dict[str, ModelPool] = Field(default_factory=lambda: {"nano": ModelPool(), "lanczos": ModelPool()})
    default_model: str = "nano"
    """What ``auto`` means here; one of ``models``."""
    limits: Limits = Field(default_factory=Limits)
    fetch: FetchRules = Field(default_factory=FetchRules)
    retention: Retention = Field(default_factory=Retention)
    webhooks: Webhooks = Field(default_factory=Webhooks)
    live: LiveLimits = Field(default_factory=LiveLimits)
    model_aliases: dict[str, str] = Field(default_factory=dict)
    """For clients of the RunPod API: which of ``models`` serves those that they name and that are not deployed here,
    such as ``{"seedvr2_3b": "nano", "seedvr2_7b_sharp": "nano"}``. None unless the operator says so."""
    upscale: UpscaleApi = Field(default_factory=UpscaleApi)
    rate_limits_url: str = "memory://"
    """Where requests are counted; ``redis://...`` (with the package redis) counts for all ingress replicas together."""
    cors_origins: tuple[str, ...] = ()
    public_url: str | None = None
    """Where callers reach the service, for absolute links in webhooks; by default links are relative."""
    lease_seconds: float = 15.0
    """A runner that does not renew its claim for so long has lost its jobs."""
    num_ingress_replicas: int = 1
    num_finishers: int = 2
    """Most CPU replicas that probe, finish segments and assemble."""
    scratch: str | None = None
    """Folder on every machine for copies of remote sources; by default below the system's temporary folder."""
    weights_dir: str | None = None
    weights_mirror: str | None = None

    @property
    def pools(self) -> dict[str, ModelPool]:
        """Every deployment of restorers, by its name: that of its model, and of further gangs their size."""
        return {
            pool_name(model, own, size): pool for model, own in self.models.items() for size, pool in own.sizes.items()
        }

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        """Refuse what names models that are not here, or senders of results that cannot reach them."""
        named = {
            **{f"model_aliases.{alias}": model for alias, model in self.model_aliases.items()},
            "upscale.standard_model": self.upscale.standard_model,
            "upscale.large_model": self.upscale.large_model,
        }
        if self.results_from != "service" and is_local(self.data) != (self.results_from == "nginx"):
            kind = "a folder, which nginx sends from" if self.results_from == "nginx" else "an object store"
            raise ValueError(f"results_from is {self.results_from} and data is not {kind}; set results_from to service")
        for place, model in named.items():
            if model is not None and model not in self.models:
                raise ValueError(f"{place} is {model}, which is not among models: {', '.join(sorted(self.models))}")
        return self


def pool_name(model: str, own: ModelPool, size: int) -> str:
    """Return how a model's pool of gangs of a size is called."""
    return model if size == own.gang_size else f"{model}-gang-{size}"


def database_url_of(config: ServiceConfig, environ: Mapping[str, str]) -> str:
    """Return where the jobs are kept: the environment's word, the configuration's, or SQLite inside ``data``.

    Args:
        environ: ``SEEDVR2_DATABASE_URL`` may hold a password and therefore need not stand in a file.

    Raises:
        DeploymentError: ``data`` is not local, and no database is named.
    """
    named = environ.get("SEEDVR2_DATABASE_URL") or config.database_url
    if named:
        return named
    if not is_local(config.data):
        raise DeploymentError(
            f"data is {printable(config.data)}, where SQLite cannot lie; set database_url or SEEDVR2_DATABASE_URL"
        )
    folder = Path(open_location(config.data).path).absolute()
    return f"sqlite:///{folder / 'service.db'}"
