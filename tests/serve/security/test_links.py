import pytest

from seedvr2_ray.serve.problems import AuthenticationRefusal
from seedvr2_ray.serve.security.links import LONGEST_SECONDS, SignedLinks

KEY = b"a key of more than sixteen bytes"


class _Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def _parts(link):
    path, _, query = link.partition("?")
    return path, dict(pair.split("=") for pair in query.split("&"))


@pytest.fixture
def clock():
    return _Clock()


@pytest.fixture
def links(clock):
    return SignedLinks(KEY, now=clock)


def test_a_link_opens_its_path_until_it_ends(links, clock):
    path, query = _parts(links.sign("/v1/jobs/a/result", seconds=600))
    links.require_valid("GET", path, query)
    links.require_valid("HEAD", path, query)
    clock.now += 599
    links.require_valid("GET", path, query)
    clock.now += 3601
    with pytest.raises(AuthenticationRefusal, match="ended"):
        links.require_valid("GET", path, query)


@pytest.mark.parametrize(
    ("method", "path", "change"),
    [
        ("DELETE", "/v1/jobs/a/result", {}),
        ("GET", "/v1/jobs/b/result", {}),
        ("GET", "/v1/jobs/a/result/", {}),
        ("GET", "/v1/jobs/a/result", {"expires": "1999999"}),
        ("GET", "/v1/jobs/a/result", {"expires": "٣"}),
        ("GET", "/v1/jobs/a/result", {"expires": "9" * 400}),
        ("GET", "/v1/jobs/a/result", {"signature": ""}),
        ("GET", "/v1/jobs/a/result", {"signature": "ä"}),
        ("GET", "/v1/jobs/a/result", {"signature": "0" * 64}),
    ],
)
def test_whatever_is_changed_makes_a_link_worthless(links, method, path, change):
    _, query = _parts(links.sign("/v1/jobs/a/result"))
    with pytest.raises(AuthenticationRefusal):
        links.require_valid(method, path, {**query, **change})


def test_another_deployments_links_are_worth_nothing(links, clock):
    path, query = _parts(SignedLinks(b"another key of sixteen bytes", now=clock).sign("/v1/jobs/a/result"))
    with pytest.raises(AuthenticationRefusal):
        links.require_valid("GET", path, query)


def test_a_link_asked_for_again_within_the_hour_is_the_same_link(links, clock):
    first = links.sign("/a", seconds=1000)
    clock.now += 1
    assert links.sign("/a", seconds=1000) == first


def test_no_link_holds_for_longer_than_the_limit(links, clock):
    path, query = _parts(links.sign("/a", seconds=10 * LONGEST_SECONDS))
    links.require_valid("GET", path, query)
    assert int(query["expires"]) - clock.now <= LONGEST_SECONDS
    clock.now -= 2 * LONGEST_SECONDS
    with pytest.raises(AuthenticationRefusal):
        links.require_valid("GET", path, query)


def test_a_short_key_is_refused():
    with pytest.raises(ValueError, match="16 bytes"):
        SignedLinks(b"short")
