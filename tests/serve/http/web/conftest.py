"""Chromium, driven by Playwright."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browsers import open_browser
from tests.serve.http.web.page_driver import PATIENCE_MS


@pytest.fixture(scope="module")
def browser(chromium: Path) -> Iterator[Browser]:
    """One browser for a module's tests; each opens profiles of its own.

    Not for the whole session: Playwright keeps an event loop running on this thread, and other tests start their own.
    """
    expect.set_options(timeout=PATIENCE_MS)
    with open_browser(chromium) as browser:
        yield browser
