from collections.abc import Iterator

import httpx
import pytest

from seedvr2_ray.serve.http.problem_bodies import ProtocolRefusal
from seedvr2_ray.serve.http.ranges import ByteRange, disposition, parse_range
from tests.serve.http.v1.ingress import DATA, Ingress, completed, serving


@pytest.fixture(scope="module")
def resting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingress]:
    """A service without a runner, which would now and then be quicker to take a job than whoever completes it here."""
    with serving(tmp_path_factory.mktemp("resting")) as ingress:
        yield ingress


@pytest.fixture
def client(resting: Ingress) -> httpx.Client:
    """A caller of it."""
    return resting.client()


@pytest.fixture(scope="module")
def job(resting: Ingress, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Id of a completed job whose result is DATA."""
    return completed(resting, tmp_path_factory.mktemp("result") / "a.mp4", 'Ö "1"-restored.mp4', "video/mp4")


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        ("bytes=1000-", 1000, len(DATA)),
        ("bytes=-7", len(DATA) - 7, len(DATA)),
        ("bytes=10-99999999999", 10, len(DATA)),
        (f"bytes=-{10**17}", 0, len(DATA)),
    ],
)
def test_a_range_is_exactly_that_part_of_the_file(client, job, asked, start, stop):
    part = client.get(f"/v1/jobs/{job}/result", headers={"Range": asked})
    assert part.status_code == 206
    assert part.content == DATA[start:stop]
    assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(DATA)}"
    assert part.headers["content-length"] == str(stop - start)
    head = client.head(f"/v1/jobs/{job}/result", headers={"Range": asked})
    assert (head.status_code, head.content) == (206, b"")
    for name in ("content-range", "content-length", "etag", "content-type"):
        assert head.headers[name] == part.headers[name]


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "bytes=5-1", "bytes=-", "lines=1-2", "bytes=a-b", "bytes=1-2-3"])
def test_what_is_no_single_range_is_answered_with_the_whole_file(client, job, asked):
    whole = client.get(f"/v1/jobs/{job}/result", headers={"Range": asked})
    assert (whole.status_code, whole.content) == (200, DATA)


@pytest.mark.parametrize("asked", [f"bytes={len(DATA)}-", "bytes=-0"])
def test_a_range_beyond_the_file_says_how_long_it_is(client, job, asked):
    refused = client.get(f"/v1/jobs/{job}/result", headers={"Range": asked})
    assert refused.status_code == 416
    assert refused.headers["content-range"] == f"bytes */{len(DATA)}"
    assert str(len(DATA)) in refused.json()["detail"]


def test_pieces_joined_are_the_file(client, job):
    pieces, size = [], 100_001
    for start in range(0, len(DATA), size):
        pieces.append(
            client.get(f"/v1/jobs/{job}/result", headers={"Range": f"bytes={start}-{start + size - 1}"}).content
        )
    assert b"".join(pieces) == DATA


def test_a_download_goes_on_only_with_the_same_file(client, job):
    etag = client.head(f"/v1/jobs/{job}/result").headers["etag"]
    for condition, status in ((etag, 206), ('"another"', 200), ("Wed, 21 Oct 2026 07:28:00 GMT", 200)):
        headers = {"Range": "bytes=5-", "If-Range": condition}
        assert client.get(f"/v1/jobs/{job}/result", headers=headers).status_code == status
    unchanged = client.get(f"/v1/jobs/{job}/result", headers={"If-None-Match": etag})
    assert (unchanged.status_code, unchanged.content) == (304, b"")


def test_results_are_named_and_typed_so_that_browsers_do_no_harm(client, resting, job, tmp_path):
    answer = client.get(f"/v1/jobs/{job}/result")
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["content-disposition"] == (
        "attachment; filename=\"_ _1_-restored.mp4\"; filename*=UTF-8''%C3%96%20%221%22-restored.mp4"
    )
    shown = client.get(f"/v1/jobs/{job}/result?download=false")
    assert shown.headers["content-disposition"].startswith("inline;")
    page = completed(resting, tmp_path / "a.html", "page.html", "text/html")
    assert client.get(f"/v1/jobs/{page}/result").headers["content-type"] == "application/octet-stream"


def test_a_signed_link_opens_one_path_for_whoever_holds_it(idle, tmp_path):
    job = completed(idle, tmp_path / "b.mp4", "b.mp4", "video/mp4", owner="links")
    links = idle.client("links").get(f"/v1/jobs/{job}").json()["links"]
    nobody = idle.client()
    assert nobody.get(links["result"]).content == DATA
    assert nobody.head(links["result"]).status_code == 200
    assert nobody.get(links["result"] + "&download=false").status_code == 200
    assert nobody.get(links["self"]).status_code == 401
    query = links["result"].partition("?")[2]
    assert nobody.get(f"/v1/jobs/{job}/preview/after?{query}").status_code == 401
    assert nobody.delete(f"/v1/jobs/{job}?{query}").status_code == 401
    assert nobody.get(links["result"].replace("signature=", "signature=0")).status_code == 401
    assert nobody.get(links["result"].replace("expires=", "expires=9")).status_code == 401


def test_a_result_that_was_deleted_is_gone(resting, client, tmp_path):
    job = completed(resting, tmp_path / "c.mp4", "c.mp4", "video/mp4")
    resting.service.results.discard(resting.service.jobs.get(job).result.address)
    assert client.get(f"/v1/jobs/{job}/result").status_code == 410


@pytest.mark.parametrize("name", ["a.mp4", 'q"uote.mp4', "new\nline.mp4", "percent%41.mp4", "back\\slash", "日本.mov"])
def test_a_disposition_cannot_be_broken_out_of(name):
    header = disposition(name, is_download=True)
    assert header.isascii() and header.isprintable()
    assert header.count('"') == 2
    assert '%41.mp4"' not in header
    httpx.Headers({"content-disposition": header})


def test_no_range_of_an_empty_file_can_be_had():
    assert parse_range(None, 0) is None
    assert parse_range("bytes=0-", 5) == ByteRange(0, 5)
    with pytest.raises(ProtocolRefusal):
        parse_range("bytes=0-", 0)
