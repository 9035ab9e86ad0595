"""What all verbs share: what a verb is, how words become options, which seeds, and the last line of JSON."""

import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import partial
from typing import Any, get_args, get_origin, get_type_hints

import tyro

from sluicegate.errors import UserError, nearest
from sluicegate.values.ranges import check

LONG = 200
"""Characters of a word that are quoted in an error."""


@dataclass(frozen=True)
class Verb:
    """A verb of the command line, found by `registry.verbs` where a module called cli holds one."""

    name: str
    summary: str
    """One line for ``sluicegate --help``."""
    group: str
    """The heading that it stands under."""
    action: Callable[[list[str]], int]

    def call(self, words: Sequence[str]) -> int:
        """Run it with the words that follow its name; return the exit status."""
        return self.action(list(words))


def summary_of(cls: type[Any]) -> str:
    """The first sentence of a class's docstring."""
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split()).split(". ")[0].rstrip(".")


def simple(name: str, cls: type[Any], group: str, summary: str = "") -> Verb:
    """The verb of a frozen dataclass whose fields are its options and whose method `run` does it."""
    return Verb(name, summary or summary_of(cls), group, lambda words: int(parse(cls, name, words).run()))


def several(name: str, summary: str, group: str, actions: Mapping[str, type[Any] | Verb], more: Callable[[], str] = lambda: "") -> Verb:
    """A verb with actions: ``sluicegate NAME ACTION [options]``, each a dataclass as `simple` takes it, or a verb of
    its own.

    `more` is printed below the list of actions.
    """

    def call(words: list[str]) -> int:
        if not words or words[0] in ("-h", "--help"):
            print(f"usage: sluicegate {name} {'|'.join(actions)} [options]      sluicegate {name} {next(iter(actions))} --help\n")
            for action, kind in actions.items():
                told = kind.summary if isinstance(kind, Verb) else summary_of(kind)
                print(f"  {action:<{max(map(len, actions))}} {told}")
            if told := more():
                print(f"\n{told}")
            return 0
        if words[0] not in actions:
            raise UserError(f"{name} has no {words[0]!r}. There are: {nearest(words[0], list(actions), most=9)}.")
        kind = actions[words[0]]
        return kind.call(words[1:]) if isinstance(kind, Verb) else int(parse(kind, f"{name} {words[0]}", words[1:]).run())

    return Verb(name, summary, group, call)


def parse(cls: type[Any], verb: str, words: Sequence[str], description: str = "") -> Any:
    """The dataclass that the words describe; an option's earlier name is taken, and said to be one on the standard
    error."""
    words = list(words)
    for old, new in _earlier(cls):
        for n, word in enumerate(words):
            flag, equals, value = word.partition("=")
            if flag.replace("_", "-") == old:
                print(f"note: {old} is now {new}", file=sys.stderr)
                words[n] = new + equals + value
    read = partial(
        tyro.cli,
        cls,
        prog=f"sluicegate {verb}",
        description=description or inspect.cleandoc(cls.__doc__ or ""),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    words = gathered(words, set(_lists(cls)))
    long = max(map(len, words), default=0) > LONG
    try:
        found = read(args=words, console_outputs=not long)
    except SystemExit as end:
        if end.code and long:  # told in few lines, as tyro quotes the words whole
            read(args=[word if len(word) <= LONG else f"{word[:LONG]}…" for word in words])
        raise
    check(found)
    return found


def gathered(words: Sequence[str], lists: set[str]) -> list[str]:
    """The words, with the values of an option of `lists` that is given several times put together where it is first
    given.

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


def _earlier(cls: type[Any]) -> Iterator[tuple[str, str]]:
    """Earlier and present names of a verb's options."""
    for field in dataclasses.fields(cls):
        if isinstance(field.type, type) and is_dataclass(field.type):
            yield from _earlier(field.type)
        elif was := field.metadata.get("was"):
            yield "--" + was.replace("_", "-"), "--" + field.name.replace("_", "-")


def _lists(cls: type[Any]) -> Iterator[str]:
    """The options of a verb that take any number of values."""
    for name, kind in get_type_hints(cls).items():
        if isinstance(kind, type) and is_dataclass(kind):
            yield from _lists(kind)
        elif get_origin(kind) is tuple and Ellipsis in get_args(kind):
            yield "--" + name.replace("_", "-")


def seeds_from(first: int, count: int) -> list[int]:
    if not 1 <= count <= 10_000:
        raise UserError(f"--seeds is {count}; it is the number of seeds to run, at least 1 and at most 10,000.")
    if not 0 <= first < 2**63 - count:
        raise UserError(f"--seed is {first}; it must be 0 or more, and below 2^63.")
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
