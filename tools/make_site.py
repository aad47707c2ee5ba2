"""Makes the site of the documentation: python tools/make_site.py site

The pages are the files as they stand in the repository, README included; the commands' help and the settings are taken
from the code. A link to a file that is no page leads into the repository. Whatever Sphinx warns of, such as a link that
leads nowhere or a page that nothing leads to, is an error.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

from sphinx.application import Sphinx
from typer.testing import CliRunner

from reconcile import __version__
from reconcile.cli import app
from reconcile.settings import documentation

ROOT = Path(__file__).parents[1]
ADDRESSES = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
OF_ROOT = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
}
# The order of the pages that readers look for; any other page of docs/ follows under the last heading.
MENU = {
    "Use": ("tutorial", "operations", "settings", "commands", "finance", "callback", "airflow", "sandbox"),
    "Understand": ("how-it-works", "matching", "reliability", "performance", "decisions", "glossary"),
    "Project": ("changelog", "contributing", "security", "code-of-conduct"),
    "More": (),
}
CHINESE = "简体中文"


def pages(root: Path) -> dict[str, str]:
    """Every file that is a page, by its path in the repository: its path in the site."""
    found = {name: page for name, page in OF_ROOT.items() if (root / name).exists()}
    found |= {path.name: path.name.lower() for path in root.glob("README.*.md")}
    return found | {f"docs/{path.name}": path.name for path in (root / "docs").glob("*.md")}


def linked(text: str, source: str, known: dict[str, str], root: Path) -> str:
    """The text with its links as the site has them. `source` is its own path in the repository."""

    def moved(match: re.Match[str]) -> str:
        target, hash_, anchor = match[2].partition("#")
        if not target or urlsplit(target).scheme:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path in known:
            target = known[path]
        elif path.startswith("docs/") and Path(path).suffix in (".png", ".svg"):
            target = path.removeprefix("docs/")
        elif (root / path).exists():
            target = f"{ADDRESSES['Repository']}/blob/main/{path}"
        return f"{match[1]}({target}{hash_}{anchor})"

    return re.sub(r"(\])\(([^)\s]+)\)", moved, text)


def commands_page() -> str:
    """The help of every command, as a terminal of a hundred columns shows it."""
    parts = ["# Commands", _help()]
    for info in app.registered_commands:
        assert info.callback is not None
        name = info.name or info.callback.__name__.replace("_", "-")
        parts += [f"## reconcile {name}", _help(name)]
    return "\n\n".join(parts) + "\n"


def _help(*command: str) -> str:
    shown = CliRunner().invoke(app, [*command, "--help"], prog_name="reconcile", terminal_width=100, color=False)
    assert shown.exit_code == 0, shown.output
    return f"```text\n{shown.output.strip()}\n```"


def settings_table() -> list[str]:
    """The rows of the table of settings."""
    return [f"| `{one.name}` | {_default(one.default)} | {one.meaning} | `{one.example}` |" for one in documentation()]


def _default(default: str | None) -> str:
    if default is None:
        return "required"
    return f"`{default}`" if default else "empty"


def with_settings(text: str) -> str:
    """docs/settings.md with its table taken from the code."""
    lines = text.splitlines()
    rows = [number for number, line in enumerate(lines) if line.startswith("| `")]
    return "\n".join([*lines[: rows[0]], *settings_table(), *lines[rows[-1] + 1 :]]) + "\n"


def menu(names: set[str]) -> str:
    """The tables of contents, one for each heading that has a page."""
    left, parts = names - {"index"}, []
    groups = {heading: [name for name in order if name in left] for heading, order in MENU.items()}
    groups[CHINESE] = sorted(name for name in left if name.lower().endswith("zh-cn"))
    listed = {name for group in groups.values() for name in group}
    groups["More"] = sorted(left - listed)
    for heading, group in groups.items():
        if group:
            parts.append(f"```{{toctree}}\n:hidden:\n:caption: {heading}\n\n" + "\n".join(group) + "\n```\n")
    return "\n".join(parts)


def gather(root: Path, folder: Path) -> None:
    """Writes the site's sources into the folder."""
    known = pages(root)
    written = {"commands.md": commands_page()}
    for source, page in known.items():
        text = (root / source).read_text(encoding="utf-8")
        written[page] = linked(with_settings(text) if page == "settings.md" else text, source, known, root)
    written["index.md"] += "\n" + menu({Path(page).stem if page != "index.md" else "index" for page in written})
    for page, text in written.items():
        (folder / page).write_text(text, encoding="utf-8")
    for picture in (*(root / "docs").glob("*.png"), *(root / "docs").glob("*.svg")):
        shutil.copy(picture, folder)


def make(root: Path, output: Path) -> int:
    """Makes the site; says Sphinx's exit code, which is 0 where nothing was warned of."""
    settings = {
        "project": "reconcile",
        "author": "",
        "release": __version__,
        "extensions": ["myst_parser"],
        "html_theme": "furo",
        "html_title": f"reconcile {__version__}",
        "html_baseurl": ADDRESSES["Documentation"],
        "html_copy_source": False,
        "html_show_copyright": False,
        "myst_heading_anchors": 6,
        "nitpicky": True,
    }
    with tempfile.TemporaryDirectory() as folder:
        gather(root, Path(folder))
        site = Sphinx(
            folder,
            None,
            output,
            Path(folder) / ".doctrees",
            "html",
            confoverrides=settings,
            status=None,
            warning=sys.stderr,
            warningiserror=True,
        )
        site.build()
    return int(site.statuscode)


if __name__ == "__main__":
    sys.exit(make(ROOT, Path(sys.argv[1])))
