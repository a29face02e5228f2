"""Laws of fetching what callers name: from where it is allowed, no more than is allowed, whole or not at all."""

import ipaddress
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedvr2_ray.errors import StorageError
from seedvr2_ray.serve.config import FetchRules, Limits
from seedvr2_ray.serve.problems import FetchRefusal
from seedvr2_ray.serve.security.egress import Egress
from seedvr2_ray.serve.security.fetch import fetch_url, plain_name, require_allowed_object, require_fetchable
from tests.serve.servers import Server, redirecting, saying, serving

pytestmark = pytest.mark.slow

RULES = FetchRules(allow_private=("127.0.0.0/8",))
LIMITS = Limits(max_upload_bytes=100_000, fetch_seconds=240, max_redirects=2)
CONTENT = bytes(range(256)) * 100


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    running.answers.clear()
    running.requests.clear()
    running.answers["/film.mp4"] = saying(CONTENT)
    return running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "film"


def _refused(url: str, target: Path, reason: str, *, rules: FetchRules = RULES, limits: Limits = LIMITS) -> str:
    with pytest.raises(FetchRefusal, match=reason) as refused:
        fetch_url(url, target, rules, limits)
    assert list(target.parent.iterdir()) == [], "nothing may be left behind"
    return str(refused.value)


def test_a_file_arrives_whole_under_the_name_its_server_gives_it(server: Server, target: Path) -> None:
    server.answers["/get"] = saying(
        CONTENT, content_disposition="attachment; filename*=UTF-8''..%2fgr%C3%BC%C3%9Fe.mov"
    )
    for url, name in ((server.url("/film.mp4?sig=1"), "film.mp4"), (server.url("/get"), "grüße.mov")):
        fetched = fetch_url(url, target, RULES, LIMITS)
        assert (fetched.num_bytes, fetched.name, target.read_bytes()) == (len(CONTENT), name, CONTENT)
    assert [path.name for path in target.parent.iterdir()] == ["film"]
    sent = server.requests[0][2]
    assert (sent["accept-encoding"], sent["host"]) == ("identity", f"127.0.0.1:{server.port}")


PRIVATE = [
    *("127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]"),
    *("0.0.0.0", "[::]", "[::127.0.0.1]", "127.0.0.1.", "10.0.0.1", "169.254.169.254", "[fd00:ec2::254]"),
    *("[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1]", "100.100.100.200", "168.63.129.16"),
]


@pytest.mark.parametrize("host", PRIVATE)
def test_an_address_inside_is_refused_in_whatever_notation(server: Server, target: Path, host: str) -> None:
    said = _refused(f"http://{host}:{server.port}/film.mp4", target, "public address|malformed", rules=FetchRules())
    assert server.requests == []
    assert "169.254" not in said or host == "169.254.169.254"


def _leading_to(*addresses: str, allow: tuple[str, ...] = ()) -> Egress:
    def resolver(host: str, port: int) -> Sequence[str]:
        return addresses

    return Egress(resolver=resolver, allow_private=allow)


@pytest.mark.parametrize("address", ["10.0.0.5", "127.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.5", "fd00::1"])
def test_a_public_name_that_leads_inside_is_refused_without_saying_where(
    server: Server, target: Path, address: str
) -> None:
    with pytest.raises(FetchRefusal, match="^films.example.org has no public address") as refused:
        fetch_url(
            f"http://films.example.org:{server.port}/film.mp4",
            target,
            FetchRules(),
            LIMITS,
            egress=_leading_to(address),
        )
    assert address not in str(refused.value)
    assert server.requests == []


def test_of_several_addresses_only_allowed_ones_are_connected_to(server: Server, target: Path) -> None:
    egress = _leading_to("10.255.255.1", "127.0.0.2", "127.0.0.1", allow=("127.0.0.0/8",))
    fetch_url(f"http://films.example.org:{server.port}/film.mp4", target, RULES, LIMITS, egress=egress)
    assert server.requests[0][2]["host"] == f"films.example.org:{server.port}"


def test_a_name_that_changes_its_address_after_the_check_gains_nothing(server: Server, target: Path) -> None:
    asked = []

    def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    egress = Egress(resolver=rebinding, allow_private=("127.0.0.0/8",))
    fetch_url(f"http://rebind.example.org:{server.port}/film.mp4", target, RULES, LIMITS, egress=egress)
    assert asked == ["rebind.example.org"], "the address that was checked is the one that is used"
    server.answers["/again"] = redirecting(f"http://rebind.example.org:{server.port}/film.mp4")
    asked.clear()
    with pytest.raises(FetchRefusal, match="has no public address"):
        fetch_url(f"http://rebind.example.org:{server.port}/again", target, RULES, LIMITS, egress=egress)


def test_a_look_up_that_never_ends_is_left_behind(target: Path) -> None:
    is_left = threading.Event()

    def slow(host: str, port: int) -> Sequence[str]:
        assert is_left.wait(120), "it is waited for"
        return ["127.0.0.1"]

    with pytest.raises(FetchRefusal, match="takes longer than 0.2 s"):
        fetch_url("http://slow.example.org/x", target, RULES, Limits(fetch_seconds=0.2), egress=Egress(resolver=slow))
    is_left.set()


# Redirects


def test_redirects_are_followed_up_to_the_limit(server: Server, target: Path) -> None:
    server.answers["/1"] = redirecting("/2")
    server.answers["/2"] = redirecting(server.url("/film.mp4"), 307)
    server.answers["/0"] = redirecting("/1", 308)
    assert fetch_url(server.url("/1"), target, RULES, LIMITS).num_bytes == len(CONTENT)
    target.unlink()
    _refused(server.url("/0"), target, "more than 2 redirects")


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("http://10.0.0.1/x", "10.0.0.1 has no public address"),
        ("http://[::1]/x", "has no public address"),
        ("//169.254.169.254/latest/meta-data", "169.254.169.254 has no public address"),
        ("file:///etc/passwd", "scheme must be"),
        ("gopher://127.0.0.1/x", "scheme must be"),
        ("", "redirects to no usable address"),
        ("http://[broken", "malformed|no usable address"),
    ],
)
def test_a_redirect_is_checked_like_the_url_itself(server: Server, target: Path, place: str, reason: str) -> None:
    server.answers["/away"] = redirecting(place)
    _refused(server.url("/away"), target, reason)


def test_a_redirect_leads_only_to_allowed_hosts(server: Server, target: Path) -> None:
    server.answers["/away"] = redirecting(server.url("/film.mp4", host="127.0.0.2"))
    rules = RULES.model_copy(update={"allow_hosts": ("127.0.0.1",)})
    _refused(server.url("/away"), target, "127.0.0.2 is not among the hosts", rules=rules)


def test_credentials_of_a_url_go_to_its_own_host_only_and_into_no_message(server: Server, target: Path) -> None:
    server.answers["/away"] = redirecting(f"http://127.0.0.2:{server.port}/film.mp4")
    server.answers["/gone"] = saying(b"", 404)
    with serving() as other:
        other.answers["/film.mp4"] = saying(CONTENT)
        server.answers["/away"] = redirecting(other.url("/film.mp4"))
        fetch_url(f"http://user:pa55@127.0.0.1:{server.port}/away", target, RULES, LIMITS)
        assert server.requests[0][2]["authorization"] == "Basic dXNlcjpwYTU1"
        assert "authorization" not in other.requests[0][2]
    target.unlink()
    url = f"http://user:pa55@127.0.0.1:{server.port}/gone?X-Signature=5ecret"
    said = _refused(url, target, f"the server of http://127.0.0.1:{server.port}/gone answers with HTTP 404")
    assert "pa55" not in said and "5ecret" not in said and "user" not in said


# Size and time


@pytest.mark.parametrize("num_bytes", [100_001, 10_000_000])
def test_too_large_a_file_is_refused_by_its_header(server: Server, target: Path, num_bytes: int) -> None:
    server.answers["/large"] = saying(b"x", content_length=str(num_bytes))
    _refused(server.url("/large"), target, "has more than 100000 bytes, the limit here")


def test_a_server_that_lies_about_the_size_is_stopped_while_it_sends(server: Server, target: Path) -> None:
    sent = []

    def endless(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("transfer-encoding", "chunked")
        request.end_headers()
        while True:
            request.wfile.write(b"4000\r\n" + bytes(0x4000) + b"\r\n")
            sent.append(0x4000)

    server.answers["/endless"] = endless
    _refused(server.url("/endless"), target, "has more than 100000 bytes, the limit here")
    assert sum(sent) < 50_000_000


def test_a_file_that_breaks_off_is_no_file_but_may_be_tried_again(server: Server, target: Path) -> None:
    def break_off(request: BaseHTTPRequestHandler) -> None:
        saying(b"half", content_length="8000")(request)
        request.close_connection = True

    server.answers["/half"] = break_off
    with pytest.raises(StorageError, match="broke off"):
        fetch_url(server.url("/half"), target, RULES, LIMITS)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "gzip, gzip"])
def test_nothing_is_ever_unpacked(server: Server, target: Path, coding: str) -> None:
    server.answers["/packed"] = saying(b"\x1f\x8b" + bytes(100), content_encoding=coding)
    _refused(server.url("/packed"), target, "compresses the file")


@pytest.mark.parametrize("where", ["head", "body"])
def test_a_server_that_drips_is_left_when_the_time_is_over(server: Server, target: Path, where: str) -> None:
    dripped = []

    def drip(request: BaseHTTPRequestHandler) -> None:
        if where == "body":
            saying(b"", content_length="1000")(request)
        else:
            request.wfile.write(b"HTTP/1.1 200 OK\r\nx-long: ")
        for _ in range(1000):
            request.wfile.write(b"x")
            request.wfile.flush()
            dripped.append(1)
            time.sleep(0.01)

    server.answers["/drip"] = drip
    limits = LIMITS.model_copy(update={"fetch_seconds": 0.4})
    _refused(server.url("/drip"), target, "takes longer than 0.4 s to fetch", limits=limits)
    assert len(dripped) < 1000, "it was waited for to its end"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, FetchRefusal),
        (403, FetchRefusal),
        (206, FetchRefusal),
        (503, StorageError),
        (429, StorageError),
        (500, StorageError),
    ],
)
def test_what_may_pass_is_tried_again_and_the_rest_is_refused(
    server: Server, target: Path, status: int, error: type[Exception]
) -> None:
    server.answers["/x"] = saying(b"no", status)
    with pytest.raises(error, match=f"answers with HTTP {status}"):
        fetch_url(server.url("/x"), target, RULES, LIMITS)


def test_an_empty_file_and_a_closed_port_are_told_apart(server: Server, target: Path) -> None:
    server.answers["/empty"] = saying(b"")
    _refused(server.url("/empty"), target, r"is empty \(0 bytes\)")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(StorageError, match="could not be reached"):
        fetch_url(f"http://127.0.0.1:{port}/x", target, RULES, LIMITS)


def test_a_fetch_can_be_stopped_between_two_pieces(server: Server, target: Path) -> None:
    looks = []

    def stop() -> None:
        looks.append(1)
        if len(looks) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fetch_url(server.url("/film.mp4"), target, RULES, LIMITS, check_cancelled=stop)
    assert list(target.parent.iterdir()) == []


# Without asking anybody


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.org/x", "scheme must be https and http"),
        ("file:///etc/passwd", "scheme must be"),
        ("/etc/passwd", "scheme must be"),
        ("example.org/x", "scheme must be"),
        ("http://", "names no host"),
        ("http://a b/", "malformed"),
        ("http://example.org/\r\nHost: evil", "malformed"),
        ("http://example.org:99999999/", "malformed"),
        ("https://example.org/" + "x" * 5000, "5020 characters and 4096 are the most"),
    ],
)
def test_what_is_no_url_of_a_file_is_refused_before_anybody_is_asked(url: str, reason: str) -> None:
    with pytest.raises(FetchRefusal, match=reason):
        require_fetchable(url, FetchRules())


def test_the_schemes_and_hosts_are_those_of_the_deployment() -> None:
    rules = FetchRules(schemes=("https",), allow_hosts=("*.example.org",))
    assert require_fetchable("https://media.example.org/x", rules).host == "media.example.org"
    with pytest.raises(FetchRefusal, match="scheme must be https"):
        require_fetchable("http://media.example.org/x", rules)
    with pytest.raises(FetchRefusal, match="example.net is not among the hosts"):
        require_fetchable("https://example.net/x", rules)


@given(st.text())
def test_any_text_is_a_url_or_one_refusal(text: str) -> None:
    try:
        require_fetchable(text, FetchRules())
    except FetchRefusal:
        return
    assert text.strip().lower().startswith("http")


# Objects

OPENED = FetchRules(object_prefixes=("s3://films/incoming/", "gs://archive"))


@pytest.mark.parametrize("url", ["s3://films/incoming/a.mov", "s3://films/incoming/b/c d.mov", "gs://archive/x.mp4"])
def test_objects_below_an_opened_prefix_are_allowed(url: str) -> None:
    assert require_allowed_object(url, OPENED) == url


@pytest.mark.parametrize(
    "url",
    [
        "s3://films/other/a.mov",
        "s3://films/incoming",
        "s3://films/incoming-private/a.mov",
        "gs://archive2/x",
        "s3://films/incoming/../other/a.mov",
        "s3://films/incoming/%2e%2e/other/a.mov",
        "s3://films/incoming/%252e%252e/other/a.mov",
        "s3://films/incoming/..%2fother/a.mov",
        "s3://films/incoming/./a.mov",
        "s3://films/incoming//a.mov",
        "s3://films/incoming\\..\\a.mov",
        "s3://key:secret@films/incoming/a.mov",
        "s3://films/incoming/a.mov?versionId=1",
        "s3://films/incoming/a.mov#x",
        "simplecache::s3://films/incoming/a.mov",
        "s3://films/incoming/a\nb.mov",
        "file:///etc/passwd",
        "/etc/passwd",
        "",
    ],
)
def test_other_objects_are_refused_without_showing_credentials(url: str) -> None:
    with pytest.raises(FetchRefusal, match="no plain name of an object|no place that this deployment reads") as refused:
        require_allowed_object(url, OPENED)
    assert "secret" not in str(refused.value)
    with pytest.raises(FetchRefusal):
        require_allowed_object(url, FetchRules())


@given(st.text())
def test_a_name_from_outside_names_a_file_in_the_folder_it_is_put_in(text: str) -> None:
    name = plain_name(text)
    assert name not in ("", ".", "..") and not name.startswith(".")
    assert Path(name).name == name and len(name) <= 120
    assert name.isprintable() and not set(name) & set('/\\:*?"<>|')
    assert plain_name(name) == name


def test_a_long_name_keeps_its_suffix() -> None:
    assert plain_name("x" * 500 + ".mov") == "x" * 116 + ".mov"
    assert plain_name("a/b\\..\\film\u202evom.mp4") == "filmvom.mp4"


@pytest.mark.parametrize("character", ["片", "é", "😀", "a"])
@pytest.mark.parametrize("length", [60, 86, 300])
def test_a_name_fits_every_file_system_whatever_it_is_written_in(character: str, length: int, tmp_path: Path) -> None:
    name = plain_name(character * length + ".mkv")
    assert name.endswith(".mkv") and set(name.removesuffix(".mkv")) == {character}
    assert len(name.encode()) <= 200
    (tmp_path / f".seedvr2-part-{name}.json").touch()
    assert plain_name(name) == name


def test_every_address_of_this_machine_is_refused_unless_opened() -> None:
    for network in ("127.0.0.0/8", "::1/128"):
        address = str(next(iter(ipaddress.ip_network(network))))
        with pytest.raises(FetchRefusal, match="has no public address"):
            host = f"[{address}]" if ":" in address else address
            fetch_url(f"http://{host}/x", Path("unused"), FetchRules(), LIMITS)
