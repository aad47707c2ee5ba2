"""Every setting of `reconcile`, read from the environment and from `.env`.

LiteLLM's own names are kept with LiteLLM's meaning (its Lago callback, 1.60 to 1.110), so that the proxy's
env file works as it is. The fields of `Settings` are the one source of names, defaults, meanings and
examples: the help, `.env.example` and `docs/settings.md` follow `documentation()`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from dotenv import dotenv_values
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from reconcile.errors import SettingsError
from reconcile.settings import database as databases
from reconcile.settings import values as values
from reconcile.settings.database import PARTS, Database
from reconcile.settings.fields import SECRETS, Settings
from reconcile.settings.values import PROPERTIES

__all__ = ["PARTS", "PROPERTIES", "SECRETS", "Database", "Documented", "Settings", "documentation", "load"]

_EMPTY_COUNTS = frozenset({"RECONCILE_FAIL_ON", "RECONCILE_OWN_IDS"})  # elsewhere an empty value is no value
_AS_IT_IS = "DATABASE_PASSWORD"  # the space around any other value does not count


class Documented(NamedTuple):
    """One setting as its documentation shows it. `default` is None where the setting is required."""

    name: str
    default: str | None
    meaning: str
    example: str


def documentation() -> list[Documented]:
    """Every setting, in the order of the code; the parts of `DATABASE_URL` follow it."""
    found = []
    for info in Settings.model_fields.values():
        name, default = str(info.validation_alias), None if info.is_required() else str(info.default)
        found.append(Documented(name, default, info.description or "", (info.examples or [""])[0]))
        if name == "DATABASE_URL":
            found += [Documented(part, *facts) for part, facts in PARTS.items()]
    return found


def load(
    environ: Mapping[str, str] | None = None, dotenv: Path | None = Path(".env"), **overrides: str | None
) -> Settings:
    """Read the settings. What is named by attribute in `overrides` and not None wins over everything.

    The environment (`os.environ` unless given) wins over the file; a missing file is no error. An empty
    value is no value, except for `RECONCILE_FAIL_ON` and `RECONCILE_OWN_IDS`; an empty override is wrong. Raises
    SettingsError with one line for each wrong setting, and no secret in it.
    """
    environ = os.environ if environ is None else environ
    names = Settings.names()
    options = {names[attribute]: text for attribute, text in overrides.items() if text is not None}
    problems = [_line(name, "is given an empty value") for name, text in options.items() if not _counts(name, text)]
    file: Mapping[str, str] = {}
    try:
        file = _read(dotenv)
    except UnicodeDecodeError:
        problems.append(f"{dotenv}: is not a text file in UTF-8")
    except OSError as error:
        problems.append(f"{dotenv}: cannot be read ({error.strerror})")
    given, sources = {}, {}
    for source, texts in ((dotenv.name if dotenv else "", file), ("environment", environ), ("option", options)):
        problems += _unknown(texts, environ)
        for name in (*names.values(), *PARTS):
            if _counts(name, texts.get(name)):
                if not _is_text(texts[name]):
                    problems.append(_line(name, "holds bytes that are no text in UTF-8, or a NUL"))
                given[name] = texts[name] if name == _AS_IT_IS else texts[name].strip()
                sources[name] = source
    if not problems:
        try:
            settings = Settings.model_validate(_with_database(given))
        except databases.WrongPartError as error:
            problems = [_line(error.name, str(error))]
        except ValidationError as error:
            problems = [_explained(detail) for detail in error.errors(include_url=False, include_input=False)]
        else:
            settings._sources = sources
            return settings
    # Raised out here: pydantic's exception holds the values, and must not be this one's context.
    raise SettingsError("\n".join(dict.fromkeys(problems)))


def _read(dotenv: Path | None) -> dict[str, str]:
    if dotenv is None or not dotenv.is_file():
        return {}
    found = dotenv_values(dotenv, encoding="utf-8-sig")
    return {name: text for name, text in found.items() if text is not None}


def _with_database(given: Mapping[str, str]) -> dict[str, str | Database]:
    """`DATABASE_URL`, where it is not given, from LiteLLM's parts of it. As for LiteLLM, the URL wins over them."""
    parts = {name: text for name, text in given.items() if name in PARTS}
    if "DATABASE_URL" in given or not parts:
        return dict(given)
    return {**given, "DATABASE_URL": databases.of_parts(parts)}


def _unknown(names: Iterable[str], environ: Mapping[str, str]) -> list[str]:
    """A line for each name that looks like ours and is none: a slip of the pen would change what is billed."""
    known = [name for name in Settings.names().values() if name.startswith("RECONCILE_")]
    return [
        f"{name}: is no setting; the nearest is {difflib.get_close_matches(name, known, 1, 0.0)[0]}"
        for name in sorted(names)
        if name.startswith("RECONCILE_") and name not in known and not _of_kubernetes(name, environ)
    ]


def _of_kubernetes(name: str, environ: Mapping[str, str]) -> bool:
    """Whether Kubernetes has put the name into the pod, as it does for a service called `reconcile`."""
    services = [one.removesuffix("_SERVICE_HOST") for one in environ if one.endswith("_SERVICE_HOST")]
    return any(name.startswith((f"{service}_SERVICE_", f"{service}_PORT")) for service in services)


def _counts(name: str, text: str | None) -> bool:
    return text is not None and (bool(text.strip()) or name in _EMPTY_COUNTS)


def _is_text(text: str) -> bool:
    """The environment gives bytes that are no UTF-8 as halves of surrogate pairs, which nothing can send or store."""
    return "\0" not in text and not any("\ud800" <= one <= "\udfff" for one in text)


def _explained(detail: ErrorDetails) -> str:
    missing = detail["type"] == "missing"
    return _line(str(detail["loc"][0]), "is not set" if missing else str(detail["ctx"]["error"]))


def _line(name: str, problem: str) -> str:
    example = next(setting.example for setting in documentation() if setting.name == name)
    return f"{name}: {problem}; for example {name}={example}"
