"""How texts are rewritten and numbers printed: spans replaced, control characters escaped, counts with their nouns; NaN
as null for JSON."""

import math
import unicodedata
from collections.abc import Callable
from typing import Any


def escape_controls(text: str) -> str:
    r"""Write out control characters and those that turn the direction of writing as \x1b or \u202e. Line ends stay; a
    tab is a space.

    A deck's text could else steer the terminal that it is printed on."""
    return "".join(
        character
        if character == "\n" or unicodedata.category(character) not in ("Cc", "Cf", "Cs") or character in "\u200c\u200d"
        else _escape(ord(character))
        for character in text
    )


def _escape(number: int) -> str:
    if number == ord("\t"):
        return " "
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def format_count(number: int, noun: str) -> str:
    """Write a number with its noun, which takes an s (after an s: es) unless the number is 1."""
    return f"{number} {noun if number == 1 else noun + ('es' if noun.endswith('s') else 's')}"


def nan_to_none(value: Any) -> Any:
    """Replace NaN and infinities by None, in tables and lists too: JSON has neither."""
    if isinstance(value, dict):
        return {key: nan_to_none(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_none(inside) for inside in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def replace_spans(text: str, opens: str, closes: str, replaced: Callable[[str], str]) -> str:
    """The text with what stands from each opening to the next closing replaced; what never closes stays."""
    parts, place = [], 0
    while (start := text.find(opens, place)) >= 0 and (end := text.find(closes, start + len(opens))) >= 0:
        parts += [text[place:start], replaced(text[start + len(opens) : end])]
        place = end + len(closes)
    return "".join([*parts, text[place:]])
