"""Prompts of the user's own, from files: one a line, or JSONL; and contrastive pairs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sluicegate.errors import UserError


def read_prompts(path: str | Path) -> tuple[str, ...]:
    """Prompts from a file: text with one a line, or JSONL with `prompt` or `text`. Raises `UserError` naming file and
    line."""
    place = _text_file(path)
    if place.suffix.lower() == ".jsonl":
        rows = list(_jsonl(place))
        found = [_string(row, ("prompt", "text"), where) for where, row in rows]
    else:
        found = [line.strip() for line in _utf8(place).splitlines() if line.strip()]
    if not found:
        raise UserError(f"{str(path)!r} holds no prompt. Write one a line, or JSONL with 'prompt'.")
    return tuple(found)


def read_pairs(path: str | Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Contrastive prompts from JSONL with `positive` and `negative` in each row: the positives, and the negatives in
    the same order."""
    place = _text_file(path)
    pairs = [(_string(row, ("positive",), where), _string(row, ("negative",), where)) for where, row in _jsonl(place)]
    if not pairs:
        raise UserError(f"{str(path)!r} holds no pair. Write JSONL, each row with 'positive' and 'negative'.")
    positive, negative = zip(*pairs, strict=True)
    return tuple(positive), tuple(negative)


def _text_file(path: str | Path) -> Path:
    place = Path(path).expanduser()
    if not place.is_file():
        raise UserError(f"no file {str(path)!r}: expected prompts, one a line, or JSONL.")
    return place


def _utf8(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8 and try again.") from None


def _jsonl(path: Path) -> list[tuple[str, Any]]:
    rows = []
    for number, line in enumerate(_utf8(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            rows.append((where, json.loads(line)))
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not JSON ({error.msg} at column {error.colno}). Expected one JSON object a line.") from None
    return rows


def _string(row: Any, keys: Sequence[str], where: str) -> str:
    value = next((row[key] for key in keys if key in row), None) if isinstance(row, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: expected an object with {' or '.join(map(repr, keys))}, a string that is not blank.")
    return value.strip()
