"""Chromium, driven by Playwright. Not a test module."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright


@contextmanager
def open_browser(chromium: Path, *arguments: str) -> Iterator[Browser]:
    """Run a browser; root may only without its sandbox."""
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*arguments, *as_root])
        yield browser
        browser.close()
