"""Prompts of the user's own, from files: one a line, or JSONL; and contrastive pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sluicegate.errors import UserError
from sluicegate.values.files import read_text
from sluicegate.values.rows import json_rows


def read_prompts(path: str | Path) -> tuple[str, ...]:
    """Prompts from a file: one a line, or JSONL with `prompt` or `text`; `UserError` names file and line."""
    place = _text_file(path)
    if place.suffix.lower() == ".jsonl":
        rows = list(json_rows(place))
        found = [_string(row, ("prompt", "text"), where) for where, row in rows]
    else:
        found = [line.strip() for line in read_text(place).splitlines() if line.strip()]
    if not found:
        raise UserError(f"{str(path)!r} holds no prompt. Write one a line, or JSONL with 'prompt'.")
    return tuple(found)


def read_pairs(path: str | Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The positives and the negatives, in one order, of JSONL with `positive` and `negative` in each row."""
    place = _text_file(path)
    pairs = [(_string(row, ("positive",), where), _string(row, ("negative",), where)) for where, row in json_rows(place)]
    if not pairs:
        raise UserError(f"{str(path)!r} holds no pair. Write JSONL, each row with 'positive' and 'negative'.")
    positive, negative = zip(*pairs, strict=True)
    return tuple(positive), tuple(negative)


def _text_file(path: str | Path) -> Path:
    place = Path(path).expanduser()
    if not place.is_file():
        raise UserError(f"no file {str(path)!r}: expected prompts, one a line, or JSONL.")
    return place


def _string(row: Any, keys: Sequence[str], where: str) -> str:
    value = next((row[key] for key in keys if key in row), None) if isinstance(row, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: expected an object with {' or '.join(map(repr, keys))}, a string that is not blank.")
    return value.strip()
