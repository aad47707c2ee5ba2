"""The commands that do a job: `run`, `backfill`, `report`, and what follows each of them."""

from __future__ import annotations

import contextlib
import gc
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import structlog
import typer

from reconcile import logs
from reconcile.cli.console import print_json, printing, progress_bar, say, stopping
from reconcile.cli.options import (
    ChargeByOption,
    DryRunOption,
    EventCodeOption,
    Format,
    FormatOption,
    FromOption,
    JsonOption,
    LanguageOption,
    OutputOption,
    SkipUnchangedOption,
    ToOption,
    settings_with,
)
from reconcile.errors import Defect, OutputFault, ReconcileError, UsageError

if TYPE_CHECKING:
    from reconcile.domain.document import Document
    from reconcile.domain.window import Window
    from reconcile.run.job import Order
    from reconcile.settings import Settings

log = structlog.get_logger()


def run(
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    formats: FormatOption = None,
    charge_by: ChargeByOption = None,
    event_code: EventCodeOption = None,
    language: LanguageOption = None,
) -> None:
    """The nightly job: the last hours.

    From RECONCILE_LOOKBACK before RECONCILE_LAG ago; late rows and rows that were held back before, however old.
    """
    from reconcile.domain.window import lookback_window
    from reconcile.run.job import Order

    settings = settings_with(charge_by, event_code, language)
    window = lookback_window(datetime.now(UTC), settings.lag, settings.lookback)
    work(settings, Order("run", window, dry_run), as_json=as_json, output=output, formats=formats)


def backfill(
    from_text: FromOption,
    to_text: ToOption,
    dry_run: DryRunOption = False,
    skip_unchanged: SkipUnchangedOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    formats: FormatOption = None,
    charge_by: ChargeByOption = None,
    event_code: EventCodeOption = None,
    language: LanguageOption = None,
) -> None:
    """The same for a chosen range. Dates are days in RECONCILE_TIMEZONE, both ends included."""
    from reconcile.run.job import Order

    settings = settings_with(charge_by, event_code, language)
    window, asked_to = _range(from_text, to_text, settings)
    order = Order("backfill", window, dry_run, skip_unchanged=skip_unchanged, asked_to=asked_to)
    work(settings, order, as_json=as_json, output=output, formats=formats)


def report(
    from_text: FromOption,
    to_text: ToOption,
    as_json: JsonOption = False,
    output: OutputOption = None,
    formats: FormatOption = None,
    charge_by: ChargeByOption = None,
    event_code: EventCodeOption = None,
    language: LanguageOption = None,
) -> None:
    """Read both sides and report.

    Changes nothing in Lago or in LiteLLM.
    """
    from reconcile.run.job import Order

    settings = settings_with(charge_by, event_code, language)
    window, asked_to = _range(from_text, to_text, settings)
    work(settings, Order("report", window, asked_to=asked_to), as_json=as_json, output=output, formats=formats)


def _range(from_text: str, to_text: str, settings: Settings) -> tuple[Window, datetime | None]:
    """The window of `--from` and `--to`, and the end that was asked for where it is cut."""
    from reconcile.domain.dates import instant
    from reconcile.domain.window import cut, parse_range

    window, asked_to = cut(parse_range(from_text, to_text, settings.time_zone), datetime.now(UTC), settings.lag)
    if asked_to is not None:
        say(
            f"--to {to_text} ends at {instant(asked_to)}; the range is cut to {instant(window.end)}, since younger "
            "usage may still be on its way (RECONCILE_LAG)"
        )
    return window, asked_to


def work(
    settings: Settings,
    order: Order,
    *,
    as_json: bool,
    output: Path | None,
    formats: list[Format] | None,
    stop: threading.Event | None = None,
) -> NoReturn:
    """Runs a job, tells whom it concerns, prints its document or summary, writes its report files, and exits.

    What concerns other people comes first: output that cannot be written takes nothing from them.
    """
    from reconcile.run import job
    from reconcile.unattended import oneshot
    from reconcile.unattended.heartbeat import Heartbeat

    gc.freeze()  # what is imported stays
    if formats and output is None:
        raise UsageError("--format: report files need a folder; for example --output reports --format xlsx")
    if output is not None:
        _make_folder(output)
    logs.configure(settings.log_level, settings.log_format)
    log.info("settings", **settings.origins())
    for warning in settings.warnings():
        log.warning(warning)
    wanted = [one.value for one in formats or (Format.html, Format.json)]
    heartbeat = Heartbeat.of(settings, order)

    def announce(text: str) -> None:
        heartbeat.begins()
        say(text)

    with contextlib.ExitStack() as stack:
        stop = stop or stack.enter_context(stopping())
        try:
            with progress_bar() as progress:
                result = job.run(settings, order, stop=stop, progress=progress, announce=announce)
        except ReconcileError as error:
            heartbeat.ended(error.exit_code)
            oneshot.refused(settings, order, error, stop)
            raise
        except Exception as error:
            defect = Defect.of(error)
            heartbeat.ended(defect.exit_code)
            oneshot.refused(settings, order, defect, stop)
            raise defect from None
        heartbeat.ended(result.exit_code)
        oneshot.ended(settings, order, result, _planned(result.document, output, wanted), stop)
    if result.exit_code == job.EXIT_INTERRUPTED:
        say("interrupted; running it again is safe and carries on")
    else:
        _put_out(result.document, settings.language, as_json=as_json, output=output, formats=wanted)
    raise typer.Exit(result.exit_code)


def _planned(document: Document, output: Path | None, formats: list[str]) -> list[Path]:
    if output is None:
        return []
    from reconcile import report as reports

    return reports.paths(document, output, formats)


def _put_out(document: Document, language: str, *, as_json: bool, output: Path | None, formats: list[str]) -> None:
    """Stdout and the report files. One that cannot be written does not keep the other back."""
    faults = []
    try:
        if as_json:
            print_json(document.as_json())
        else:
            summary(document, language)
    except OutputFault as fault:
        faults.append(str(fault))
    if output is not None:
        from reconcile import report as reports

        try:
            for path in reports.write(document, output, formats, language):
                say(f"wrote {path}")
        except OutputFault as fault:
            faults.append(f"--output: {fault}")
    if faults:
        raise OutputFault("\n".join(faults))


def _make_folder(output: Path) -> None:
    """Before anything is sent: a run whose report cannot be written should not begin."""
    from reconcile import report as reports

    try:
        reports.make_folder(output)
    except OSError as error:
        raise UsageError(
            f"--output: {output} cannot be written ({error.strerror}); for example --output reports"
        ) from None


def summary(document: Document, language: str) -> None:
    """What people read of a document on a terminal."""
    from reconcile.report import terminal

    with printing() as console:
        terminal.render(document, console, language)
