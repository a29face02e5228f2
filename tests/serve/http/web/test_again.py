"""Nothing ends in a dead end: what failed or was refused is begun anew, what was deleted taken back, many at once."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.media import clips, damaged
from tests.serve.deployment import deploy
from tests.serve.http.web.page_driver import PageDriver, open_tab
from tests.serve.http_service import HttpService, served

pytestmark = [pytest.mark.browser, pytest.mark.slow]


_NOTIFICATIONS = """
window.told = [];
window.isAway = false;
Object.defineProperty(Document.prototype, "hidden", { get: () => window.isAway });
window.Notification = class {
  static permission = localStorage.getItem("granted") ?? "default";
  static async requestPermission() {
    localStorage.setItem("granted", "granted");
    return (Notification.permission = "granted");
  }
  constructor(title, { body }) {
    window.told.push(body ? `${title}: ${body}` : title);
  }
};
"""


@pytest.fixture(scope="module")
def service(chromium: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpService]:
    deployment = deploy(tmp_path_factory.mktemp("service"), auth=("none",))
    with served(deployment) as running:
        yield running
    deployment.database.close()


_UNDO = """
window.undoMs = 600000;
const plain = window.setTimeout;
window.setTimeout = (call, ms, ...more) => plain(call, ms === 6000 ? window.undoMs : ms, ...more);
"""
"""What is taken back within six seconds is taken back within ten minutes, until a test wants to wait no more."""


@pytest.fixture
def tab(browser: Browser, service: HttpService) -> Iterator[PageDriver]:
    with open_tab(browser, service.url) as driver:
        driver.open()
        yield driver


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "holiday.mp4"
    clips.make_clip(path, num_frames=12, size=(64, 48))
    return path


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Videos that are refused as they are."""
    folder = tmp_path_factory.mktemp("clips")
    clips.make_clip(folder / "whole.mkv", num_frames=48, size=(64, 48))
    clips.make_clip(folder / "woven.mp4", num_frames=12, size=(64, 48), interlaced=True)
    return {
        "Restore what can be read": Path(damaged.cut_short(folder / "whole.mkv", 0.6)),
        "Merge the fields": folder / "woven.mp4",
    }


def submitted(service: HttpService, path: Path, name: str) -> str:
    with httpx.Client(base_url=service.url, timeout=60) as client:
        sent = {"file": (name, path.read_bytes())}
        settings = '{"resolution": "x2", "model": "lanczos", "preset": "ultrafast"}'
        return str(client.post("/v1/jobs", files=sent, data={"settings": settings}).raise_for_status().json()["id"])


def test_twice_the_size_is_chosen_where_no_device_is_made_for_more(tab: PageDriver) -> None:
    expect(tab.page.locator('input[name="size"][value="x2"]')).to_be_checked()


@pytest.mark.parametrize("way_out", ["Restore what can be read", "Merge the fields"])
def test_a_file_that_is_refused_is_restored_at_the_press_of_its_way_out(
    tab: PageDriver, troubled: dict[str, Path], way_out: str
) -> None:
    file = troubled[way_out]
    tab.drop(file)
    row = tab.pending(file.name)
    expect(row.locator(".cures button").first).to_be_visible()
    tab.require_accessible()
    row.get_by_role("button", name=way_out).click()
    expect(row).to_contain_text(re.compile("64 × 48 → 128 × 96"))
    tab.start()
    tab.wait_for_state(file.name, "completed")


def test_a_finished_job_gives_out_its_report_and_is_restored_again_with_other_settings(
    tab: PageDriver, service: HttpService, clip: Path
) -> None:
    submitted(service, clip, "again.mp4")
    tab.page.reload()
    tab.wait_for_state("again.mp4", "completed")
    card = tab.job("again.mp4")
    for name, beginning in (("Report", b"<!doctype html>"), ("Provenance", b"{")):
        with tab.page.expect_download() as got:
            card.get_by_role("link", name=name).click()
        assert Path(got.value.path()).read_bytes().lower().startswith(beginning)
    card.get_by_role("button", name="Restore again.mp4 with other settings").click()
    row = tab.pending("again.mp4")
    tab.page.locator('input[name="size"][value="720p"]').check(force=True)
    expect(row).to_contain_text("960 × 720")
    tab.require_accessible()
    tab.picture("again")
    row.get_by_role("button", name="Remove again.mp4").click()
    expect(tab.job("again.mp4")).to_be_visible()


def test_what_is_deleted_or_cancelled_can_be_taken_back_and_a_cancelled_job_begun_anew(
    tab: PageDriver, service: HttpService, clip: Path
) -> None:
    submitted(service, clip, "kept.mp4")
    tab.page.add_init_script(_UNDO)
    tab.page.reload()
    tab.wait_for_state("kept.mp4", "completed")
    card = tab.job("kept.mp4")
    card.get_by_role("button", name="Delete kept.mp4").click()
    expect(card).to_contain_text("Is deleted in a moment.")
    tab.require_accessible()
    card.get_by_role("button", name="Do not delete kept.mp4").click()
    expect(card.get_by_role("button", name="Delete kept.mp4")).to_be_focused()
    tab.page.evaluate("window.undoMs = 0")
    card.get_by_role("button", name="Delete kept.mp4").click()
    expect(card).to_have_count(0)
    jobs = httpx.get(f"{service.url}/v1/jobs", timeout=240).json()["jobs"]
    assert "kept.mp4" not in {job["name"] for job in jobs}


def test_the_comparison_shows_pixels_sides_and_single_frames(tab: PageDriver, clip: Path) -> None:
    expect(tab.page.locator('input[name="size"][value="x2"]')).to_be_checked()
    tab.drop(clip)
    tab.start()
    tab.wait_for_state(clip.name, "completed")
    view = tab.job(clip.name).locator("compare-view")
    expect(view.locator("video")).to_have_count(2)
    stage = view.locator(".stage")
    view.get_by_role("button", name="Side by side").click()
    expect(stage).to_have_attribute("data-layout", "sides")
    boxes = [view.locator(f"video.{side}").bounding_box() for side in ("before", "after")]
    assert boxes[0] and boxes[1] and boxes[1]["x"] >= boxes[0]["x"] + boxes[0]["width"] - 1
    view.get_by_role("button", name="Actual pixels").click()
    box = view.locator("video.after").bounding_box()
    assert box and round(box["width"]) == 128
    tab.require_accessible()
    tab.picture("compare")
    view.get_by_role("button", name="Actual pixels").click()
    expect(stage).to_have_attribute("data-layout", "over")
    view.get_by_role("button", name="Next frame").click()
    tab.page.wait_for_function("() => document.querySelector('compare-view video.after').currentTime > 0.03")
    view.get_by_role("slider", name="Divider").press("a")
    expect(view.locator(".grip")).to_have_attribute("aria-valuenow", "100")
    view.locator(".grip").press("b")
    expect(view.locator(".grip")).to_have_attribute("aria-valuenow", "0")
    loupe = view.get_by_role("button", name="Loupe")
    loupe.click()
    expect(view.locator("canvas.loupe")).to_be_visible()
    before, after = looked_at(tab, 0.25), looked_at(tab, 0.75)
    # Both panes show the same place of two pictures: alike, and not one of them twice.
    assert before != after and max(abs(one - other) for one, other in zip(before, after, strict=True)) < 60
    view.locator(".stage").hover(position={"x": 5, "y": 5})
    tab.page.wait_for_function("() => document.querySelector('canvas.loupe').offsetLeft === 0")
    loupe.press("ArrowRight")
    tab.require_accessible()
    tab.picture("loupe")
    loupe.press("l")
    expect(view.locator("canvas.loupe")).to_have_count(0)


def looked_at(tab: PageDriver, share: float) -> list[int]:
    """The colour at a place of the loupe, as a share of its width."""
    script = """(share) => {
        const canvas = document.querySelector("canvas.loupe");
        const at = [Math.floor(canvas.width * share), Math.floor(canvas.height / 2), 1, 1];
        return [...canvas.getContext("2d").getImageData(...at).data];
    }"""
    tab.page.wait_for_function(f"() => ({script})({share})[3] === 255")
    return [int(value) for value in tab.page.evaluate(script, share)]


def test_the_file_is_made_as_it_was_chosen(tab: PageDriver, service: HttpService, clip: Path) -> None:
    tab.page.locator("#more > summary").click()
    tab.page.locator("#output > summary").click()
    tab.page.get_by_label("Video codec").select_option("hevc")
    container, quality = tab.page.get_by_label("Container"), tab.page.get_by_label("Quality of lossy codecs")
    expect(container.locator('option[value="webm"]')).to_be_disabled()
    container.select_option("mov")
    quality.fill("60")
    tab.drop(clip)
    tab.start()
    assert quality.evaluate("input => input.validity.rangeOverflow") and tab.pending(clip.name).is_visible()
    quality.fill("30")
    tab.page.get_by_label("Seed").fill("7")
    expect(tab.pending(clip.name)).to_contain_text("×")
    tab.require_accessible()
    tab.picture("output")
    tab.start()
    expect(tab.pending(clip.name)).to_have_count(0)
    job = httpx.get(f"{service.url}/v1/jobs", timeout=240).json()["jobs"][0]
    asked = {name: job["settings"][name] for name in ("codec", "container", "crf")}
    assert asked == {"codec": "hevc", "container": "mov", "crf": 30}
    tab.page.reload()
    expect(tab.page.get_by_label("Container")).to_have_value("mov")


def test_many_are_deleted_and_taken_back_at_once(tab: PageDriver, service: HttpService, clip: Path) -> None:
    names = [f"bulk-{number}.mp4" for number in range(2)]
    for name in names:
        submitted(service, clip, name)
    page = tab.page
    page.add_init_script(_UNDO)
    page.reload()
    for name in names:
        tab.wait_for_state(name, "completed")
    page.get_by_role("button", name="Select", exact=True).click()
    for name in names:
        page.get_by_role("checkbox", name=f"Select {name}").check()
    expect(page.locator("#bulk-count")).to_have_text("2 selected")
    expect(page.locator("#bulk-cancel")).to_be_hidden()
    tab.require_accessible()
    tab.picture("bulk")
    page.get_by_role("button", name="Delete (2)").click()
    undo = page.locator("#bulk-undo")
    expect(undo).to_be_focused()
    undo.click()
    expect(tab.job(names[0])).not_to_contain_text("Is deleted in a moment.")
    page.evaluate("window.undoMs = 0")
    page.get_by_role("button", name="Delete (2)").click()
    expect(tab.job(names[0])).to_have_count(0)
    expect(page.locator("#select")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#bulk")).to_be_hidden()
    assert not {job["name"] for job in httpx.get(f"{service.url}/v1/jobs", timeout=240).json()["jobs"]} & set(names)


def test_the_browser_tells_of_what_ended_while_nobody_looked(tab: PageDriver, clip: Path, tmp_path: Path) -> None:
    page = tab.page
    # What the system shows of a notification cannot be seen from here, so the page is given one that is written down.
    page.add_init_script(_NOTIFICATIONS)
    page.reload()
    switch = page.get_by_role("button", name="Tell me when done")
    switch.click()
    expect(switch).to_have_attribute("aria-pressed", "true")
    tab.require_accessible()
    names = ["told-0.mp4", "told-1.mp4"]
    tab.drop(*(tmp_path / name for name in names if (tmp_path / name).write_bytes(clip.read_bytes())))
    for name in names:
        expect(tab.pending(name)).to_contain_text("×")
    page.evaluate("() => (window.isAway = true)")
    tab.start()
    page.wait_for_function("() => window.told.length === 2")
    one, both = page.evaluate("() => window.told")
    assert one in [f"{name}: Done" for name in names]
    assert both.startswith("2 files have ended: ") and all(name in both for name in names)
    page.reload()
    expect(switch).to_have_attribute("aria-pressed", "true")
    switch.click()
    expect(switch).to_have_attribute("aria-pressed", "false")


def test_an_address_is_taken_and_its_refusal_said(tab: PageDriver) -> None:
    tab.page.get_by_label("Address of a file").fill("http://127.0.0.1:9/film.mp4")
    tab.page.get_by_role("button", name="Add address").click()
    row = tab.pending("film.mp4")
    expect(row.locator(".problem")).to_contain_text(re.compile("."))
    tab.require_accessible()


def test_jobs_are_found_by_their_names_in_chinese_too(tab: PageDriver, service: HttpService, clip: Path) -> None:
    for number in range(6):
        submitted(service, clip, f"many-{number}.mp4")
    tab.page.reload()
    expect(tab.job("many-5.mp4")).to_be_visible()
    tab.page.get_by_role("button", name="中文").click()
    tab.page.get_by_label("按名称搜索").fill("MANY-3")
    expect(tab.job("many-3.mp4")).to_be_visible()
    expect(tab.job("many-5.mp4")).to_be_hidden()
    tab.require_accessible()
    tab.picture("search")
    tab.page.get_by_role("button", name="English").click()


def test_a_phone_in_chinese_has_room_for_all_of_it(browser: Browser, service: HttpService, clip: Path) -> None:
    phone = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True, "locale": "zh-CN"}
    with open_tab(browser, service.url, **phone) as tab:
        tab.open()
        tab.page.locator("#more > summary").click()
        tab.page.locator("#output > summary").click()
        tab.page.locator("#select").click()
        tab.page.locator("#bulk-all").check()
        tab.page.locator('.job .job-actions button[aria-expanded="false"]:not([hidden])').first.click()
        view = tab.page.locator("compare-view").first
        view.get_by_role("button", name="放大镜").click()
        expect(view.locator("canvas.loupe")).to_be_visible()
        tab.require_accessible()
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 320
        tab.picture("phone-chinese")
