"""What one caller does to the really running service is not felt by another."""

import contextlib
import hashlib
import resource
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest

from seedvr2_ray.serve.db.job_rows import NewJob, new_row
from seedvr2_ray.serve.db.tables import jobs
from seedvr2_ray.serve.jobs import JobState, ResultInfo, Source
from seedvr2_ray.serve.results import Results
from tests.media import clips
from tests.serve import servers
from tests.serve.running import RunningService

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RESULT_BYTES = 150 << 20
MOST_GROWTH_BYTES = 128 << 20
"""Windows of all readers, and what an interpreter keeps of them; less than the file once, which each asks for."""
NUM_STALLED = 6
NUM_SILENT = 1050
ANSWER_SECONDS = 1.0


@contextmanager
def somebody_else_is_answered(service: RunningService) -> Iterator[None]:
    """Look at jobs as another owner for as long as the block runs; each look must be answered in time."""
    took: list[float] = []
    is_over = threading.Event()

    def look() -> None:
        with service.client("bystander") as client:
            while not took or not is_over.wait(0.1):
                began = time.monotonic()
                assert client.get("/v1/jobs").status_code == 200
                took.append(time.monotonic() - began)

    with service.client("bystander") as client:
        assert client.get("/v1/jobs").status_code == 200
    failures: list[BaseException] = []

    def run() -> None:
        try:
            look()
        except (AssertionError, httpx.HTTPError) as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(60)
    assert not failures, failures
    assert max(took) < ANSWER_SECONDS, f"{max(took):.2f} s"


def connect(service: RunningService) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(120)
    connection.connect(("127.0.0.1", service.plan.port))
    return connection


def private_bytes(pid: int) -> int:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return sum(int(fields[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem"))


def publish_large_result(service: RunningService, owner: str, folder: Path) -> tuple[str, str]:
    """Put a finished job there whose result is large; return its id and the result's SHA-256."""
    path = folder / "large.mp4"
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for number in range(RESULT_BYTES >> 20):
            block = number.to_bytes(4, "big") * (1 << 18)
            digest.update(block)
            file.write(block)
    info = ResultInfo(
        address="sha256-large",
        name="large.mp4",
        media_type="video/mp4",
        num_bytes=RESULT_BYTES,
        sha256=digest.hexdigest(),
        width=64,
        height=48,
        num_frames=1,
    )
    Results(f"{service.plan.config.data}/results").publish(info, path)
    job_id, now = "job_large", service.database.clock()
    source = Source(kind="upload", location="upload_large", name="large.mp4", num_bytes=1)
    row = new_row(NewJob(owner=owner, source=source, settings={"model": "lanczos"}), job_id, now)
    ended = {"state": JobState.COMPLETED.value, "finished_at": now, "result_address": info.address}
    with service.database.writing() as connection:
        result = {name: getattr(info, name) for name in info.__dataclass_fields__}
        connection.execute(jobs.insert().values({**row, **ended, "result": result}))
    return job_id, digest.hexdigest()


def test_readers_who_stall_cost_next_to_nothing_and_others_get_all_of_the_file(
    service: RunningService, tmp_path: Path
) -> None:
    job_id, digest = publish_large_result(service, "owner-of-large", tmp_path)
    with service.client("owner-of-large") as client:
        link = client.get(f"/v1/jobs/{job_id}").raise_for_status().json()["links"]["result"]
        client.get(link, headers={"Range": "bytes=0-99"}).raise_for_status()
    [ingress] = service.pids_of("api")
    before = private_bytes(ingress)
    with ExitStack() as stack, somebody_else_is_answered(service):
        for _ in range(NUM_STALLED):
            connection = stack.enter_context(connect(service))
            connection.sendall(f"GET {link} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            assert b" 200 " in connection.recv(100)
        time.sleep(3)
        assert private_bytes(ingress) - before < MOST_GROWTH_BYTES
        received = hashlib.sha256()
        with service.client("owner-of-large") as client, client.stream("GET", link) as stream:
            for block in stream.iter_bytes():
                received.update(block)
        assert received.hexdigest() == digest
        assert private_bytes(ingress) - before < MOST_GROWTH_BYTES


def test_bodies_that_never_come_take_no_place_of_others(service: RunningService) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * NUM_SILENT)), hard))
    key = service.headers("silent")["Authorization"]
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {key}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for number in range(NUM_SILENT):
            connection = stack.enter_context(connect(service))
            connection.sendall(head.encode())
            if number % 100 == 99:
                time.sleep(0.1)
        time.sleep(1)
        with somebody_else_is_answered(service):
            time.sleep(2)


def test_a_header_without_an_end_is_cut_off(service: RunningService) -> None:
    num_sent = 0
    with connect(service) as connection, somebody_else_is_answered(service):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while num_sent < 150 << 20:
                num_sent += connection.send(b"a" * (1 << 18))
    assert num_sent < 16 << 20


def test_estimates_against_a_server_that_drips_keep_nobody_elses_waiting(
    service: RunningService, tmp_path: Path
) -> None:
    clip = tmp_path / "clip.mp4"
    clips.make_clip(clip, num_frames=6, size=(64, 48))
    is_over = threading.Event()

    def dripping(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("content-length", "1000000")
        request.end_headers()
        while not is_over.wait(0.2):
            request.wfile.write(b"x")

    def estimate(owner: str, url: str) -> int:
        with service.client(owner) as client:
            return client.post("/v1/estimate", json={"source": {"url": url}}).status_code

    with servers.serving() as server, ThreadPoolExecutor(10) as pool:
        server.answers |= {"/drip.mp4": dripping, "/clip.mp4": servers.saying(clip.read_bytes())}
        stalled = [pool.submit(estimate, "drips", server.url("/drip.mp4")) for _ in range(8)]
        try:
            time.sleep(1)
            with somebody_else_is_answered(service):
                assert estimate("quick", server.url("/clip.mp4")) == 200
                ended = [each.exception() or each.result() for each in stalled if each.done()]
                assert not ended, f"others waited for the dripping server: {ended}"
        finally:
            is_over.set()
