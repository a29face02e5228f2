"""The live page in Chromium: a camera that is none, and the restored picture that plays beside it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from seedvr2_ray.serve.config import LiveLimits, ModelPool
from tests.browsers import open_browser
from tests.serve.http.web.page_driver import PATIENCE_MS, PageDriver, open_tab
from tests.serve.running import RunningService, start_service

pytestmark = [pytest.mark.browser, pytest.mark.ray, pytest.mark.slow]

_MEAN_DIFFERENCE = """
() => {
  const levels = (id) => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [16, 12];
    const context = canvas.getContext("2d");
    context.drawImage(document.getElementById(id), 0, 0, 16, 12);
    return context.getImageData(0, 0, 16, 12).data;
  };
  const [before, after] = [levels("before"), levels("after")];
  const sum = before.reduce((total, level, place) => total + Math.abs(level - after[place]), 0);
  const mean = after.reduce((total, level, place) => total + (place % 4 === 3 ? 0 : level), 0) / (16 * 12 * 3);
  return [sum / before.length, mean];
}
"""


@pytest.fixture(scope="module")
def service(chromium: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    models = {"lanczos": ModelPool(num_cpus=0.2, min_replicas=1)}
    # However busy the machine is, frames may be dropped, and a page may be slow to come back.
    live = LiveLimits(least_factor_dropping=0.01, grace_seconds=120.0)
    folder = tmp_path_factory.mktemp("service")
    with start_service(folder, models=models, default_model="lanczos", live=live) as running:
        yield running


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    """One with a camera that shows a test picture and beeps, and says yes whenever it is asked."""
    expect.set_options(timeout=PATIENCE_MS)
    with open_browser(chromium, "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream") as browser:
        yield browser


@pytest.fixture
def tab(browser: Browser, service: RunningService) -> Iterator[PageDriver]:
    with open_tab(browser, service.base_url) as driver:
        driver.page.goto(f"{service.base_url}/live")
        expect(driver.page.locator("#state")).to_have_text("Nothing is sent before you choose.")
        yield driver


def wait_until_it_plays(page: Page) -> None:
    page.wait_for_function(
        "() => { const v = document.getElementById('after'); return v.videoWidth && v.currentTime > 1; }"
    )


def test_the_restored_picture_of_a_camera_plays_and_ends_when_it_is_stopped(tab: PageDriver) -> None:
    page = tab.page
    page.locator("#camera").click()
    wait_until_it_plays(page)
    expect(page.locator("#state")).to_have_text("The restored picture is playing.")
    assert page.evaluate("document.getElementById('after').videoHeight") == 720
    earlier = page.evaluate("document.getElementById('after').currentTime")
    page.wait_for_function(f"() => document.getElementById('after').currentTime > {earlier + 0.5}")
    difference, mean = page.evaluate(_MEAN_DIFFERENCE)
    # The test picture moves, and the restored one lags behind: alike, and far from black.
    assert difference < 40 and mean > 20, (difference, mean)
    expect(page.locator("#latency")).to_have_text(re.compile(r"^\d+(\.\d)? s$"))
    expect(page.locator("#dropped")).to_have_text(re.compile(r"^[\d,]+$"))
    expect(page.locator("#factor")).to_have_text(re.compile("real time"))
    tab.picture("live")
    tab.require_accessible()
    page.locator("#stop").click()
    expect(page.locator("#state")).to_have_text("The stream has ended.")
    expect(page.locator("#camera")).to_be_visible()
    expect(page.locator("#problem")).to_be_empty()


def test_a_connection_that_breaks_is_taken_up_again(tab: PageDriver) -> None:
    page = tab.page
    page.add_init_script(
        "window.sockets = []; const Plain = WebSocket;"
        "window.WebSocket = class extends Plain { constructor(url) { super(url); window.sockets.push(this); } };"
    )
    page.reload()
    page.locator("#camera").click()
    wait_until_it_plays(page)
    page.evaluate("window.sockets.at(-1).close()")
    page.wait_for_function("() => window.sockets.length > 1")
    earlier = page.evaluate("document.getElementById('after').currentTime")
    page.wait_for_function(f"() => document.getElementById('after').currentTime > {earlier + 1}")
    expect(page.locator("#problem")).to_be_empty()
    page.locator("#stop").click()
    expect(page.locator("#state")).to_have_text("The stream has ended.")


@pytest.mark.parametrize("path", ["", "live"])
def test_nothing_can_be_clicked_in_vain_while_a_page_is_not_ready(
    browser: Browser, service: RunningService, path: str
) -> None:
    with open_tab(browser, service.base_url) as driver:
        page = driver.page
        waiting: list[Route] = []
        page.route("**/languages/*", lambda route: waiting.append(route), times=1)
        page.goto(f"{service.base_url}/{path}")
        body = page.locator("body")
        expect(body).to_have_js_property("inert", True)
        while not waiting:
            page.wait_for_timeout(20)
        waiting[0].continue_()
        expect(body).to_have_js_property("inert", False)
        page.locator("#language").click()
        expect(page.locator("html")).to_have_attribute("lang", "zh-CN")


def test_the_page_works_by_keyboard_in_chinese_in_the_dark_and_on_a_phone(
    browser: Browser, service: RunningService
) -> None:
    with open_tab(
        browser, service.base_url, viewport={"width": 360, "height": 740}, color_scheme="dark", locale="zh-CN"
    ) as driver:
        page = driver.page
        page.goto(f"{service.base_url}/live")
        expect(page.locator("#camera")).to_have_text("摄像头")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.locator("#camera").focus()
        page.keyboard.press("Enter")
        wait_until_it_plays(page)
        driver.require_accessible()
        driver.picture("live-phone")
        page.locator("#stop").focus()
        page.keyboard.press("Enter")
        expect(page.locator("#state")).to_have_text("直播已结束。")
