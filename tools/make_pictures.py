"""Makes docs/demo.png and docs/report.png from a demo that was just run. Needs a Chromium and the extra `test`.

    .venv/bin/reconcile demo --output /tmp/demo; .venv/bin/python tools/make_pictures.py /tmp/demo

Look at both before you commit them: the heights below end where a card of the page ends.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURES = {"demo.png": 1000, "report.png": 2262}  # height in pixels
WIDTH = 1280


def main(folder: Path) -> None:
    (page_file,) = folder.glob("*.html")
    docs = Path(__file__).parents[1] / "docs"
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, height in PICTURES.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": height})
            page.goto(page_file.resolve().as_uri())
            page.screenshot(path=docs / name)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
