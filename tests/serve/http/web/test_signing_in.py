"""A deployment that asks for keys: who has none is asked for one, and nothing is shown before."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from seedvr2_ray.serve.db.key_store import KeyStore
from seedvr2_ray.serve.security.api_keys import make_key
from tests.media import clips
from tests.serve.deployment import deploy
from tests.serve.http.web.page_driver import PageDriver, open_tab
from tests.serve.http_service import HttpService, served

pytestmark = [pytest.mark.browser, pytest.mark.slow]


_KEPT_FILES = """() => new Promise((resolve, reject) => {
  const opening = indexedDB.open("seedvr2", 1);
  opening.onerror = () => reject(opening.error);
  opening.onsuccess = () => {
    const asking = opening.result.transaction("files").objectStore("files").getAllKeys();
    asking.onsuccess = () => resolve(asking.result);
  };
})"""


@pytest.fixture(scope="module")
def service(chromium: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpService]:
    deployment = deploy(tmp_path_factory.mktemp("service"), auth=("keys",))
    with served(deployment) as running:
        yield running
    deployment.database.close()


@pytest.fixture(scope="module")
def token(service: HttpService) -> str:
    key, token = make_key("anna", frozenset({"jobs:read", "jobs:write"}), now=datetime.now(UTC))
    KeyStore(service.deployment.database).add(key)
    return token


@pytest.fixture
def tab(browser: Browser, service: HttpService) -> Iterator[PageDriver]:
    with open_tab(browser, service.url) as driver:
        driver.page.goto(service.url)
        expect(driver.page.get_by_role("dialog")).to_be_visible()
        yield driver


def sign_in(tab: PageDriver, token: str) -> None:
    tab.page.get_by_label("Key", exact=True).fill(token)
    tab.page.get_by_role("dialog").get_by_role("button", name="Sign in").click()


def test_a_wrong_key_is_said_so_and_a_right_one_opens_the_page(tab, token, tmp_path):
    tab.require_accessible()
    tab.picture("sign-in")
    sign_in(tab, "seedvr2_wrong_key")
    expect(tab.page.locator("#sign-error")).to_contain_text("This key is not accepted.")
    sign_in(tab, token)
    expect(tab.page.get_by_role("dialog")).to_be_hidden()
    expect(tab.page.locator("#empty")).to_be_visible()

    clip = tmp_path / "clip.mp4"
    clips.make_clip(clip, num_frames=12, size=(64, 48))
    tab.choose_exact_size("x2")
    tab.drop(clip)
    tab.start()
    tab.wait_for_state(clip.name, "completed")
    # Players, pictures and event streams cannot send the key; it is in no address either.
    expect(tab.job(clip.name).locator("compare-view video")).to_have_count(2)
    assert not [url for _, url, _ in tab.requests if token in url]
    assert len(tab.page.evaluate(_KEPT_FILES)) == 1
    tab.page.reload()
    expect(tab.job(clip.name)).to_be_visible()
    tab.page.get_by_role("button", name="Sign out").click()
    expect(tab.page.get_by_role("dialog")).to_be_visible()
    expect(tab.job(clip.name)).to_have_count(0)
    assert tab.page.evaluate(_KEPT_FILES) == []


def test_a_key_is_kept_for_the_tab_and_on_the_device_only_when_asked(tab, token):
    sign_in(tab, token)
    expect(tab.page.locator("#empty, .job").first).to_be_visible()
    assert token not in tab.page.evaluate("JSON.stringify({...localStorage})")
    other = tab.page.context.new_page()
    other.goto(tab.base_url)
    expect(other.get_by_role("dialog")).to_be_visible()
    other.get_by_label("Key", exact=True).fill(token)
    other.get_by_label("Remember the key on this device").check()
    other.get_by_role("dialog").get_by_role("button", name="Sign in").click()
    expect(other.get_by_role("button", name="Sign out")).to_be_visible()
    third = tab.page.context.new_page()
    third.goto(tab.base_url)
    expect(third.get_by_role("button", name="Sign out")).to_be_visible()
    expect(third.locator("#empty, .job").first).to_be_visible()


def test_who_does_not_sign_in_now_can_do_so_later(tab, token):
    tab.page.get_by_role("button", name="Not now").click()
    expect(tab.page.locator("#jobs-note")).to_contain_text("Sign in with a key to go on.")
    tab.page.locator("#sign").click()
    sign_in(tab, token)
    expect(tab.page.locator("#empty, .job").first).to_be_visible()
    expect(tab.page.locator("#jobs-note")).to_have_text("")
