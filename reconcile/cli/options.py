"""The options that more than one command takes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reconcile.errors import UsageError

if TYPE_CHECKING:
    from reconcile.settings import Settings


class Format(StrEnum):
    html = "html"
    xlsx = "xlsx"
    csv = "csv"
    json = "json"


class ChargeBy(StrEnum):
    end_user_id = "end_user_id"
    user_id = "user_id"
    team_id = "team_id"
    organization_id = "organization_id"


class EventsStore(StrEnum):
    postgres = "postgres"
    clickhouse = "clickhouse"


class LagoVersion(StrEnum):
    newest = "1.51"
    old = "1.38"


class Language(StrEnum):
    en = "en"
    zh_cn = "zh-CN"


def choice(option: str, kind: type[StrEnum], metavar: str, told: str) -> Any:
    """An option that takes a value of `kind`. A wrong one is refused in the words of any other setting."""
    names = [one.value for one in kind]

    def parsed(text: str) -> StrEnum:
        try:
            return kind(text)
        except ValueError:
            raise UsageError(
                f"{option}: {text!r} is none of {', '.join(names)}; for example {option} {names[-1]}"
            ) from None

    def completed(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return typer.Option(option, metavar=metavar, help=told, parser=parsed, autocompletion=completed)


FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="D",
        help="First day (2026-11-01), or an exact instant (2026-11-01T08:00:00Z).",
    ),
]
ToOption = Annotated[
    str | None,
    typer.Option("--to", metavar="D", help="Last day, included whole (2026-11-30), or an exact instant, not included."),
]
LastOption = Annotated[
    str | None,
    typer.Option(
        "--last", metavar="TIME", help="Instead of --from and --to: so much up to RECONCILE_LAG ago (7d, 36h)."
    ),
]
MonthOption = Annotated[
    str | None, typer.Option("--month", metavar="MONTH", help="Instead of --from and --to: a whole month (2026-10).")
]
SkipUnchangedOption = Annotated[
    bool,
    typer.Option("--skip-unchanged", help="Leave slices unread that have not changed since they agreed, as run does."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Find what is missing; send nothing.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else, on stdout.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", metavar="DIR", help="Folder for report files, made if it is missing.")
]
FormatOption = Annotated[
    list[Format] | None,
    choice("--format", Format, "html|xlsx|csv|json", "Format of the report files; repeat it. [html and json]"),
]
ChargeByOption = Annotated[
    ChargeBy | None,
    choice(
        "--charge-by",
        ChargeBy,
        "COLUMN",
        "end_user_id, user_id, team_id or organization_id. Instead of LAGO_API_CHARGE_BY.",
    ),
]
EventCodeOption = Annotated[
    str | None, typer.Option("--event-code", metavar="CODE", help="Instead of LAGO_API_EVENT_CODE.")
]
DaskOption = Annotated[
    str | None, typer.Option("--dask", metavar="ADDRESS", help="Decode on a Dask cluster. Instead of RECONCILE_DASK.")
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log what goes on, also how many requests Lago is given at a time.")
]
LanguageOption = Annotated[Language | None, choice("--lang", Language, "en|zh-CN", "Instead of RECONCILE_LANG.")]


def settings_with(
    charge_by: ChargeBy | None = None,
    event_code: str | None = None,
    language: Language | None = None,
    dask: str | None = None,
    verbose: bool = False,
) -> Settings:
    """The settings, with what the command line says instead."""
    from reconcile.settings import load

    return load(
        charge_by=None if charge_by is None else charge_by.value,
        event_code=event_code,
        language=None if language is None else language.value,
        dask=dask,
        log_level="debug" if verbose else None,
    )
