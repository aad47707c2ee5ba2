"""Strings from strangers, made safe to look at. End-user IDs, models and request IDs can hold anything.

Control characters, right-to-left marks, zero-width characters and unusual spaces are shown as visible escapes, so that
they neither act nor hide, and two IDs that differ look different.
"""

from __future__ import annotations

from typing import Final

_DELETE: Final = 0x7F
_CONTROL_PICTURES: Final = 0x2400
_DELETE_PICTURE: Final = "\u2421"
_STARTS_A_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")


def visible(text: str) -> str:
    """The text with each character that Unicode calls not printable as an escape: `␀`, `␡`, `⟪U+202E⟫`."""
    return text if text.isprintable() else "".join(map(_escape, text))


def shortened(text: str, limit: int, note: str) -> str:
    """At most `limit` characters of the text; where it was cut, `note` follows."""
    return text if len(text) <= limit else text[:limit] + note


def defused(text: str) -> str:
    """The text for a CSV cell: one that a spreadsheet could take for a formula gets an apostrophe in front.

    An apostrophe of the text's own gets one too, so that the original can be told: drop one leading apostrophe.
    """
    return "'" + text if text.startswith(_STARTS_A_FORMULA) else text


def _escape(character: str) -> str:
    code = ord(character)
    if character.isprintable():
        return character
    if code < ord(" "):
        return chr(_CONTROL_PICTURES + code)
    return _DELETE_PICTURE if code == _DELETE else f"⟪U+{code:04X}⟫"
