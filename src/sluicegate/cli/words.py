"""What all verbs share: how words become options, which seeds, and the last line of JSON."""

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from sluicegate.errors import UserError


@dataclass(frozen=True)
class Verb:
    """A verb's one-line summary and how it is called with its words."""

    summary: str
    call: Callable[[str, list[str]], int]


def parse(cls: type[Any], verb: str, words: Sequence[str], description: str = "") -> Any:
    return tyro.cli(
        cls,
        prog=f"sluicegate {verb}",
        description=description or inspect.cleandoc(cls.__doc__ or ""),
        args=list(words),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )


def seeds_from(first: int, count: int) -> list[int]:
    if count < 1:
        raise UserError(f"--seeds is {count}; it is the number of seeds to run, at least 1.")
    if first < 0:
        raise UserError(f"--seed is {first}; it must be 0 or more.")
    return list(range(first, first + count))


def print_json(content: dict[str, Any]) -> None:
    sys.stdout.flush()
    print(json.dumps(content), flush=True)


def assignment(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE, the value as TOML, or as a plain word where it is none; `UserError` where there is no name or no =."""
    import tomllib

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"cannot read {text!r}: expected PLACE.FIELD=VALUE, for example undo_0.6.alpha=0.5")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value
