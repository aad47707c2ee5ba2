"""A browser and an office suite, where the machine has them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

# Without these, Chromium looks for updates and accounts, and a page's own silence could not be seen.
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SOFFICE = shutil.which("soffice") or shutil.which("libreoffice")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that need a program, and skips them where it is missing: one line in the summary per program."""
    for fixture, marker, program, executable in (
        ("browser", "browser", "Chromium", CHROMIUM),
        ("soffice", "office", "LibreOffice", SOFFICE),
    ):
        for item in items:
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)
                if executable is None:
                    item.add_marker(pytest.mark.skip(reason=f"no {program} on this machine"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    assert CHROMIUM is not None
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield running
        running.close()


@pytest.fixture(scope="session")
def soffice() -> Path:
    """LibreOffice's command."""
    assert SOFFICE is not None
    return Path(SOFFICE)
