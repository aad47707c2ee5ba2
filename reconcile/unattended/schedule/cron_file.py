"""cron.yaml: which jobs run when, and what becomes of their results. Errors name file and line."""

from __future__ import annotations

from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args
from zoneinfo import ZoneInfo

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from reconcile.domain.window import RelativeName
from reconcile.errors import SettingsError
from reconcile.settings import alerting, values
from reconcile.settings.kinds import CLASSES
from reconcile.unattended.schedule.trigger import CronLine

_UTC = ZoneInfo("UTC")
_DEEPEST = 20
_MOST_LINES = 20_000


def _named(window: Any) -> Any:
    """`last month` is written with a space or a hyphen."""
    return window.replace(" ", "-") if isinstance(window, str) else window


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        hide_input_in_errors=True,
        alias_generator=lambda name: name.replace("_", "-"),
        use_attribute_docstrings=True,
    )


class ReportFiles(_Part):
    """Report files that a job writes."""

    folder: str = Field(min_length=1)
    """Folder of the files, made if it is missing; relative to the directory that `reconcile schedule` runs in."""
    formats: list[Literal["html", "xlsx", "csv", "json"]] = Field(["html", "json"], min_length=1)
    """Formats of the files."""
    language: Literal["en", "zh-CN"] | None = None
    """Language of the files, instead of RECONCILE_LANG."""


class CronJob(_Part):
    """One job: when it runs, what it does, and what becomes of its result."""

    cron: str
    """Five fields of a cron line: minute, hour, day, month, weekday (0 or 7 is Sunday)."""
    command: Literal["run", "backfill", "report"]
    """`run` covers the last hours (RECONCILE_LOOKBACK); `backfill` and `report` cover a `window`."""
    window: Annotated[RelativeName | None, BeforeValidator(_named)] = None
    """Whole days in the time zone, seen from the day on which the job fires; last-week is Monday to Sunday."""
    dry_run: bool = False
    """Find what is missing; send and record nothing."""
    charge_by: Literal["end_user_id", "user_id", "team_id", "organization_id"] | None = None
    """Instead of LAGO_API_CHARGE_BY."""
    event_code: str | None = Field(None, min_length=1)
    """Instead of LAGO_API_EVENT_CODE."""
    report: ReportFiles | None = None
    """Report files to write."""
    alerts: list[str] | bool = True
    """Whether this job raises alerts; or its own thresholds, instead of RECONCILE_ALERT_ON: orphan>10, held>5.00usd."""

    @field_validator("cron")
    @classmethod
    def _cron_line(cls, line: str) -> str:
        CronLine(line, _UTC)
        return line

    @field_validator("alerts")
    @classmethod
    def _thresholds(cls, alerts: list[str] | bool) -> list[str] | bool:
        if isinstance(alerts, list):
            alerting.thresholds(*CLASSES)(",".join(alerts))
        return alerts

    @model_validator(mode="after")
    def _fits(self) -> CronJob:
        if self.command == "run" and self.window is not None:
            raise ValueError("window: `run` has its own, RECONCILE_LOOKBACK; a job over a window is a `backfill`")
        if self.command != "run" and self.window is None:
            raise ValueError(f"window: is missing; `{self.command}` needs one of {', '.join(get_args(RelativeName))}")
        if self.command == "report" and self.dry_run:
            raise ValueError("dry-run: a report sends nothing anyway")
        return self

    @property
    def thresholds(self) -> tuple[alerting.Threshold, ...] | None:
        """The job's own thresholds; None where those of the settings count."""
        return alerting.thresholds(*CLASSES)(",".join(self.alerts)) if isinstance(self.alerts, list) else None


class CronFile(_Part):
    """The jobs of `reconcile schedule`."""

    timezone: str | None = None
    """IANA zone of the cron lines and of whole days, instead of RECONCILE_TIMEZONE."""
    jobs: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")], CronJob] = Field(min_length=1)
    """Jobs by name. What ran is remembered by the name: a new name is a new job, with nothing to catch up on."""

    @field_validator("timezone")
    @classmethod
    def _zone(cls, name: str | None) -> str | None:
        return None if name is None else values.time_zone(name).key

    @cached_property
    def zone(self) -> ZoneInfo | None:
        return None if self.timezone is None else ZoneInfo(self.timezone)


def default_file() -> Path:
    """`cron.yaml` in the current directory, else the one that comes with `reconcile`."""
    here = Path("cron.yaml")
    if here.exists():
        return here
    in_wheel = files("reconcile") / "cron.yaml"
    return Path(str(in_wheel)) if in_wheel.is_file() else Path(__file__).parents[3] / "cron.yaml"


def load(path: Path) -> CronFile:
    """Reads and checks a file. Raises SettingsError with one line, `file:line: where: what`, for each mistake."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: is not a text file in UTF-8") from None
    except yaml.YAMLError as error:
        raise SettingsError(_not_yaml(path, error)) from None
    except RecursionError:
        raise SettingsError(f"{path}: is not YAML: nested too deep") from None
    lines: dict[tuple[Any, ...], int] = {(): 1}
    problems = [f"{path}:{line}: {what}" for line, what in dict.fromkeys(_walk(root, (), lines))]
    if not problems:
        try:
            return CronFile.model_validate(yaml.safe_load(text) or {})
        except yaml.YAMLError as error:
            problems = [_not_yaml(path, error)]
        except ValidationError as error:
            problems = list(dict.fromkeys(_problem(path, cast(Any, detail), lines) for detail in error.errors()))
        except (ValueError, LookupError) as error:  # a word that PyYAML takes for a date or a number, and is none
            problems = [f"{path}: holds a value that cannot be read: {error}"]
    raise SettingsError("\n".join(problems))


def _walk(node: yaml.Node | None, place: tuple[Any, ...], lines: dict[tuple[Any, ...], int]) -> list[tuple[int, str]]:
    """Notes the line of every key and item; gives the keys that stand twice, of which YAML would take the last, and
    what is too much: by aliases a few lines can stand for millions, or for something without an end."""
    if node is not None and (len(place) > _DEEPEST or len(lines) > _MOST_LINES):
        return [(node.start_mark.line + 1, "is nested too deep, repeats itself too often, or holds itself")]
    problems: list[tuple[int, str]] = []
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                problems.append((line, "a key is a list or a mapping"))
                continue
            inner = (*place, key.value)
            if inner in lines:
                problems.append((line, f"{_dotted(inner)}: stands here again, first in line {lines[inner]}"))
            lines[inner] = line
            problems += _walk(value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            lines[(*place, number)] = item.start_mark.line + 1
            problems += _walk(item, (*place, number), lines)
    return problems


def _problem(path: Path, detail: dict[str, Any], lines: dict[tuple[Any, ...], int]) -> str:
    place: tuple[Any, ...] = tuple(detail["loc"])
    written = place
    while written not in lines:  # a missing key stands nowhere, and a choice of types is no key
        written = written[:-1]
    where = place if detail["type"] == "missing" else written
    what = {"extra_forbidden": "is not a key that is known here", "missing": "is missing"}.get(detail["type"])
    if what is None:
        context = detail.get("ctx", {}).get("error")
        what = str(context) if context is not None else detail["msg"][0].lower() + detail["msg"][1:]
    return f"{path}:{lines[written]}: " + (f"{_dotted(where)}: {what}" if where else what)


def _dotted(place: tuple[Any, ...]) -> str:
    return ".".join(map(str, place))


def _not_yaml(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    line = "" if mark is None else f":{mark.line + 1}"
    problem = getattr(error, "problem", None) or "cannot be read"
    hint = "; a cron line that begins with * stands in quotes" if "alias" in str(error) else ""
    return f"{path}{line}: is not YAML: {problem}{hint}"
