"""Results that somebody else sends: a real nginx in front, and an object store."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from benchmarks.serve_nginx import find_nginx, nginx_before
from seedvr2_ray.client.blocking import Client
from seedvr2_ray.serve.config import Limits, ServiceConfig
from tests.missing import missing
from tests.ports import free_port
from tests.s3_server import bucket, endpoint
from tests.serve.http.v1.ingress import DATA, Ingress, completed, serving, upload
from tests.waiting import wait_for

__all__ = ["bucket", "endpoint"]

FEW = 4
LONG = bytes(48 << 20)


@dataclass
class Fronted:
    """A service behind nginx, and two finished jobs of Anna's: one with DATA, one with a long result."""

    ingress: Ingress
    url: str
    job: str
    long_job: str

    def client(self, owner: str = "anna") -> httpx.Client:
        """A caller who meets nginx."""
        key = self.ingress.client(owner).headers["authorization"]
        return httpx.Client(base_url=self.url, headers={"Authorization": key}, timeout=30)

    def stalled(self, request: str, headers: str = "") -> socket.socket:
        """Send a head through nginx and do nothing more."""
        sock = socket.create_connection(("127.0.0.1", int(self.url.rpartition(":")[2])))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(f"{request} HTTP/1.1\r\nHost: service\r\n{headers}\r\n".encode())
        return sock


@pytest.fixture(scope="module")
def fronted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fronted]:
    if find_nginx() is None:
        missing("nginx")
    folder = tmp_path_factory.mktemp("fronted")
    limits = Limits(max_requests_at_once_per_owner=FEW, max_requests_at_once_per_address=FEW)
    with serving(folder, auth="keys", limits=limits, results_from="nginx") as ingress:
        jobs = [
            completed(ingress, folder / f"{name}.mp4", f"{name}-restored.mp4", "video/mp4", owner="anna", data=data)
            for name, data in (("Ö 1", DATA), ("long", LONG))
        ]
        upstream = int(ingress.url.rpartition(":")[2])
        with nginx_before(upstream, folder / "data" / "results", folder / "nginx", port=free_port()) as nginx:
            yield Fronted(ingress, f"http://127.0.0.1:{nginx.port}", *jobs)


@pytest.mark.slow
def test_nginx_sends_results_and_the_service_sends_none_of_their_bytes(fronted: Fronted) -> None:
    path = f"/v1/jobs/{fronted.job}/result"
    with fronted.client() as client:
        whole = client.get(path)
        assert (whole.status_code, whole.content) == (200, DATA)
        assert whole.headers["content-type"] == "video/mp4"
        assert whole.headers["content-disposition"].startswith("attachment; filename=")
        assert "x-accel-redirect" not in whole.headers
        part = client.get(path, headers={"Range": "bytes=1000-1999", "If-Range": whole.headers["etag"]})
        assert (part.status_code, part.content) == (206, DATA[1000:2000])
        assert client.get(path, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
        assert client.head(path).headers["content-length"] == str(len(DATA))
        for name, value in fronted.ingress.client("anna").get("/v1/jobs").headers.items():
            if name.startswith(("x-content", "x-frame", "referrer", "cross-origin", "content-security")):
                assert whole.headers[name] == value, name
    own = fronted.ingress.client("anna").get(path)
    assert (own.status_code, own.content) == (200, b"")
    assert own.headers["x-accel-redirect"].startswith("/_results/")
    link = own.headers["x-accel-redirect"]
    with fronted.client("ben") as stranger:
        assert stranger.get(path).status_code == 404
        assert stranger.get(link).status_code == 404


@pytest.mark.slow
def test_callers_who_stop_take_none_of_the_places_of_the_service(fronted: Fronted) -> None:
    with fronted.client() as client:
        signed = client.get(f"/v1/jobs/{fronted.long_job}").json()["links"]["result"]
        stopped = [fronted.stalled(f"GET {signed}") for _ in range(3 * FEW)]
        key = f"Authorization: {client.headers['authorization']}\r\nContent-Type: application/json\r\n"
        stopped += [fronted.stalled("POST /v1/estimate", f"{key}Content-Length: 99\r\n") for _ in range(3 * FEW)]
        # Their heads take places for a moment each; as long as they are stopped, no place stays taken.
        wait_for(lambda: client.get(f"/v1/jobs/{fronted.job}").status_code == 200, "a place", seconds=30)
        for each in stopped:
            each.close()


@pytest.mark.slow
def test_heads_without_end_are_ended_before_the_service_sees_them(fronted: Fronted) -> None:
    sock = fronted.stalled("GET /v1/jobs", "".join(f"X-{number}: {'a' * 8000}\r\n" for number in range(20)))
    assert sock.recv(100).startswith(b"HTTP/1.1 400")
    sock.close()


@pytest.mark.slow
def test_uploads_and_events_go_through_nginx_as_they_come(fronted: Fronted) -> None:
    with fronted.client() as client:
        assert upload(client, DATA, piece=500_000)
        events = client.get(f"/v1/jobs/{fronted.job}").json()["links"]["events"]
        with client.stream("GET", events) as stream:
            assert next(stream.iter_text()).startswith(("event:", "id:", "retry:", ":"))


@pytest.mark.slow
def test_a_store_sends_what_is_saved_and_the_service_what_is_shown_in_place(bucket: str, tmp_path: Path) -> None:
    with serving(tmp_path, data=f"{bucket}/service", results_from="store") as ingress:
        job = completed(ingress, tmp_path / "a.mp4", 'Ö "1"-restored.mp4', "video/mp4")
        caller = ingress.client()
        answer = caller.get(f"/v1/jobs/{job}/result")
        assert (answer.status_code, answer.content) == (307, b"")
        assert answer.headers["cache-control"] == "private, no-store"
        sent = httpx.get(answer.headers["location"], timeout=240)
        assert sent.content == DATA
        assert sent.headers["content-type"] == "video/mp4"
        assert sent.headers["content-disposition"].startswith("attachment; filename=")
        shown = caller.get(f"/v1/jobs/{job}/result", params={"download": "false"})
        assert (shown.status_code, shown.content) == (200, DATA)
        with Client(ingress.url) as client:
            result = client.download(job, tmp_path / "got.mp4")
        assert result.read_bytes() == DATA


@pytest.mark.parametrize(("sender", "data"), [("nginx", "s3://bucket/data"), ("store", "/a/folder")])
def test_a_sender_that_cannot_reach_the_results_is_refused(sender: str, data: str) -> None:
    with pytest.raises(ValidationError, match="set results_from to service"):
        ServiceConfig.model_validate({"data": data, "results_from": sender})
