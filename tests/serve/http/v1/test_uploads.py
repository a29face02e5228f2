import base64
import os
import socket
import threading
from pathlib import Path

import pytest

from seedvr2_ray.serve.config import Limits
from tests.serve.http.v1.ingress import PIECE, QUICK, serving, tus, upload
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

TUS = {"Tus-Resumable": "1.0.0"}


def offset_of(client, location):
    answer = client.head(location, headers=TUS)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    return int(answer.headers["upload-offset"])


def patch(client, location, offset, data):
    return client.patch(location, content=data, headers={**TUS, "Upload-Offset": str(offset), "Content-Type": PIECE})


def stored(ingress, location, name):
    return Path(ingress.service.config.data, "uploads", location.rpartition("/")[2], name).read_bytes()


def test_what_is_spoken_here_can_be_asked(idle):
    answer = idle.client().options("/v1/uploads")
    assert answer.status_code == 204
    assert answer.headers["tus-version"] == "1.0.0"
    assert answer.headers["tus-extension"] == "creation,creation-with-upload,expiration,termination"
    assert answer.headers["tus-max-size"] == str(idle.service.limits.max_upload_bytes)


def test_pieces_make_the_file_that_was_announced(working, client):
    data = os.urandom(300_000)
    announced = client.post("/v1/uploads", headers=tus(len(data), "Ö film.mp4"))
    location = announced.headers["location"]
    assert (announced.status_code, announced.headers["upload-offset"]) == (201, "0")
    assert announced.headers["upload-expires"].endswith("GMT")
    for start in range(0, len(data), 70_001):
        answer = patch(client, location, start, data[start : start + 70_001])
        assert answer.status_code == 204
        assert int(answer.headers["upload-offset"]) == min(len(data), start + 70_001) == offset_of(client, location)
    head = client.head(location, headers=TUS)
    assert head.headers["upload-length"] == str(len(data))
    assert base64.b64decode(head.headers["upload-metadata"].split()[1]).decode() == "Ö film.mp4"
    assert stored(working, location, "Ö film.mp4") == data
    assert client.delete(location, headers=TUS).status_code == 204
    assert client.head(location, headers=TUS).status_code == 410
    assert not Path(working.service.config.data, "uploads", location.rpartition("/")[2]).exists()


def test_the_first_piece_may_come_with_the_announcement(working, client):
    headers = {**tus(10, "a.mp4"), "Content-Type": PIECE}
    made = client.post("/v1/uploads", content=b"01234", headers=headers)
    assert (made.status_code, made.headers["upload-offset"]) == (201, "5")
    assert patch(client, made.headers["location"], 5, b"56789").status_code == 204
    assert stored(working, made.headers["location"], "a.mp4") == b"0123456789"


def test_an_upload_goes_on_where_a_broken_connection_left_it(working, client):
    data = os.urandom(400_000)
    location = client.post("/v1/uploads", headers=tus(len(data), "a.mp4")).headers["location"]
    host, port = working.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"PATCH {location} HTTP/1.1\r\nHost: {host}:{port}\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
            f"Content-Type: {PIECE}\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            + data[:150_000]
        )
        upload_id = location.rpartition("/")[2]
        file = Path(working.service.config.data, "uploads", upload_id, "a.mp4")
        wait_for(lambda: file.exists() and file.stat().st_size == 150_000, "the half of it to be written")
    wait_for(lambda: offset_of(client, location) == 150_000, "it to be counted")
    assert patch(client, location, 150_000, data[150_000:]).status_code == 204
    assert stored(working, location, "a.mp4") == data


def test_bytes_that_were_never_confirmed_do_not_get_into_the_file(working, client):
    """A process that is killed in the middle of a piece leaves more in the file than it could confirm."""
    location = client.post("/v1/uploads", headers=tus(10, "a.mp4")).headers["location"]
    patch(client, location, 0, b"012")
    file = Path(working.service.config.data, "uploads", location.rpartition("/")[2], "a.mp4")
    with file.open("ab") as torn:
        torn.write(b"torn piece that nobody confirmed")
    assert offset_of(client, location) == 3
    assert patch(client, location, 3, b"3456789").status_code == 204
    assert file.read_bytes() == b"0123456789"


def test_a_sender_takes_over_from_his_own_dead_connection(working, client):
    """A laptop that wakes up in another network comes back while the old connection still looks alive."""
    data = os.urandom(200_000)
    location = client.post("/v1/uploads", headers=tus(len(data), "a.mp4")).headers["location"]
    host, port = working.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as silent:
        silent.sendall(
            f"PATCH {location} HTTP/1.1\r\nHost: {host}:{port}\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
            f"Content-Type: {PIECE}\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            + data[:50_000]
        )
        file = Path(working.service.config.data, "uploads", location.rpartition("/")[2], "a.mp4")
        wait_for(lambda: file.exists() and file.stat().st_size == 50_000, "the beginning to be written")
        first = patch(client, location, 0, data)  # By what it knew: nothing had been confirmed.
        assert first.status_code == 409
        offset = offset_of(client, location)
        assert offset == 50_000
        assert patch(client, location, offset, data[offset:]).status_code == 204
    assert stored(working, location, "a.mp4") == data


def test_two_senders_at_once_cannot_mix_their_bytes(working, client):
    data = bytes(100_000)
    location = client.post("/v1/uploads", headers=tus(len(data), "a.mp4")).headers["location"]
    clients, statuses = [working.client() for _ in range(4)], []
    senders = [
        threading.Thread(target=lambda each=each: statuses.append(patch(each, location, 0, data).status_code))
        for each in clients
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(60)
    assert set(statuses) <= {204, 409}
    while (offset := offset_of(client, location)) < len(data):
        assert patch(client, location, offset, data[offset:]).status_code == 204
    assert stored(working, location, "a.mp4") == data


@pytest.mark.parametrize(
    ("method", "headers", "status", "said"),
    [
        ("POST", {}, 412, "1.0.0"),
        ("POST", {"Tus-Resumable": "0.2.2", "Upload-Length": "5"}, 412, "0.2.2"),
        ("POST", TUS, 422, "upload-length"),
        ("POST", {**TUS, "Upload-Length": "-1"}, 400, "Upload-Length"),
        ("POST", {**TUS, "Upload-Length": "0"}, 422, "empty"),
        ("POST", {**TUS, "Upload-Length": "600000000"}, 413, "500000000"),
        ("POST", {**TUS, "Upload-Length": "5", "Upload-Metadata": "filename ???"}, 400, "Upload-Metadata"),
        ("PATCH", {**TUS, "Upload-Offset": "0", "Content-Type": "text/plain"}, 415, "offset+octet-stream"),
        ("PATCH", {**TUS, "Upload-Offset": "x", "Content-Type": PIECE}, 400, "Upload-Offset"),
        ("PATCH", {**TUS, "Upload-Offset": "3", "Content-Type": PIECE}, 409, "holds 0 bytes"),
        ("PATCH", {**TUS, "Content-Type": PIECE}, 422, "upload-offset"),
    ],
)
def test_what_is_wrong_with_an_upload_is_said(client, method, headers, status, said):
    path = "/v1/uploads"
    if method == "PATCH":
        path = client.post(path, headers=tus(5, "a.mp4")).headers["location"]
    answer = client.request(method, path, headers=headers, content=b"ab" if method == "PATCH" else None)
    assert answer.status_code == status
    assert said in answer.json()["detail"]
    if status == 412:
        assert answer.headers["tus-version"] == "1.0.0"


def test_more_than_was_announced_is_refused_and_changes_nothing(working, client):
    location = client.post("/v1/uploads", headers=tus(5, "a.mp4")).headers["location"]
    patch(client, location, 0, b"012")
    refused = patch(client, location, 3, b"3456789")
    assert refused.status_code == 413
    assert offset_of(client, location) == 3
    assert patch(client, location, 3, b"34").status_code == 204
    assert stored(working, location, "a.mp4") == b"01234"


def test_a_job_needs_the_whole_file_and_keeps_it(idle, clip):
    client = idle.client("uploads")
    location = client.post("/v1/uploads", headers=tus(10, "a.mp4")).headers["location"]
    body = {"source": {"upload": location.rpartition("/")[2]}, "settings": QUICK}
    early = client.post("/v1/jobs", json=body)
    assert early.status_code == 409
    assert "0 of 10 bytes" in early.json()["detail"]
    sent = upload(client, clip.read_bytes(), piece=1000)
    assert client.post("/v1/jobs", json={**body, "source": {"upload": sent}}).status_code == 201
    kept = client.delete(f"/v1/uploads/{sent}", headers=TUS)
    assert kept.status_code == 409
    assert "source of a job" in kept.json()["detail"]


def test_a_name_cannot_lead_out_of_the_folder_of_uploads(working, client):
    for name in ("../../../etc/passwd", "/etc/passwd", "..\\..\\x", "..", ".", "a\0b"):
        location = client.post("/v1/uploads", headers=tus(3, name)).headers["location"]
        assert patch(client, location, 0, b"abc").status_code == 204
        folder = Path(working.service.config.data, "uploads", location.rpartition("/")[2])
        assert [file.read_bytes() for file in folder.iterdir()] == [b"abc"]


def test_nobody_may_begin_uploads_for_ever(tmp_path):
    with serving(tmp_path) as ingress:
        client = ingress.client()
        statuses = [client.post("/v1/uploads", headers=tus(5, "a.mp4")).status_code for _ in range(101)]
        assert statuses == [201] * 100 + [429]


def test_a_folder_signs_no_urls_and_says_what_to_use(client):
    answer = client.post("/v1/uploads/presigned", json={"name": "a.mp4", "num_bytes": 5})
    assert answer.status_code == 409
    assert "POST /v1/uploads" in answer.json()["detail"]


def test_a_large_file_is_received_in_constant_memory(tmp_path):
    """The server runs in this process, so its growth is at most the process's. ``benchmarks.serve`` sends 500 MB."""

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    size = 64 << 20
    with serving(tmp_path, limits=Limits(max_upload_bytes=size)) as ingress:
        client = ingress.client()
        location = client.post("/v1/uploads", headers=tus(size, "a.mp4")).headers["location"]
        before, peak = resident(), [0]
        block = bytes(1 << 16)

        def pieces():
            for _ in range(size // len(block)):
                peak[0] = max(peak[0], resident())
                yield block

        headers = {**TUS, "Upload-Offset": "0", "Content-Type": PIECE}
        assert client.patch(location, content=pieces(), headers=headers, timeout=300).status_code == 204
        assert peak[0] - before < size // 3
        boundary = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'

        def form():
            yield boundary
            yield from pieces()
            yield b"\r\n--b--\r\n"

        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        refused = client.post("/v1/jobs", content=form(), headers=headers, timeout=300)
        assert refused.status_code == 422, refused.text  # It is no video; it was received to be looked at.
        assert peak[0] - before < size // 3
