"""A really running service for tests: Ray and Serve in a process of their own, over HTTP on loopback.

The whole of it can be killed and started again on the same data, as a machine that loses its power is.
"""

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from seedvr2_ray.cli.serve import PROXY_CALLBACK
from seedvr2_ray.restoration.load import RestorerSource
from seedvr2_ray.serve.config import ModelPool, ServiceConfig, database_url_of
from seedvr2_ray.serve.db.database import Database, open_database, utc_now
from seedvr2_ray.serve.db.key_store import KeyStore
from seedvr2_ray.serve.security.api_keys import make_key
from tests.ports import free_port
from tests.processes import descendants, kill_family

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 300.0
_STOP_SECONDS = 60.0
APP_NAME = "seedvr2"

DEFAULT_MODELS = {"lanczos": ModelPool(num_cpus=0.2, min_replicas=1)}


@dataclass(frozen=True, kw_only=True)
class ServicePlan:
    """What the service is. Pickled to whoever builds it."""

    config: ServiceConfig
    port: int
    num_cpus: float
    environ: Mapping[str, str]
    restorers: RestorerSource | None = None


@dataclass
class RunningService:
    """A service that answers at ``base_url``, until it is stopped or killed."""

    plan: ServicePlan
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    _ray_folder: str = ""
    _tokens: dict[str, str] = field(default_factory=dict)
    _deployments: dict[str, dict[str, Any]] = field(default_factory=dict)
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.folder / "service.log"

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.plan.port}"

    @cached_property
    def database(self) -> Database:
        """The service's own, to look into."""
        return open_database(database_url_of(self.plan.config, self.plan.environ))

    def token(self, owner: str) -> str:
        """An API key of an owner, as the operator gives them out."""
        if owner not in self._tokens:
            key, self._tokens[owner] = make_key(owner, ["jobs:read", "jobs:write"], now=utc_now())
            KeyStore(self.database).add(key)
        return self._tokens[owner]

    def headers(self, owner: str) -> dict[str, str]:
        """What an owner's requests carry; nothing where nobody has to sign in."""
        is_open = self.plan.config.auth == ("none",)
        return {} if is_open else {"Authorization": f"Bearer {self.token(owner)}"}

    def client(self, owner: str = "anna", **options: Any) -> httpx.Client:
        """A client of an owner, whose patience is that of a busy machine."""
        return httpx.Client(base_url=self.base_url, headers=self.headers(owner), **{"timeout": 60.0, **options})

    def start(self) -> None:
        """Start Ray and the service, and wait until it is ready."""
        assert self.process is None, "it runs already"
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "plan.pickle").write_bytes(pickle.dumps(self.plan))
        self._write_config()
        # Ray's sockets need a short path.
        self._ray_folder = tempfile.mkdtemp(prefix="sv", dir="/tmp")
        environ = {
            **os.environ,
            "PYTHONPATH": str(_ROOT),
            "RAY_AUTH_MODE": "disabled",
            "RAY_ENABLE_AUTO_CONNECT": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            **dict([PROXY_CALLBACK]),
            **self.plan.environ,
        }
        command = [sys.executable, "-m", "tests.serve.serve_process"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, str(self.folder / "serve.json"), self._ray_folder, str(self.plan.num_cpus)],
                cwd=_ROOT,
                env=environ,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_for(self.is_ready, _START_SECONDS, "the service does not become ready")

    def redeploy(self, *deployments: Mapping[str, Any]) -> None:
        """Do what ``serve deploy`` does after these entries of ``deployments`` were put into the configuration."""
        assert self.process is not None
        for entry in deployments:
            self._deployments[entry["name"]] = {**self._deployments.get(entry["name"], {}), **entry}
        self._write_config()
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """End it as an operator does: replicas drain, jobs are given back."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End every process of it at once, as a power cut does."""
        if self.process is None:
            return
        kill_family(self.process)
        self.process = None
        shutil.rmtree(self._ray_folder, ignore_errors=True)

    def forget(self) -> None:
        """Close what was opened to look into it."""
        if "database" in self.__dict__:
            self.database.close()
            del self.database

    def pids_of(self, deployment: str) -> list[int]:
        """Return the processes of a deployment's replicas: ``api``, ``runner``, ``finisher``, ``restorer-lanczos``."""
        return self.pids_titled(f"ServeReplica:{APP_NAME}:{deployment}")

    def pids_titled(self, title: str) -> list[int]:
        """Return the processes in whose command lines a title stands."""
        assert self.process is not None
        return [pid for pid in descendants(self.process.pid) if title in _command_line(pid)]

    def wait_for(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait until something is true; fail with the end of the log when it never is."""
        deadline = time.monotonic() + seconds
        while not condition():
            is_over = self.process is not None and self.process.poll() is not None
            if is_over or time.monotonic() > deadline:
                end = self.log.read_text(errors="replace")[-4000:]
                raise AssertionError(f"{what}{' (its process has ended)' if is_over else ''}:\n{end}")
            time.sleep(0.1)

    def _write_config(self) -> None:
        application = {
            "name": APP_NAME,
            "route_prefix": "/",
            "import_path": "tests.serve.planned_app:build",
            "args": {"plan": str(self.folder / "plan.pickle")},
            "deployments": list(self._deployments.values()),
        }
        config = {
            "proxy_location": "HeadOnly",
            "http_options": {"host": "127.0.0.1", "port": self.plan.port},
            "applications": [application],
        }
        (self.folder / "serve.json").write_text(json.dumps(config))

    def is_ready(self) -> bool:
        """Whether it takes jobs; no answer is none."""
        try:
            return httpx.get(f"{self.base_url}/readyz", timeout=60).status_code == 200
        except httpx.HTTPError:
            return False


@contextmanager
def start_service(
    folder: Path,
    *,
    data: str | None = None,
    database_url: str | None = None,
    models: Mapping[str, ModelPool] = DEFAULT_MODELS,
    restorers: RestorerSource | None = None,
    num_cpus: float = 4,
    environ: Mapping[str, str] | None = None,
    **config: Any,
) -> Iterator[RunningService]:
    """Start a service in a folder, wait until it is ready, and end whatever is left of it afterwards.

    Args:
        folder: of its data and log; the same folder again is the same service after a restart.
        data: where it keeps files; by default in the folder.
        database_url: by default SQLite in the folder.
        models: deployments of restorers.
        restorers: where those get their models; by default from the catalogue. Pickled.
        num_cpus: that Ray believes to have.
        environ: more variables of its environment.
        config: more fields of :class:`ServiceConfig`; ``auth`` is ``none`` unless given.
    """
    values = {"auth": ("none",), "default_model": next(iter(models)), "lease_seconds": 120.0, **config}
    plan = ServicePlan(
        config=ServiceConfig(
            data=data or str(folder / "data"),
            scratch=str(folder / "scratch"),
            database_url=database_url,
            models=dict(models),
            **values,
        ),
        port=free_port(),
        num_cpus=num_cpus,
        environ=dict(environ or {}),
        restorers=restorers,
    )
    service = RunningService(plan, folder)
    try:
        service.start()
        yield service
    finally:
        service.kill()
        service.forget()


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
