"""Whether a verb can take the whole terminal, and how it asks for a line where it cannot."""

import os
import sys
from importlib.util import find_spec

from sluicegate_study.formatting import visible
from sluicegate_study.judge.calibration import chance_of


def full_screen(plain: bool) -> bool:
    """Whether to run the full-screen program: on a terminal, where textual is installed, unless `plain` is asked for."""
    if plain or not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "") in ("", "dumb"):
        return False
    if find_spec("textual") is None:
        print("(plain mode; the full-screen program needs: pip install 'sluicegate[tui]')")
        return False
    return True


def line(prompt: str) -> str | None:
    """One line of input without the space around it; None at its end."""
    print(prompt, end="", flush=True)
    typed = sys.stdin.readline()
    if not sys.stdin.isatty():
        print()
    return typed.strip() if typed else None


def percent(*, optional: bool = False) -> float | None:
    """A stated chance, asked in percent until it is one; None where nothing was said and that is `optional`.

    Raises `EOFError` where the input or the user ended it (q)."""
    allowed = "a number from 0 to 100" + (", or nothing" if optional else "")
    while (said := line("how sure, in %? ")) not in (None, "q"):
        assert said is not None
        if not said and optional:
            return None
        if (chance := chance_of(said)) is not None:
            return chance
        print(f"'{visible(said)}': expected {allowed}, or q")
    raise EOFError
