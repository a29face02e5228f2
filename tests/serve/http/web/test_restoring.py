"""What people do with the page, in Chromium, with a service behind it that runs on Ray and restores with nano."""

import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from seedvr2_ray.media.probe import probe
from seedvr2_ray.serve.config import ModelPool
from tests.media import clips
from tests.serve.braked import HELD, Brake, BrakedRestorers
from tests.serve.http.web.cutting_proxy import CuttingProxy
from tests.serve.http.web.page_driver import PageDriver, open_tab
from tests.serve.http_jobs import completed
from tests.serve.running import RunningService, start_service

pytestmark = [pytest.mark.browser, pytest.mark.ray, pytest.mark.slow]

FIRST_SHOT = 6
NUM_FRAMES = 40
LONG_BYTES = 10 * 2**20


@pytest.fixture(scope="module")
def service(chromium: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    models = {"nano": ModelPool(num_cpus=0.2, min_replicas=1, megapixels_per_second=0.2, price_per_gpu_hour=2.0)}
    folder = tmp_path_factory.mktemp("service")
    with start_service(folder, models=models, restorers=BrakedRestorers(Brake(folder))) as running:
        yield running


@pytest.fixture
def brake(service: RunningService) -> Iterator[Brake]:
    """Holds jobs until a test has seen what it wants to see of them."""
    brake = Brake(service.folder)
    yield brake
    brake.release()


@pytest.fixture
def tab(browser: Browser, service: RunningService) -> Iterator[PageDriver]:
    with open_tab(browser, service.base_url) as driver:
        driver.open()
        yield driver


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    """One second with sound."""
    path = folder / "holiday.mp4"
    clips.make_clip(path, num_frames=24, size=(64, 48), audio_tracks=1)
    return path


@pytest.fixture(scope="module")
def restored(service: RunningService, clip: Path) -> str:
    """The name of a video that the service has restored already."""
    name = "ready.mp4"
    with httpx.Client(base_url=service.base_url, timeout=60) as client:
        sent = {"file": (name, clip.read_bytes())}
        job = client.post("/v1/jobs", files=sent, data={"settings": '{"resolution": "x2"}'}).raise_for_status().json()
        completed(client, job["id"])
    return name


@pytest.fixture(scope="module")
def two_shots(folder: Path) -> Path:
    """A short shot and a long one, so that there is a picture long before the end."""
    path = folder / "two-shots.mp4"
    clips.make_clip(path, num_frames=NUM_FRAMES, size=(64, 48), cuts=(FIRST_SHOT,))
    return path


@pytest.fixture(scope="module")
def picture(folder: Path) -> Path:
    path = folder / "portrait.png"
    Image.fromarray((clips.draw_frame(3, (64, 48)) * 255).astype("uint8")).save(path)
    return path


@pytest.fixture(scope="module")
def bad_file(folder: Path) -> Path:
    path = folder / "broken.mp4"
    path.write_bytes(b"this is not a film" * 100)
    return path


@pytest.fixture(scope="module")
def long_upload(folder: Path) -> Path:
    """A small video in a big file: what players skip, but a connection must carry."""
    path = folder / "long.mp4"
    clips.make_clip(path, num_frames=6, size=(64, 48))
    with path.open("ab") as file:
        file.write((LONG_BYTES + 8).to_bytes(4, "big") + b"free" + bytes(LONG_BYTES))
    return path


def test_a_video_is_dropped_restored_compared_and_downloaded(tab, clip, tmp_path):
    tab.choose_exact_size("x2")
    tab.drop(clip)
    row = tab.pending(clip.name)
    expect(row).to_contain_text(re.compile(r"128 × 96 · 24 frames · about .+ · cost"))
    expect(tab.page.locator("#total")).to_contain_text("About")
    tab.picture("estimate")
    tab.start()
    tab.wait_for_state(clip.name, "completed")
    expect(row).to_have_count(0)
    expect(tab.page.locator("#announcer")).to_have_text(f"{clip.name}: Done")

    view = tab.job(clip.name).locator("compare-view")
    videos = view.locator("video")
    expect(videos).to_have_count(2)
    shapes = videos.evaluate_all("films => films.map((film) => [film.videoWidth, film.videoHeight])")
    assert shapes == [[64, 48], [128, 96]]
    view.get_by_role("button", name="Play").click()
    # A quarter of a second is what the page allows them to be apart; further apart, one is moved.
    tab.page.wait_for_function(
        """() => {
            const [one, other] = [...document.querySelectorAll('compare-view video')].map((video) => video.currentTime);
            return one > 0.4 && other > 0.4 && Math.abs(one - other) <= 0.25;
        }"""
    )
    view.get_by_role("slider", name="Position").fill("500")
    tab.page.wait_for_function(
        """() => [...document.querySelectorAll('compare-view video')].every(
            (video) => !video.seeking && Math.abs(video.currentTime - video.duration / 2) < 0.1)"""
    )
    tab.picture("compared")

    with tab.page.expect_download() as download:
        tab.job(clip.name).get_by_role("link", name="Download").click()
    result = tmp_path / "result.mp4"
    download.value.save_as(result)
    assert download.value.suggested_filename.startswith("holiday")
    found = probe(str(result))
    assert (found.video.width, found.video.height, found.video.num_frames) == (128, 96, 24)
    assert [stream.kind for stream in found.streams] == ["audio"]


def test_the_divider_is_a_slider_for_keyboards_and_pointers(restored, tab):
    tab.job(restored).get_by_role("button", name="Compare").click()
    divider = tab.job(restored).get_by_role("slider", name="Divider between before and after")
    expect(divider).to_have_attribute("aria-valuenow", "50")
    divider.focus()
    for key, value in (("ArrowRight", 52), ("ArrowLeft", 50), ("PageUp", 60), ("Home", 0), ("End", 100)):
        tab.page.keyboard.press(key)
        expect(divider).to_have_attribute("aria-valuenow", str(value))
        expect(divider).to_have_attribute("aria-valuetext", f"{value} % before, {100 - value} % after")
    box = tab.job(restored).locator(".stage").bounding_box()
    tab.page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 30)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 60, steps=4)
    tab.page.mouse.up()
    expect(divider).to_have_attribute("aria-valuenow", "25")


def test_a_few_seconds_are_tried_first(tab, clip, folder):
    path = folder / "tried.mp4"
    clips.make_clip(path, num_frames=36, size=(64, 48))
    tab.choose_exact_size("x2")
    field = tab.page.get_by_label("First try a few seconds")
    field.fill("soon")
    assert "10-13" in field.evaluate("input => input.validationMessage")
    field.fill("0.5-1")
    tab.drop(path)
    tab.start()
    tab.wait_for_state(path.name, "completed")
    with tab.page.expect_download() as download:
        tab.job(path.name).get_by_role("link", name=re.compile("Download")).click()
    assert probe(str(download.value.path())).video.num_frames == 12


def test_the_first_picture_is_there_before_the_video_is_done_and_a_reload_loses_nothing(tab, two_shots, brake):
    brake.set(HELD, seed=8, from_frame=FIRST_SHOT)
    tab.choose_exact_size("x2")
    tab.page.get_by_label("Seed").fill("8")
    tab.drop(two_shots)
    tab.start()
    # Nobody opened it: the first picture shows itself while the rest is at work.
    at_work = tab.job(two_shots.name).filter(has=tab.page.locator('.state[data-state="restoring"]'))
    expect(at_work.locator("compare-view img")).to_have_count(2)
    expect(at_work.locator(".job-live")).to_contain_text(re.compile(rf"\d+ of {NUM_FRAMES} frames"))
    assert "%" in tab.page.title()
    tab.page.reload()
    expect(tab.job(two_shots.name)).to_be_visible()
    tab.picture("reloaded")
    brake.release()
    tab.wait_for_state(two_shots.name, "completed")
    expect(tab.page.get_by_label("Exact size")).to_have_value("x2")
    tab.job(two_shots.name).get_by_role("button", name="Compare").click()
    # The original was kept in this browser, so whole videos are compared even now.
    expect(tab.job(two_shots.name).locator("compare-view video")).to_have_count(2)


def test_a_file_that_cannot_be_restored_is_said_so_and_stops_nothing(tab, bad_file, picture, folder):
    notes = folder / "notes.txt"
    notes.write_text("not a film")
    tab.choose_exact_size("x2")
    tab.drop(bad_file, notes, picture)
    expect(tab.pending(notes.name)).to_contain_text("This is not a kind of file that can be restored")
    problem = tab.pending(bad_file.name).locator(".problem")
    expect(problem).to_contain_text("The file cannot be used.")
    expect(problem).to_contain_text("Repair, convert or replace the file.")
    tab.picture("bad-file")
    tab.page.locator("#language").click()
    expect(problem).to_contain_text("文件无法使用。")
    tab.page.locator("#language").click()
    tab.pending(bad_file.name).get_by_role("button", name=f"Remove {bad_file.name}").click()
    expect(tab.pending(bad_file.name)).to_have_count(0)
    tab.start()
    tab.wait_for_state(picture.name, "completed")
    pictures = tab.job(picture.name).locator("compare-view img")
    expect(pictures).to_have_count(2)
    assert pictures.evaluate_all("all => all.map((each) => each.naturalWidth)") == [64, 128]


def test_two_files_go_at_once_and_one_is_cancelled_and_deleted(tab, picture, folder):
    other = folder / "other.mp4"
    clips.make_clip(other, num_frames=1200, size=(64, 48))  # Long enough to be cancelled on any machine.
    second = folder / "second.png"
    Image.open(picture).rotate(180).save(second)
    tab.choose_exact_size("x2")
    tab.drop(other, second)
    expect(tab.page.locator("#start-label")).to_have_text("Start 2 files")
    tab.page.get_by_label("Seed").fill("7")
    tab.start()
    expect(tab.job(other.name)).to_be_visible()
    tab.job(other.name).get_by_role("button", name="Cancel").click()
    tab.wait_for_state(other.name, "cancelled")
    tab.wait_for_state(second.name, "completed")
    tab.job(other.name).get_by_role("button", name="Delete").click()
    expect(tab.job(other.name)).to_have_count(0)
    tab.page.reload()
    expect(tab.job(second.name)).to_be_visible()
    expect(tab.job(other.name)).to_have_count(0)


def test_an_upload_resumes_when_the_connection_is_back(browser, service, long_upload):
    address = urllib.parse.urlsplit(service.base_url)
    with CuttingProxy((address.hostname, address.port)) as proxy, open_tab(browser, proxy.url) as tab:
        tab.open()
        tab.choose_exact_size("x2")
        proxy.cut_after = proxy.sent_bytes + 0.6 * LONG_BYTES
        tab.drop(long_upload)
        tab.start()
        expect(tab.pending(long_upload.name)).to_contain_text("The connection is lost at")
        tab.picture("interrupted")
        proxy.mend()
        expect(tab.job(long_upload.name)).to_be_visible()
        assert proxy.sent_bytes < 1.5 * LONG_BYTES, "it went on where it was, and did not begin again"
        pieces = [int(headers["upload-offset"]) for method, _, headers in tab.requests if method == "PATCH"]
        assert pieces.count(0) == 1
        assert len([method for method, *_ in tab.requests if method == "HEAD"]) >= 1


def test_an_upload_goes_on_after_a_reload(browser, service, long_upload, folder):
    copy = folder / "reloaded.mp4"
    copy.write_bytes(long_upload.read_bytes())
    address = urllib.parse.urlsplit(service.base_url)
    with CuttingProxy((address.hostname, address.port)) as proxy, open_tab(browser, proxy.url) as tab:
        tab.open()
        tab.choose_exact_size("x2")
        proxy.cut_after = proxy.sent_bytes + 0.6 * LONG_BYTES
        tab.drop(copy)
        tab.start()
        expect(tab.pending(copy.name)).to_contain_text("The connection is lost at")
        proxy.mend()
        tab.page.reload()
        # Nobody chooses the file or presses start again.
        tab.wait_for_state(copy.name, "completed")
        pieces = [int(headers["upload-offset"]) for method, _, headers in tab.requests if method == "PATCH"]
        assert pieces.count(0) == 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("light", {}),
        ("dark", {"color_scheme": "dark"}),
        ("chinese", {"locale": "zh-CN"}),
        ("phone", {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}),
        ("phone-dark", {"viewport": {"width": 320, "height": 640}, "is_mobile": True, "color_scheme": "dark"}),
    ],
)
def test_the_page_is_accessible_in_every_dress(browser, service, restored, picture, bad_file, name, options):
    with open_tab(browser, service.base_url, **options) as tab:
        tab.open()
        tab.page.locator("#more > summary").click()
        tab.drop(picture, bad_file)
        expect(tab.pending(picture.name)).to_contain_text("×")
        expect(tab.pending(bad_file.name).locator(".problem")).not_to_be_empty()
        tab.job(restored).locator('.job-actions button[aria-expanded="false"]').click()
        expect(tab.job(restored).locator("compare-view .player, compare-view .compare-foot")).to_be_visible()
        tab.require_accessible()
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= options.get("viewport", {}).get(
            "width", 1180
        )
        assert tab.page.evaluate("document.documentElement.lang") == ("zh-CN" if name == "chinese" else "en")
        tab.picture(name)


def test_everything_can_be_done_with_the_keyboard(tab, picture):
    page = tab.page
    # Playwright begins to catch dialogs some time after it is asked to, and a key is quick.
    page.on("filechooser", lambda _: None)
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the content")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_id("choose")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(picture)
    expect(tab.pending(picture.name)).to_contain_text("×")
    page.locator('input[name="size"]:checked').focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator('input[name="size"]:checked')).to_have_value("720p")
    tab.pending(picture.name).get_by_role("button").focus()
    page.keyboard.press("Space")
    expect(tab.pending(picture.name)).to_have_count(0)
    expect(page.locator(":focus")).to_have_id("choose")


def test_theme_and_language_are_chosen_and_kept(tab):
    ground = "() => getComputedStyle(document.body).backgroundColor"
    light = tab.page.evaluate(ground)
    tab.page.get_by_role("button", name="Switch to dark").click()
    dark = tab.page.evaluate(ground)
    assert dark != light
    tab.page.get_by_role("button", name="中文").click()
    expect(tab.page.get_by_role("heading", level=1)).to_have_text("修复视频和图片")
    tab.page.reload()
    expect(tab.page.get_by_role("heading", level=1)).to_have_text("修复视频和图片")
    assert tab.page.evaluate("document.documentElement.lang") == "zh-CN"
    assert tab.page.evaluate(ground) == dark
