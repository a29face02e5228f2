import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from seedvr2_ray.serve.http.page import MEDIA_TYPES, POLICY, PageFile, page_router, read_page


@pytest.fixture(scope="module")
def client():
    app = FastAPI()
    app.include_router(page_router())
    return TestClient(app)


@pytest.mark.slow
def test_the_page_is_at_the_root_and_everything_it_names_is_served(client):
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text.startswith("<!doctype html>")
    for path, file in read_page().items():
        answer = client.get(f"/web/{path}")
        assert answer.content == file.content
        assert answer.headers["content-type"] == file.media_type


def test_every_answer_carries_the_policy_that_lets_nothing_else_in(client):
    for path in ("/", "/web/js/main.js", "/web/css/base.css", "/web/languages/zh.json"):
        assert client.get(path).headers["content-security-policy"] == POLICY
    directives = dict(part.split(" ", 1) for part in POLICY.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["frame-ancestors"] == directives["base-uri"] == "'none'"
    assert "unsafe" not in POLICY
    assert "http" not in POLICY
    assert {source for part in directives.values() for source in part.split()} <= {
        *("'none'", "'self'", "blob:"),
        "'script'",  # Of require-trusted-types-for.
    }


def test_only_the_live_page_may_use_a_camera_and_only_for_itself(client):
    page = client.get("/live")
    assert page.text == read_page()["live.html"].content.decode()
    assert page.headers["content-security-policy"] == POLICY
    permissions = page.headers["permissions-policy"]
    assert "camera=(self)" in permissions and "microphone=(self)" in permissions and "geolocation=()" in permissions
    assert "camera=()" in client.get("/").headers["permissions-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "../page.py",
        "..%2fpage.py",
        "%2e%2e/page.py",
        "js/../../page.py",
        "/etc/passwd",
        "vendor/README.md",
        "js",
        "",
        "js/main.js/",
    ],
)
def test_nothing_outside_the_table_is_served(client, path):
    assert client.get(f"/web/{path}").status_code == 404


def test_a_file_that_is_known_is_not_sent_again(client):
    first = client.get("/web/js/main.js")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/web/js/main.js", headers={"If-None-Match": f'W/"other", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert client.get("/web/js/main.js", headers={"If-None-Match": '"other"'}).status_code == 200


def test_another_content_has_another_etag():
    tags = {file.etag for file in read_page().values()}
    assert len(tags) == len(read_page())


def test_head_tells_the_size_and_sends_nothing(client):
    answer = client.head("/")
    assert answer.content == b""
    assert int(answer.headers["content-length"]) == len(read_page()["index.html"].content)


def test_only_known_kinds_of_files_are_read():
    assert all(path[path.rfind(".") :] in MEDIA_TYPES for path in read_page())
    assert isinstance(read_page()["index.html"], PageFile)
