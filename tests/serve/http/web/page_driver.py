"""The page as a person meets it: files are dropped on it, buttons are pressed, and what it shows is waited for."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

ARTEFACTS = Path(__file__).parent / "artefacts"
PATIENCE_MS = 120_000.0
"""The machine may be busy with everything else."""

_WATCH_POLICY = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""
_DROP = """
([files]) => {
  const transfer = new DataTransfer();
  for (const { name, type, base64 } of files) {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type, lastModified: 1700000000000 }));
  }
  const target = document.getElementById("drop");
  for (const kind of ["dragenter", "dragover", "drop"]) {
    target.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }
}
"""


@dataclass
class PageDriver:
    """One browser tab with the page in it, watched for everything that it must not do."""

    page: Page
    base_url: str
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, URL and headers of everything that the browser asked for."""
    errors: list[str] = field(default_factory=list)
    """Exceptions of the page's scripts, and what its policy has refused."""

    def open(self, path: str = "/") -> None:
        self.page.goto(self.base_url + path)
        expect(self.page.locator("#empty, .job").first).to_be_visible()

    def drop(self, *paths: Path) -> None:
        """Drop files on the page, all at once."""
        kinds = {".mp4": "video/mp4", ".png": "image/png"}
        files = [
            {
                "name": path.name,
                "type": kinds.get(path.suffix, "application/octet-stream"),
                "base64": base64.b64encode(path.read_bytes()).decode(),
            }
            for path in paths
        ]
        self.page.evaluate(_DROP, [files])

    def choose_exact_size(self, size: str) -> None:
        """Ask for a size that is not among the presets."""
        self.page.locator("#more > summary").click()
        self.page.get_by_label("Exact size").fill(size)

    def pending(self, name: str) -> Locator:
        return self.page.locator(".pending-row").filter(has_text=name)

    def job(self, name: str) -> Locator:
        return self.page.locator(".job").filter(has=self.page.get_by_role("heading", name=name, exact=True))

    def state_of(self, name: str) -> str:
        return self.job(name).locator(".state").get_attribute("data-state") or ""

    def start(self) -> None:
        self.page.locator("#start").click()

    def wait_for_state(self, name: str, state: str) -> None:
        expect(self.job(name).locator(f'.state[data-state="{state}"]')).to_be_visible()

    def picture(self, name: str) -> None:
        """Keep a screenshot of the whole page."""
        ARTEFACTS.mkdir(exist_ok=True)
        # Otherwise what sticks to the window's top hides the middle of the page.
        self.page.evaluate("scrollTo(0, 0)")
        self.page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)

    def require_accessible(self) -> None:
        """Fail with what axe-core finds serious or critical."""
        found = Axe().run(self.page).response["violations"]
        grave = [each for each in found if each["impact"] in ("serious", "critical")]
        told = [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in grave]
        assert not told, json.dumps(told, indent=1)

    def require_harmless(self) -> None:
        """Fail if the page asked another host for anything, broke its policy, or raised an error."""
        violations = self.page.evaluate("window.violations")
        assert not violations and not self.errors, [*violations, *self.errors]
        strangers = {url for _, url, _ in self.requests if not url.startswith((self.base_url, f"blob:{self.base_url}"))}
        assert not strangers, strangers


@contextmanager
def open_tab(browser: Browser, base_url: str, **options: Any) -> Iterator[PageDriver]:
    """A fresh browser profile with one tab; checked at the end for what the page must not do."""
    context: BrowserContext = browser.new_context(
        **{"viewport": {"width": 1180, "height": 900}, "color_scheme": "light", "reduced_motion": "reduce", **options}
    )
    context.set_default_timeout(PATIENCE_MS)
    context.add_init_script(_WATCH_POLICY)
    driver = PageDriver(context.new_page(), base_url)
    context.on("request", lambda sent: driver.requests.append((sent.method, sent.url, sent.headers)))
    driver.page.on("pageerror", lambda error: driver.errors.append(str(error)))
    driver.page.on("dialog", lambda dialog: dialog.accept())
    try:
        yield driver
        driver.require_harmless()
    finally:
        context.close()
