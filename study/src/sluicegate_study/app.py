"""The command ``sluicegate-study``. `main` finds the verb, runs it, and explains what went wrong."""

import errno
import os
import pkgutil
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

import sluicegate_study
from sluicegate_study.command import Verb
from sluicegate_study.errors import UserError, nearest, program


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 2 the user's mistake, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return _answer(words)
        finally:
            sys.stdout.flush()
    except UserError as error:
        _complain(str(error))
        return 2
    except KeyboardInterrupt:
        _complain("interrupted. What was answered is in the log: the same command goes on where this one stopped.")
        return 130
    except BrokenPipeError:
        # Whoever read our output has had enough; what Python would still flush has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        place = f" ({error.filename})" if error.filename else ""
        _complain(f"could not write{place}: {error.strerror}. Make room or choose another place, then run the same command again.")
        return 2


def find_verbs() -> dict[str, Verb]:
    """Find every verb by name, in modules called cli or NAME_cli, as the library's registry does."""
    found: dict[str, Verb] = {}
    for module in pkgutil.walk_packages(sluicegate_study.__path__, "sluicegate_study."):
        if module.name.endswith((".cli", "_cli")):
            found |= {thing.name: thing for thing in vars(import_module(module.name)).values() if isinstance(thing, Verb)}
    return found


def _answer(words: list[str]) -> int:
    if words and words[0] == "--version":
        print(version("sluicegate-study"))
        return 0
    known = find_verbs()
    if not words or words[0] in ("-h", "--help", "help"):
        print("sluicegate-study: flash cards that build on one another, quiz bowl, and lectures that stick.")
        print(f"\nusage: {program()} VERB [options]      {program()} VERB --help\n")
        for name, verb in known.items():
            print(f"  {name:<{max(map(len, known))}}  {verb.summary}")
        print(f"\nStart with: {program()} deck new FOLDER, or {program()} play")
        return 0
    if words[0] not in known:
        raise UserError(f"no verb {words[0]!r}. Nearest: {nearest(words[0], list(known))}. All of them: {program()} --help")
    return known[words[0]].call(words[1:])


def _complain(text: str) -> None:
    """Print a message to standard error, each of its lines folded at 100 columns."""
    for line in f"error: {text}".splitlines():
        print(textwrap.fill(line, 100, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False), file=sys.stderr)
