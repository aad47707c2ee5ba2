"""The summary on a terminal: what agrees, what does not, and what to do about it."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from reconcile.domain.dates import instant
from reconcile.domain.document import Document, Group
from reconcile.domain.vocabulary import DISCREPANCY_CLASSES, EVENT_CLASSES, ROW_CLASSES
from reconcile.report import figures, headline
from reconcile.report.shown import shortened, visible
from reconcile.report.words import Words

_TOP = 10
_ID_WIDTH = 48
_STYLES = {"agreed": "bold green", "discrepancies": "bold yellow", "incomplete": "bold red"}
_SIGNS = {"agreed": "✔", "discrepancies": "▲", "incomplete": "✖"}


def heading(document: Document, console: Console, language: str) -> None:
    """Prints which run it was, and when: what stands above the summary of an earlier one."""
    words = Words(language, document.method.time_zone)
    command = document.command + (" --dry-run" if document.dry_run else "")
    method = document.method
    for key, text in (
        ("run_id", document.run_id),
        ("command", command),
        ("instants", words.text("until", first=instant(document.window_from), last=instant(document.window_to))),
        ("started_at", instant(method.started_at)),
        ("finished_at", instant(method.finished_at)),
    ):
        console.print(Text(f"{words.text(key)}: {text}"))


def render(document: Document, console: Console, language: str) -> None:
    """Prints the summary: status, period, and where anything differs the classes, top charge IDs and next steps.

    Where nothing was read there is nothing to tabulate. Raises `UsageError` for an unknown language.
    """
    words = Words(language, document.method.time_zone)
    head = headline.of(document, words)
    console.print(Text(f"{_SIGNS[document.status]} {head.status}", style=_STYLES[document.status]))
    console.print(Text(f"  {head.lead}"))
    console.print(Text(f"  {head.period} ({document.method.time_zone}) · {head.stream}", style="dim"))
    if document.fault is not None:
        console.print(Text(f"  {words.of_fault(document.fault.kind)} {visible(document.fault.message)}", style="red"))
    for text in filter(None, (head.nature, head.bounds)):
        console.print(Text(f"  {text}"))
    if figures.sides(document).open_count == 0 and document.status == "agreed":
        billed = figures.lago_bills(document)
        console.print(
            Text(
                f"  {words.text('tile_litellm')}: {words.usd(document.rows['total'].spend)}"
                f" · {words.text('tile_lago')}: {words.usd(billed.spend)}"
                f" · {words.text('tile_delivered')}: {words.count(document.rows['delivered'].count)}"
            )
        )
        return
    if not document.rows["total"].count and not document.events["total"].count:
        return  # a fault came before anything was read
    console.print()
    console.print(Padding(_classes(document, words), (0, 0, 0, 2), expand=False))
    top = _top(document)
    if top:
        console.print(Padding(_charge_ids(top, words), (0, 0, 0, 2), expand=False))
    _next_steps(document, console, words)


def _classes(document: Document, words: Words) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=False)
    table.add_column(words.text("col_side"))
    table.add_column(words.text("col_class"))
    table.add_column(words.text("col_count"), justify="right", no_wrap=True)
    table.add_column(words.text("col_money"), justify="right", no_wrap=True)
    for side, totals, names in (
        ("side_rows", document.rows, ROW_CLASSES),
        ("side_events", document.events, EVENT_CLASSES),
    ):
        table.add_section()
        first = words.text(side)
        for name in names:
            if totals[name].count:
                label = words.of_class(name).label
                table.add_row(
                    first,
                    Text(label, style="yellow" if name in DISCREPANCY_CLASSES else ""),
                    words.count(totals[name].count),
                    words.money(totals[name].spend),
                )
                first = ""
        table.add_row(
            first,
            Text(words.text("total"), style="bold"),
            Text(words.count(totals["total"].count), style="bold"),
            Text(words.money(totals["total"].spend), style="bold"),
        )
    if document.rows["delivered"].count:
        now = figures.lago_now(document)
        table.add_row("", words.text("after_this_run"), words.count(now.count), words.money(now.spend))
    return table


def _top(document: Document) -> list[Group]:
    """The charge IDs with the most money that does not agree."""
    differing = [group for group in document.by_charge_id if figures.sides(group).open_count]
    return sorted(differing, key=lambda group: (-figures.sides(group).open, group.charge_id or ""))[:_TOP]


def _charge_ids(groups: list[Group], words: Words) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=words.text("top_charge_ids"), title_justify="left")
    table.add_column(words.text("col_charge_id"), overflow="fold")
    for key in ("col_rows_count", "col_rows_spend", "col_open"):
        table.add_column(words.text(key), justify="right", no_wrap=True)
    for group in groups:
        name = words.text("nobody") if group.charge_id is None else visible(group.charge_id)
        total = group.rows["total"]
        table.add_row(
            Text(shortened(name, _ID_WIDTH, words.text("truncated"))),
            words.count(total.count),
            words.money(total.spend),
            words.money(figures.sides(group).open),
        )
    return table


def _next_steps(document: Document, console: Console, words: Words) -> None:
    console.print(Text(f"  {words.text('section_actions')}", style="bold"))
    for name in headline.present(document):
        wording = words.of_class(name)
        reasons = {code: count for code, count in document.reasons.get(name, {}).items() if count}
        steps = [] if reasons else [wording.next]
        for code, count in reasons.items():
            of_reason = words.of_reason(code)
            steps.append(f"{visible(of_reason.label)} ({words.count(count)}): {of_reason.next or wording.next}")
        console.print(Padding(Text(wording.label, style="yellow"), (0, 0, 0, 4), expand=False))
        for step in steps:
            console.print(Padding(Text(step), (0, 0, 0, 6), expand=False))
