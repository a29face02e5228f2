"""Laws of the report page."""

import json
import math
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from websockets.sync.client import ClientConnection, connect

from seedvr2_ray.errors import TargetError
from seedvr2_ray.media.info import Notice
from seedvr2_ray.restoration.report.comparison import ComparisonPicture, compare_frames
from seedvr2_ray.restoration.report.page import ReportData, SegmentFigures, render_report, write_report

HOSTILE = """"><script>alert('x')</script><img src=x onerror=alert(1)>&amp;$style ${title}\x07\u202e.mp4"""
NOTICES = (
    Notice("kept", "audio stream 1", "copied bit for bit"),
    Notice("left_out", "subtitle stream 2", "MP4 cannot hold ASS; write to .mkv to keep it"),
    Notice("converted", "colour", "BT.601 becomes BT.709"),
)
DATA = ReportData(
    source="/films/holiday.mp4",
    target="/films/restored/holiday big.mp4",
    kind="video",
    model="lanczos",
    source_size=(320, 180),
    target_size=(1280, 720),
    source_codec="h264",
    target_codec="libx264",
    num_frames=120,
    duration_seconds=5.0,
    frame_rate="24",
    elapsed_seconds=10.0,
    restored_frames=120,
    segments=(
        SegmentFigures(index=0, shot=0, first_frame=0, num_frames=80, seconds=6.0, psnr=40.0, ssim=0.99),
        SegmentFigures(
            index=1, shot=1, first_frame=80, num_frames=40, seconds=4.0, psnr=37.0, boundary_step=-1.5, num_missing=2
        ),
    ),
    notices=NOTICES,
    version="0.1.0",
    provenance={"settings": {"seed": 666}},
)


class _Page(HTMLParser):
    """What a browser would make of the page, as far as the tests ask."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def _picture(caption: str = "Frame 7") -> ComparisonPicture:
    before = torch.randint(0, 256, (3, 9, 16), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    return compare_frames(before, before.repeat_interleave(4, 1).repeat_interleave(4, 2), caption)


def test_the_page_says_what_was_done() -> None:
    text = _Page(render_report(DATA, [_picture()])).text
    for fact in ("holiday big.mp4", "/films/holiday.mp4", "320×180 → 1280×720", "lanczos", "h264 → libx264"):
        assert fact in text
    for fact in ("120 frames at 24 per second", "5.0 s", "10.0 s", "12 frames per second", "Frame 7"):
        assert fact in text


def test_mean_figures_count_every_frame_alike() -> None:
    text = _Page(render_report(DATA, [])).text
    assert f"{(40.0 * 80 + 37.0 * 40) / 120:.2f} dB" in text
    assert "−1.50" in text


def test_figures_that_were_not_measured_are_not_invented() -> None:
    unmeasured = replace(DATA, segments=(SegmentFigures(index=0, shot=0, first_frame=0, num_frames=1, seconds=1.0),))
    text = _Page(render_report(unmeasured, [])).text
    assert "– – – –" in text
    assert "Nothing was measured." in text


@pytest.mark.parametrize(("value", "shown"), [(math.inf, "∞"), (math.nan, "–")])
def test_figures_without_a_finite_value_are_shown_as_people_write_them(value: float, shown: str) -> None:
    segment = SegmentFigures(index=0, shot=0, first_frame=0, num_frames=1, seconds=1.0, psnr=value)
    assert shown in _Page(render_report(replace(DATA, segments=(segment,)), [])).text


def test_losses_are_named_before_what_was_kept() -> None:
    text = _Page(render_report(DATA, [])).text
    places = [text.index(word) for word in ("subtitle stream 2", "BT.601 becomes BT.709", "copied bit for bit")]
    assert places == sorted(places)
    assert "2 missing" in text


def test_work_of_an_earlier_run_does_not_count_as_speed() -> None:
    text = _Page(render_report(replace(DATA, restored_frames=20), [])).text
    assert "2 frames per second; 100 were there from an earlier run" in text
    text = _Page(render_report(replace(DATA, restored_frames=0), [])).text
    assert "everything was there from an earlier run" in text


def test_an_image_has_no_length() -> None:
    image = replace(DATA, kind="image", num_frames=1, restored_frames=1, duration_seconds=0.0, segments=())
    assert "per second" not in _Page(render_report(image, [])).text


@pytest.mark.parametrize("field", ["source", "target", "model", "source_codec", "frame_rate", "version"])
def test_hostile_names_stay_text(field: str) -> None:
    plain, hostile = (_Page(render_report(data, [_picture()])) for data in (DATA, replace(DATA, **{field: HOSTILE})))
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in plain.elements]
    assert "<script>alert('x')</script>" in hostile.text
    assert "\x07" not in hostile.text


def test_hostile_notices_captions_and_provenance_stay_text() -> None:
    notices = tuple(Notice(notice.outcome, HOSTILE, HOSTILE) for notice in NOTICES)
    hostile = replace(DATA, notices=notices, provenance={HOSTILE: HOSTILE})
    page = _Page(render_report(hostile, [_picture(HOSTILE)]))
    plain = _Page(render_report(DATA, [_picture()]))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert [sorted(attributes) for _, attributes in page.elements] == [sorted(names) for _, names in plain.elements]


def test_a_file_name_that_is_no_unicode_is_written(tmp_path: Path) -> None:
    name = b"caf\xe9.mp4".decode("utf-8", "surrogateescape")
    write_report(str(tmp_path / "report.html"), replace(DATA, source=name), [])
    assert "caf\N{REPLACEMENT CHARACTER}.mp4" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_needs_nothing_from_outside() -> None:
    page = _Page(render_report(DATA, [_picture(), _picture()]))
    assert {tag for tag, _ in page.elements}.isdisjoint({"link", "iframe", "object", "embed", "base", "form"})
    sources = [attributes.get("src") or "" for _, attributes in page.elements if "src" in attributes]
    assert len(sources) == 4 and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_every_picture_and_slider_has_words_for_those_who_do_not_see_it() -> None:
    page = _Page(render_report(DATA, [_picture("Frame 7"), _picture("Frame 90")]))
    assert [image["alt"] for image in page.all("img")] == [
        f"{frame}, {when}" for frame in ("Frame 7", "Frame 90") for when in ("after", "before")
    ]
    sliders = page.all("input")
    assert all("Frame" in (slider["aria-label"] or "") for slider in sliders)
    assert {label["for"] for label in page.all("label")} == {slider["id"] for slider in sliders}
    assert page.all("html") == [{"lang": "en"}]


def test_a_picture_without_a_caption_is_called_one() -> None:
    page = _Page(render_report(DATA, [_picture("")]))
    assert [image["alt"] for image in page.all("img")] == ["Picture, after", "Picture, before"]


def test_provenance_stands_in_the_page_unchanged() -> None:
    text = _Page(render_report(DATA, [])).text
    assert " ".join(json.dumps(DATA.provenance, indent=2).split()) in text


def test_an_unwritable_place_is_the_callers_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetError):
        write_report(str(tmp_path / "file" / "report.html"), DATA, [])


class _Browser:
    """One tab of a headless Chromium, driven over its debugging protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = count(1)
        self.complaints: list[Any] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (message := json.loads(self._socket.recv(timeout=240))).get("id") != number:
            if message["method"] in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.complaints.append(message["params"])
        assert "error" not in message, message
        result: dict[str, Any] = message["result"]
        return result

    def evaluate(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def press(self, key: str) -> None:
        codes = {"ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35}
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)


@contextmanager
def _browse(chromium: Path, page: Path, profile: Path) -> Iterator[_Browser]:
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--window-size=1000,900")
    process = subprocess.Popen(
        [chromium, *flags, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        address = next(line.split()[-1] for line in process.stderr if "DevTools listening" in line)
        with connect(address, max_size=None, open_timeout=240) as root:
            target = _Browser(root).call("Target.createTarget", url="about:blank")["targetId"]
            with connect(
                f"{address.rsplit('/devtools/', 1)[0]}/devtools/page/{target}", max_size=None, open_timeout=240
            ) as socket:
                tab = _Browser(socket)
                tab.call("Log.enable")
                tab.call("Runtime.enable")
                tab.call("Page.navigate", url=page.as_uri())
                while tab.evaluate("document.readyState + location.protocol") != "completefile:":
                    pass
                yield tab
    finally:
        process.kill()
        process.communicate()


@pytest.mark.browser
def test_the_slider_follows_keys_and_pointer_and_the_page_breaks_no_rule_of_its_own(
    chromium: Path, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    write_report(str(page), DATA, [_picture()])
    with _browse(chromium, page, tmp_path / "profile") as tab:
        split = "getComputedStyle(document.querySelector('.compare')).getPropertyValue('--split')"
        spoken = "document.querySelector('input').getAttribute('aria-valuetext')"
        assert tab.evaluate(split) == "50%"
        tab.evaluate("document.querySelector('input').focus()")
        tab.press("ArrowRight")
        assert tab.evaluate(split) == "50.5%"
        tab.press("Home")
        assert (tab.evaluate(split), tab.evaluate(spoken)) == ("0%", "0 % before, 100 % after")
        tab.evaluate("document.querySelector('.stack').scrollIntoView()")
        box = "document.querySelector('.stack').getBoundingClientRect()"
        left, top, width, height = (tab.evaluate(f"{box}.{side}") for side in ("x", "y", "width", "height"))
        middle = top + min(height, 400) / 2
        tab.drag((left + 0.2 * width, middle), (left + 0.8 * width, middle))
        assert float(tab.evaluate(split).rstrip("%")) == pytest.approx(80, abs=1)
        tab.evaluate("document.querySelector('button').click()")
        assert tab.evaluate("document.querySelector('.stack').clientWidth * devicePixelRatio") == 64
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert tab.complaints == []
