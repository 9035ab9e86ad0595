"""What the verbs share: a verb, its options read from words, whose memory is meant and at what time, and the last line
of JSON."""

import getpass
import inspect
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import tyro

from sluicegate_study.errors import UserError, nearest, program

LONG = 200
"""Characters of a word that are quoted in an error."""


@dataclass(frozen=True)
class Verb:
    """A verb of the command line. The library finds it where a module called cli holds one
    (`sluicegate.registry.Verb`)."""

    name: str
    summary: str
    """One line for ``--help``."""
    call: Callable[[Sequence[str]], int]
    """Runs it with the words that follow its name, and returns the exit status."""
    group: str = "study"
    """The heading that it stands under in ``sluicegate --help``."""


def parse(cls: type[Any], verb: str, words: Sequence[str]) -> Any:
    """Read the fields of a frozen dataclass from the words of a command line. Prints help, and exits, where this is
    asked for."""
    read = partial(
        tyro.cli,
        cls,
        prog=f"{program()} {verb}",
        description=inspect.cleandoc(cls.__doc__ or ""),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    long = max(map(len, words), default=0) > LONG
    try:
        return read(args=list(words), console_outputs=not long)
    except SystemExit as end:
        if end.code and long:  # told in few lines, as tyro quotes the words whole
            read(args=[word if len(word) <= LONG else f"{word[:LONG]}…" for word in words])
        raise


def simple(name: str, cls: type[Any], summary: str) -> Verb:
    """Make the verb of a frozen dataclass whose fields are its options and whose method `run` does it."""
    return Verb(name, summary, lambda words: _run(cls, name, words))


def _run(cls: type[Any], verb: str, words: Sequence[str]) -> int:
    """Read the options and do it. What the system says of a path becomes one line that names it; text that cannot be
    printed is written out."""
    if any("\0" in word for word in words):
        raise UserError(f"{verb}: a NUL character in an option: expected text without one.")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return int(parse(cls, verb, words).run())
    except OSError as error:
        if not error.filename or isinstance(error, BrokenPipeError):
            raise
        place = str(error.filename2 or error.filename)
        raise UserError(f"{place[:200]!r}: {str(error.strerror).lower()}. Choose another place, or see who may use this one.") from None


def several(name: str, summary: str, actions: Mapping[str, type[Any]], more: Callable[[], str]) -> Verb:
    """Make a verb with actions, each a dataclass as `simple` takes it. `more` is printed below their list."""

    def call(words: Sequence[str]) -> int:
        if not words or words[0] in ("-h", "--help"):
            called = f"{program()} {name}"
            print(f"usage: {called} {'|'.join(actions)} [options]      {called} {next(iter(actions))} --help\n")
            for action, cls in actions.items():
                summary = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
                print(f"  {action:<{max(map(len, actions))}} {summary}")
            print(f"\n{more()}")
            return 0
        if words[0] not in actions:
            raise UserError(f"{name} has no {words[0]!r}. There are: {nearest(words[0], list(actions), most=9)}.")
        return _run(actions[words[0]], f"{name} {words[0]}", words[1:])

    return Verb(name, summary, call)


def print_json(content: dict[str, Any]) -> None:
    """Print one line of JSON, after all that was printed before."""
    sys.stdout.flush()
    print(json.dumps(content), flush=True)


def parse_time(text: str) -> datetime:
    """Read the value of --now, in UTC; an empty text is the present. Raises `UserError` where it is no time, or has no
    zone."""
    if not text:
        return datetime.now(UTC)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = datetime.min
    if time.tzinfo is None or not 1970 <= time.year < 3000:
        raise UserError(f"--now is {text!r}: expected a time from 1970 to 2999 with its zone, as 2026-11-22T19:00:00Z.")
    return time.astimezone(UTC)


def name_learner() -> str:
    """Return the learner that is meant where none is named: person: and the login name."""
    try:
        return f"person:{getpass.getuser()}"
    except (OSError, KeyError):
        return "person:me"
