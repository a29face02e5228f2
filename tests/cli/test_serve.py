"""What ``make serve`` starts is for this machine and this person only."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from seedvr2_ray.cli.main import app
from seedvr2_ray.cli.serve import BEHIND_NGINX
from seedvr2_ray.errors import SettingsError
from tests.listening import Listener, accepts, listeners_of, own_address
from tests.ports import free_port
from tests.processes import kill_family

ROOT = Path(__file__).parents[2]
_SERVE_METHODS = ("HandleRequest", "HandleRequestStreaming", "HandleRequestWithRejection")


def test_a_configuration_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["serve", str(tmp_path / "gone.yaml")])
    assert isinstance(result.exception, SettingsError) and "gone.yaml" in str(result.exception)


def test_make_serve_uses_the_command_that_confines_ray() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "$(BIN)/seedvr2-ray serve serve_config.yaml" in makefile
    assert "RAY_AUTH_MODE" not in makefile


def test_nginx_knows_the_ports_that_the_command_has_the_ingress_listen_on() -> None:
    known = re.findall(r"server 127\.0\.0\.1:(\d+)", (ROOT / "examples" / "nginx.conf").read_text())
    first, last = (int(BEHIND_NGINX[f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"]) for end in ("MIN", "MAX"))
    assert [int(port) for port in known] == list(range(first, last + 1))


@dataclass(frozen=True)
class Service:
    """A service that ``seedvr2-ray serve`` started."""

    pid: int
    port: int
    token_file: Path


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    port = free_port()
    config = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [{"name": "greeting", "import_path": "tests.serve.greeting:app"}],
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environ |= {"XDG_STATE_HOME": str(folder), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "seedvr2_ray", "serve", "--behind-nginx", str(folder / "config.yaml")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environ, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 400
        while not _answers(port):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        yield Service(process.pid, port, folder / "seedvr2-ray" / "ray-token")
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):  # Whoever is started in the background may not hear it.
            process.wait(timeout=20)
        kill_family(process)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
            return bool(answer.read() == b"hello")
    except OSError:
        return False


def _refuses_strangers(listener: Listener, address: str) -> bool:
    """Whether a caller without the token is turned away by whoever takes the connection."""
    with grpc.insecure_channel(f"{address}:{listener.port}") as channel:
        for method in _SERVE_METHODS:
            call = channel.unary_unary(f"/ray.serve.ASGIService/{method}")
            try:
                call(b"", timeout=60)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                    return False
            else:
                return False
    return True


@pytest.mark.ray
@pytest.mark.slow
def test_everything_a_local_service_listens_on_is_loopback_or_asks_for_the_token(service: Service) -> None:
    found = listeners_of(service.pid)
    assert any(each.port == service.port for each in found) and len(found) >= 10
    open_to_others = [each for each in found if not each.is_loopback]
    # Serve's replicas listen for each other on all interfaces and have no option for it; they ask for Ray's token.
    assert all("ServeReplica" in each.command for each in open_to_others), open_to_others
    assert all(_refuses_strangers(each, "127.0.0.1") for each in open_to_others)


@pytest.mark.ray
@pytest.mark.slow
def test_an_nginx_on_this_machine_reaches_the_ingress_itself_and_others_do_not(service: Service) -> None:
    direct = [each for each in listeners_of(service.pid) if 30000 <= each.port <= 30003]
    assert direct and all(each.is_loopback and _answers(each.port) for each in direct)


@pytest.mark.ray
@pytest.mark.slow
def test_from_another_address_nothing_of_a_local_service_answers_without_the_token(service: Service) -> None:
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    found = listeners_of(service.pid)
    reachable = [each for each in found if accepts(address, each.port)]
    assert all(_refuses_strangers(each, address) for each in reachable)
    assert len(reachable) <= sum(not each.is_loopback for each in found)


@pytest.mark.ray
@pytest.mark.slow
def test_the_dashboard_of_a_local_service_asks_for_the_token_too(service: Service) -> None:
    (dashboard,) = {each for each in listeners_of(service.pid) if each.port in range(8265, 8366)}
    url = f"http://127.0.0.1:{dashboard.port}/api/jobs/"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, timeout=60)
    refused.value.close()
    assert refused.value.code in (401, 403)
    signed = urllib.request.Request(url, headers={"Authorization": f"Bearer {service.token_file.read_text()}"})
    with urllib.request.urlopen(signed, timeout=60) as answer:
        assert answer.status == 200
