"""Rows of tests as files."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sluicegate.values.items import Item


def write_jsonl(items: Iterable[Item], path: Path) -> None:
    """Write items as JSONL that `read` takes back unchanged."""
    with path.open("w", encoding="utf-8") as file:
        for item in items:
            chat = [{"role": role, "content": words} for role, words in (*item.turns, ("assistant", item.answer))]
            asked: dict[str, Any] = {"messages": chat} if item.turns else {"prompt": item.prompt, "answer": item.answer}
            row = asked if item.prompt else {"text": item.answer}
            beside = ("fact", "label", "also", "wrong", "place")
            row |= {name: value for name in beside if (value := getattr(item, name)) not in ("", (), -1)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
