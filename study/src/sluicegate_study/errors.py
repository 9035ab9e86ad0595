"""The exception for a user's mistake, and what helps to word its message. Where the library is installed, the class is
the library's."""

import difflib
import sys
from pathlib import Path

try:
    from sluicegate.errors import UserError
except ImportError:

    class UserError(ValueError):  # type: ignore[no-redef]
        """A mistake that the user can correct.

        The message names the value, what is allowed, and what to do next. The command line shows it
        without a traceback and exits with status 2; from Python it is an ordinary ``ValueError``.
        """


__all__ = ["UserError", "first_line", "nearest", "program"]


def nearest(name: str, known: list[str], most: int = 4) -> str:
    """Return a clause that lists the names in `known` nearest to `name` (all of them when few)."""
    close = known if len(known) <= most else difflib.get_close_matches(name, known, n=most, cutoff=0.3)
    return ", ".join(close or known[:most])


def first_line(error: BaseException) -> str:
    """Return what another library's error says first, to be quoted within a sentence; its type where it says
    nothing."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def program() -> str:
    """Return the name of the command that was called: ``sluicegate``, or (also from Python) ``sluicegate-study``."""
    called = Path(sys.argv[0])
    name = called.parent.name if called.name == "__main__.py" else called.stem
    return "sluicegate" if name == "sluicegate" else "sluicegate-study"
