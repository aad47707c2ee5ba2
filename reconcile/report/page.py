"""HTML: one file that needs nothing else, to read on a screen, a phone or paper.

Its Content-Security-Policy allows the page's own style and script, by their hashes, and nothing else: no request leaves
it, and a string that slipped through the escaping could not run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from importlib.resources import files
from typing import BinaryIO, Final, TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from reconcile.domain.dates import instant
from reconcile.domain.document import Document
from reconcile.domain.money import plain
from reconcile.domain.vocabulary import ROW_CLASSES
from reconcile.report import charts, figures, groups, headline, made, tables
from reconcile.report.shown import shortened, visible
from reconcile.report.tables import NUMBERS, Cell, Column, Kind, Line, Table
from reconcile.report.words import Words, rounded

LISTED: Final = 1_000  # discrepancies
_LINES: Final = 500  # of a table of groups; the rest stands in one line, and in full in the CSV
_TEXT: Final = 80  # characters of a stranger's string
_DETAIL: Final = 300

_TONES: Final[Mapping[str, str]] = {
    **{name: outcome for outcome, names in figures.OUTCOMES.items() for name in names},
    **dict.fromkeys(figures.SURPLUS, "surplus"),
    "litellm": "level",
    "lago": "level",
    "edge": "excluded",
}
_Make: TypeAlias = Callable[[Document, Words, int], Table]


@dataclass(frozen=True, slots=True)
class _Shown:
    """A cell as it is shown; `exact` is what it sorts by, and stands in a tooltip where rounding changed it."""

    text: str
    exact: str | None = None
    tooltip: str | None = None
    css: str = ""


@dataclass(frozen=True, slots=True)
class _Heading:
    label: str
    css: str
    sort: str  # "n" by number, "t" by text


@dataclass(frozen=True, slots=True)
class _Line:
    cells: Sequence[_Shown]
    bar: Sequence[charts.Segment] | None = None
    last: bool = False  # stays at the end however the table is sorted
    sum: bool = False  # a line that adds up others


@dataclass(frozen=True, slots=True)
class _View:
    """A table as the template draws it. `spans` are headings over several columns: label and width."""

    id: str
    title: str
    headings: Sequence[_Heading]
    lines: Sequence[_Line]
    total: Sequence[_Shown] | None
    spans: Sequence[tuple[str, int]] = ()
    bars: bool = False


def write(document: Document, words: Words, target: BinaryIO) -> None:
    """Renders the page as UTF-8."""
    style, script = _source("style.css"), _source("script.js")
    head = headline.of(document, words)
    page = _environment(words).get_template("report.html.j2")
    stream = page.stream(
        d=document,
        w=words,
        head=head,
        style=Markup(style),  # noqa: S704  # our own file
        script=Markup(script),  # noqa: S704  # our own file
        policy=_policy(style, script),
        whole=figures.sides(document),
        lago=figures.lago_bills(document),
        waterfall=charts.waterfall(figures.waterfall(document)),
        step_label=headline.step_label,
        tones=_TONES,
        actions=_actions(document, words),
        by_charge_id=_groups(groups.by_charge_id, document, words),
        by_model=_groups(groups.by_model, document, words),
        by_day=_groups(groups.by_day, document, words),
        day_chart=charts.days(document),
        heat=charts.heat(document),
        outcomes=tuple(figures.OUTCOMES),
        entries=list(tables.discrepancies(document, words, LISTED).lines),
        entries_total=len(document.discrepancies),
        classes=_plain(tables.summary(document, words), words),
        gap=_plain(tables.spend_logs_gap(document, words), words),
        usage=_plain(tables.lago_usage(document, words), words),
        findings=_plain(tables.findings(document, words), words),
        previous=_plain(tables.previous(document, words), words, quiet=True),
        basis=made.basis(document, words),
        making=made.making(document, words),
        plot_bottom=charts.PLOT_TOP + charts.PLOT_HEIGHT,
        charts=charts,
    )
    stream.enable_buffering(64)
    for part in stream:
        target.write(part.encode())


def _source(name: str) -> str:
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    parts = ("default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'")
    return "; ".join((*parts, f"style-src {_hash(style)}", f"script-src {_hash(script)}"))


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _environment(words: Words) -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    environment.filters.update(
        text=lambda text: _safe(text, words),
        detail=lambda text: _safe(text, words, _DETAIL),
        exact=plain,
        iso=instant,
    )
    return environment


def _safe(text: str, words: Words, limit: int = _TEXT) -> str:
    return shortened(visible(text), limit, words.text("more", count=words.count(len(text))))


def _actions(document: Document, words: Words) -> list[dict[str, object]]:
    """The discrepancy classes with members, most money first, each with its reasons."""
    actions: list[dict[str, object]] = []
    for name in headline.present(document):
        of = document.events[name] if name in figures.SURPLUS else document.rows[name]
        counts, spends = document.reasons.get(name, {}), document.reason_spend.get(name, {})
        reasons = [(words.of_reason(code), count, spends.get(code)) for code, count in counts.items() if count]
        actions.append(
            {
                "name": name,
                "wording": words.of_class(name),
                "count": of.count,
                "spend": of.spend,
                "events": name in figures.SURPLUS,
                "reasons": reasons,
            }
        )
    return actions


def _groups(make: _Make, document: Document, words: Words) -> _View:
    """A table of groups: money of each class that has members, counts and tokens of the totals.

    The files hold the other columns. Past `_LINES` lines, the smaller ones stand as one, so the total stays their sum.
    """
    table = make(document, words, _LINES)
    spends = [key for key in groups.present_columns(document, table) if key.endswith("_spend")]
    rows = [
        "rows_count",
        "rows_spend",
        *(f"{name}_spend" for name in ROW_CLASSES if f"{name}_spend" in spends),
    ]
    if table.name == "by-model":
        rows += ["prompt_tokens", "completion_tokens"]
    events = ["events_count", "events_spend"]
    events += [f"lago_{name}_spend" for name in figures.SURPLUS if f"lago_{name}_spend" in spends]
    chosen = table.of([table.columns[0].key, "open_spend", *rows, *events])
    kinds = [column.kind for column in chosen.columns]
    none = words.text("nobody")
    lines = []
    for number, (line, (_, sides)) in enumerate(
        zip(chosen.lines, groups.parts(table.name, document, words, _LINES), strict=True)
    ):
        last = number >= _LINES
        head = _Shown(str(line[0]), css="rest") if last else _name(line[0], kinds[0], none, words)
        cells = [_shown(cell, kind, words, quiet=True) for cell, kind in zip(line[1:], kinds[1:], strict=True)]
        lines.append(_Line([head, *cells], charts.outcome_bar(sides), last))
    return _View(
        f"t-{table.name}",
        table.title,
        [_heading(column) for column in chosen.columns],
        lines,
        _cells(chosen.total or (), kinds, words),
        (("", 3), (words.text("side_rows"), len(rows)), (words.text("side_events"), len(events))),
        bars=True,
    )


def _plain(table: Table, words: Words, *, quiet: bool = False) -> _View:
    """Any other table as it is."""
    kinds = [column.kind for column in table.columns]
    return _View(
        f"t-{table.name}",
        table.title,
        [_heading(column) for column in table.columns],
        [_Line(_cells(line, kinds, words, quiet=quiet), sum="total" in line) for line in table.lines],
        None if table.total is None else _cells(table.total, kinds, words),
    )


def _cells(line: Line, kinds: Sequence[Kind], words: Words, *, quiet: bool = False) -> list[_Shown]:
    return [_shown(cell, kind, words, quiet=quiet) for cell, kind in zip(line, kinds, strict=True)]


def _heading(column: Column) -> _Heading:
    numeric = column.kind in NUMBERS
    return _Heading(column.short or column.label, "n" if numeric else "", "n" if numeric else "t")


def _name(cell: Cell, kind: Kind, none: str, words: Words) -> _Shown:
    """The head of a line: whose it is."""
    return _Shown(none, "", css="none") if cell is None else _shown(cell, kind, words, css="id")


def _shown(cell: Cell, kind: Kind, words: Words, *, quiet: bool = False, css: str = "") -> _Shown:
    """One cell. `quiet`: zeros of a wide table are dashes, so that what is there can be seen."""
    if cell is None:
        return _Shown("", "")
    if isinstance(cell, datetime):
        return _Shown(words.instant(cell), instant(cell), css="t")
    if isinstance(cell, date):
        return _Shown(words.day(cell), cell.isoformat(), css="t")
    if isinstance(cell, str):
        return _Shown(_safe(words.worded(cell, kind), words), css=css or ("id" if kind == "text" else ""))
    if quiet and not cell:
        return _Shown("–", "0", css="n z")
    if isinstance(cell, Decimal):
        text, exact = (words.units if kind == "units" else words.money)(cell), plain(cell)
        tooltip = exact if kind == "money" and cell != rounded(cell) else None
        return _Shown(text, exact, tooltip, css="n")
    return _Shown(words.count(cell), str(cell), css="n")
