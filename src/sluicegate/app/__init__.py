"""The command line. ``main`` finds the verb, reads its options, runs it, and explains what went wrong."""

import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from io import TextIOWrapper

from sluicegate.cli.progress import telling
from sluicegate.errors import UserError, explain, nearest
from sluicegate.registry import Verb, failures, from_elsewhere
from sluicegate.runs.ranks import launched, speaks
from sluicegate.runs.stage import stages


@telling()
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 2 the user's mistake, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us; the next file opened would take its place
            while (taken := os.open(os.devnull, os.O_RDWR)) < 2:
                pass
            setattr(sys, name, os.fdopen(taken, "w", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name or a row may hold what the terminal cannot show
    told: set[str] = set()
    try:
        try:
            for word in words:
                if not word.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in word):
                    raise UserError(f"the word {word!r} holds bytes that are no UTF-8 text. Rename the file, or type the word again.")
            status = _answer(words, told)
        except SystemExit:  # tyro has printed a verb's help
            sys.stdout.flush()
            raise
        sys.stdout.flush()
        return status
    except UserError as error:
        if speaks():
            _complain(str(error))
        return 2
    except KeyboardInterrupt:
        _complain("interrupted. Nothing finished is lost: the same command goes on where this one stopped.")
        return 130
    except BrokenPipeError:
        # Whoever read our output has had enough; what Python would still flush has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if not (told_of := explain(error)):
            raise
        _complain(told_of)
        return 2
    except Exception:
        print("This is a bug in sluicegate, not in what you gave it. Please report the command and these lines.", file=sys.stderr)
        raise
    finally:
        _tell_failures(told)


def _answer(words: list[str], told: set[str]) -> int:
    from sluicegate.app.verbs import verbs  # within `main`, which explains what ends it

    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview(verbs()))
        return 0
    if words[0] == "--version":
        print(version("sluicegate"))
        return 0
    verb, rest = words[0], words[1:]
    known = verbs()
    _tell_failures(told)
    if verb not in known and (where := from_elsewhere("verb", verb)):
        raise UserError(f"no verb {verb!r} here.{where}")
    if verb not in known:
        raise UserError(f"no verb {verb!r}. Nearest: {nearest(verb, list(known))}. All of them: sluicegate --help")
    _check_alone(verb)
    return known[verb].call(rest)


def _tell_failures(told: set[str]) -> None:
    """Name the plug-ins that could not be imported and are not in `told`; the rest goes on without them."""
    for plugin, why in failures().items():
        if plugin not in told and speaks():
            print(f"warning: left out the plug-in {plugin}: {why}", file=sys.stderr)
        told.add(plugin)


def _check_alone(verb: str) -> None:
    """Raise `UserError` where a launcher started several processes for a verb that is one process's."""
    place = launched()
    if place is None or place[1] == 1 or verb in ("run", "doctor"):
        return
    if verb not in stages() or not stages()[verb].TOGETHER:
        able = ", ".join(sorted(name for name, cls in stages().items() if cls.TOGETHER))
        raise UserError(
            f"{verb} runs in one process, and a launcher started {place[1]} (WORLD_SIZE). Several can work together on: {able}."
        )


def _overview(known: Mapping[str, Verb]) -> str:
    columns = max(shutil.get_terminal_size().columns, 60)
    indent = max(map(len, known)) + 4
    lines: list[str] = []
    for name, verb in known.items():
        if f"{verb.group}:" not in lines:
            lines += ["", f"{verb.group}:"]
        lines += textwrap.wrap(f"  {name:<{indent - 2}}{verb.summary}", columns, subsequent_indent=" " * indent, break_on_hyphens=False)
    title = textwrap.wrap("sluicegate: decide where learning goes, take it out for good, and measure what is left.", columns)
    usage = "usage: sluicegate VERB [options]      sluicegate VERB --help"
    return "\n".join([*title, "", usage, *lines, "", "Start with: sluicegate demo"])


def _complain(text: str) -> None:
    paragraphs = [
        textwrap.fill(line, 100, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
        for line in f"error: {text}".splitlines()
    ]
    print("\n".join(paragraphs), file=sys.stderr)
