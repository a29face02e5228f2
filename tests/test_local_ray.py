import json
import os
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.local_ray import address_of, confine, keep_token, service_token_file
from tests.listening import listeners_of

ROOT = Path(__file__).parents[1]


def test_a_ray_of_our_own_is_confined_to_loopback_and_asks_for_a_token_of_this_run() -> None:
    first, second = dict[str, str](), dict[str, str]()
    confine(first)
    confine(second)
    assert first["RAY_AUTH_MODE"] == "token" and first["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert len(first["RAY_AUTH_TOKEN"]) == 64 and first["RAY_AUTH_TOKEN"] != second["RAY_AUTH_TOKEN"]


@pytest.mark.parametrize(
    "said", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "x" * 64}, {"RAY_AUTH_TOKEN_PATH": "/a/token"}]
)
def test_what_the_environment_says_of_tokens_stays(said: dict[str, str], tmp_path: Path) -> None:
    environ = dict(said)
    confine(environ, token_file=tmp_path / "token")
    assert {name: environ[name] for name in said} == said
    assert not (tmp_path / "token").exists()
    # Where it listens is not a matter of tokens.
    assert environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


def test_the_token_of_a_service_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "token"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(keep_token, [path] * 16))
    token = path.read_text()
    keep_token(path)
    assert path.read_text() == token and len(token) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["token"]


def test_a_token_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    keep_token(path)
    path.chmod(0o644)
    with pytest.raises(DeploymentError, match="others may read it; delete it"):
        keep_token(path)


def test_the_token_lies_where_no_other_ray_finds_it() -> None:
    assert service_token_file({"XDG_STATE_HOME": "/state"}) == Path("/state/seedvr2-ray/ray-token")
    assert ".ray" not in service_token_file({}).parts


def test_a_job_runs_where_it_says_then_where_the_environment_says_then_on_its_own_ray() -> None:
    assert address_of("auto", {"RAY_ADDRESS": "elsewhere"}) == "auto"
    assert address_of(None, {"RAY_ADDRESS": "elsewhere"}) == "elsewhere"
    assert address_of(None, {}) == "local"


def test_a_ray_that_would_not_notice_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    monkeypatch.setitem(sys.modules, "ray", object())  # type: ignore[arg-type]
    with pytest.raises(DeploymentError, match="call seedvr2_ray.local_ray.confine"):
        confine()


def test_the_walk_through_proc_tells_loopback_from_all_interfaces() -> None:
    with socket.create_server(("127.0.0.1", 0)) as near, socket.create_server(("0.0.0.0", 0)) as far:
        with socket.create_server(("::", 0), family=socket.AF_INET6) as far6:
            found = {listener.port: listener.is_loopback for listener in listeners_of(os.getpid())}
            ports = [each.getsockname()[1] for each in (near, far, far6)]
    assert [found[port] for port in ports] == [True, False, False]


_JOB = """
import json, os
from seedvr2_ray.local_ray import confine
confine()
import ray
from seedvr2_ray.batch.execution.cluster import connected
from tests.listening import listeners_of

with connected(None):
    task = ray.remote(lambda: os.environ["RAY_AUTH_TOKEN"] == token)
    token = os.environ["RAY_AUTH_TOKEN"]
    assert ray.get(task.remote())
    found = listeners_of(os.getpid())
    print(json.dumps([len(found), [str(each) for each in found if not each.is_loopback]]))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_the_ray_of_a_local_job_listens_on_loopback_only_and_has_a_token() -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", _JOB], check=True, capture_output=True, text=True, env=environ, cwd=ROOT, timeout=400
    )
    num_sockets, open_to_others = json.loads(done.stdout.splitlines()[-1])
    assert num_sockets >= 4 and open_to_others == []
