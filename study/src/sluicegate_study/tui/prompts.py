"""Questions in a terminal, one line of input an answer; and whether a program may fill the whole terminal instead."""

import os
import sys
from importlib.util import find_spec

from sluicegate_study.formatting import escape_controls
from sluicegate_study.judge.calibration import parse_percent


def use_full_screen(plain: bool) -> bool:
    """Whether to run the full-screen program: on a terminal, where textual is installed, unless `plain` is asked
    for."""
    if plain or not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "") in ("", "dumb"):
        return False
    if find_spec("textual") is None:
        print("(plain mode; the full-screen program needs: pip install 'sluicegate-study[tui]')")
        return False
    return True


def ask_line(prompt: str, end: str | None = None) -> str:
    """Ask for one line, and return it without the space around it. Raises `EOFError` where the input ends, or the line
    is `end`."""
    print(prompt, end="", flush=True)
    typed = sys.stdin.readline()
    if not sys.stdin.isatty():
        print()
    if not typed or typed.strip() == end:
        raise EOFError
    return typed.strip()


def ask_percent(prompt: str = "how sure, in %? ", end: str = "q", *, optional: bool = False) -> float | None:
    """Ask for a chance in percent until it is one; return it as 0 to 1, or None where nothing was typed and that is
    `optional`."""
    while (said := ask_line(prompt, end)) or not optional:
        if (chance := parse_percent(said)) is not None:
            return chance
        print(f"'{escape_controls(said)}': expected a number from 0 to 100{', or nothing' if optional else ''}, or {end}")
    return None
