"""Make man/reconcile.1 from the help of the commands.

    python tools/make_man_page.py

A test compares the page with what this would write.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from typer.models import ArgumentInfo, OptionInfo

from reconcile.cli import HELP, app
from reconcile.settings import documentation

PAGE = Path(__file__).parents[1] / "man" / "reconcile.1"
_CODES = "Exit codes: "


def page() -> str:
    """The manual page, in the roff of man(7)."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    first, *paragraphs = _paragraphs(HELP)
    yield '.\\" Made by tools/make_man_page.py from the help of the commands.'
    yield '.TH RECONCILE 1 "" "reconcile" "User Commands"'
    yield ".SH NAME"
    yield "reconcile \\- set LiteLLM's spend logs beside Lago's usage events, and bill what is missing once"
    yield ".SH SYNOPSIS"
    yield ".B reconcile"
    yield r"\fICOMMAND\fR [\fIOPTIONS\fR]"
    yield ".SH DESCRIPTION"
    yield _escaped(first)
    for text in paragraphs:
        if not text.startswith(_CODES):
            yield ".PP"
            yield _escaped(text)
    yield ".SH COMMANDS"
    for command in app.registered_commands:
        assert command.name is not None
        assert command.callback is not None
        yield from _command(command.name, command.callback, command.epilog or "")
    yield ".SH OPTIONS"
    yield from _item("--version", "", "Versions.")
    yield from _item("--install-completion, --show-completion", "", "Completion for your shell: run IDs too.")
    yield from _item("--help", "", "Help; also of each command.")
    yield ".SH ENVIRONMENT"
    for one in documentation():
        default = f" [{one.default}]" if one.default else ""
        yield from _item(one.name, "", f"{one.meaning}{default}")
    yield ".SH EXIT STATUS"
    (codes,) = (text for text in paragraphs if text.startswith(_CODES))
    yield _escaped(codes.removeprefix(_CODES))
    yield ".SH FILES"
    yield from _item(".env", "", "Settings, in the current directory. The environment wins.")
    yield from _item("cron.yaml", "", "The jobs of `reconcile schedule`.")


def _command(name: str, function: Callable[..., Any], example: str) -> Iterator[str]:
    # Each parameter as it is declared: what typer makes of it differs between its versions.
    parameters = typing.get_type_hints(function, include_extras=True)
    parameters.pop("return")
    told = {key: typing.get_args(hint) for key, hint in parameters.items()}
    arguments = [info.metavar or "" for _, info in told.values() if isinstance(info, ArgumentInfo)]
    yield f".SS {_escaped(' '.join(['reconcile', name, *arguments]))}"
    for number, text in enumerate(_paragraphs(function.__doc__)):
        if number:
            yield ".PP"
        yield _escaped(text)
    for kind, info in told.values():
        if isinstance(info, OptionInfo):
            # The first name of an annotated option stands where a default would.
            names = [one for one in (info.default, *(info.param_decls or ())) if isinstance(one, str)]
            yield from _item(", ".join(names), _value(kind, info), info.help or "")
        else:
            yield from _item(info.metavar, "", info.help)
    yield ".PP"
    yield _escaped(example)


def _value(kind: Any, info: OptionInfo) -> str:
    """What an option takes: ` DIR`, ` html|xlsx`, ` N`; '' for a flag."""
    while parts := [one for one in typing.get_args(kind) if one is not type(None)]:
        kind = parts[0]
    if kind is bool:
        return ""
    if info.metavar:
        return f" {info.metavar}"
    return f" {'|'.join(str(one.value) for one in kind)}" if issubclass(kind, Enum) else " N"


def _item(name: str, value: str, text: str) -> Iterator[str]:
    yield ".TP"
    yield f"\\fB{_escaped(name)}\\fR{_escaped(value)}"
    yield _escaped(text)


def _paragraphs(text: str | None) -> list[str]:
    return [" ".join(part.split()) for part in inspect.cleandoc(text or "").split("\n\n") if part.strip()]


def _escaped(text: str) -> str:
    """Text that roff prints as it is, in plain ASCII."""
    told = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("…", "...")
    told = "".join(one if one.isascii() else f"\\[u{ord(one):04X}]" for one in told)
    return f"\\&{told}" if told.startswith((".", "'")) else told


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
