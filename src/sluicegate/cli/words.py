"""What all verbs share: how words become options, which seeds, and the last line of JSON."""

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

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
        args=gathered(words, set(_lists(cls))),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )


def gathered(words: Sequence[str], lists: set[str]) -> list[str]:
    """The words, with the values of an option of `lists` that is given several times put together where it is first given.

    argparse would keep the last ones only, and say nothing.
    """
    group: list[str] = []
    out, first = [group], dict[str, list[str]]()
    for n, word in enumerate(words):
        name, equals, value = word.partition("=")
        if word == "--":
            return [w for part in out for w in part] + list(words[n:])
        if not name.startswith("--"):
            group.append(word)
        elif (flag := name.replace("_", "-")) not in lists:
            group = [word]
            out.append(group)
        else:
            if flag not in first:
                first[flag] = [flag]
                out.append(first[flag])
            group = first[flag]
            group += [value] if equals else []
    return [word for part in out for word in part]


def _lists(cls: type[Any]) -> Iterator[str]:
    """The options of a verb that take any number of values."""
    for name, kind in get_type_hints(cls).items():
        if isinstance(kind, type) and is_dataclass(kind):
            yield from _lists(kind)
        elif get_origin(kind) is tuple and Ellipsis in get_args(kind):
            yield "--" + name.replace("_", "-")


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
    """Read NAME=VALUE, the value as TOML, a number like .5, or else a plain word; `UserError` without a name or a =."""
    import tomllib

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"cannot read {text!r}: expected PLACE.FIELD=VALUE, for example undo_0.6.alpha=0.5")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, float(value) if re.fullmatch(r"[+-]?(\.\d+|\d+\.)(e[+-]?\d+)?", value) else value
