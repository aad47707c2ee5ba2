"""The site of the documentation is made of the repository's own files, without a warning."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

from reconcile import settings
from reconcile.cli import app

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "make_site.py"


def text_of(page: Path) -> str:
    return html.unescape(re.sub("<[^>]*>", "", page.read_text(encoding="utf-8")))


def test_it_is_made_without_a_warning(tmp_path: Path) -> None:
    made = subprocess.run([sys.executable, TOOL, tmp_path], capture_output=True, text=True)
    assert (made.returncode, made.stderr) == (0, "")
    pages = {path.stem for path in tmp_path.glob("*.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= pages

    index = (tmp_path / "index.html").read_text(encoding="utf-8")
    # Nothing in the menu's groups is forgotten, and a file that is no page is shown in the repository.
    assert {page for page in pages - {"index", "genindex", "search"} if f'href="{page}.html"' not in index} == set()
    assert "/blob/main/cron.yaml" in index

    commands = text_of(tmp_path / "commands.html")
    assert {info.name for info in app.registered_commands if f"Usage: reconcile {info.name}" not in commands} == set()
    table = text_of(tmp_path / "settings.html")
    assert {one.name for one in settings.documentation() if one.name not in table} == set()


def test_a_link_that_leads_nowhere_fails_it(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Here\n\n[there](docs/gone.md) and [here](#nowhere)\n", encoding="utf-8")
    code = f"import sys; sys.path.insert(0, {str(TOOL.parent)!r}); import make_site; from pathlib import Path\n"
    code += f"sys.exit(make_site.make(Path({str(tmp_path)!r}), Path({str(tmp_path / 'site')!r})))"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert made.returncode == 1
    assert "docs/gone.md" in made.stderr
    assert "nowhere" in made.stderr
