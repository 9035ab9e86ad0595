"""The one exception that is a user's mistake and not ours."""


class UserError(ValueError):
    """A mistake that the user can mend.

    The message names the value, what is allowed, and what to do next. The command line shows it
    without a traceback and exits with status 2; from Python it is an ordinary ``ValueError``.
    """


def nearest(name: str, known: list[str], most: int = 4) -> str:
    """Return a clause that lists the names in `known` nearest to `name` (all of them when few)."""
    import difflib

    if len(known) <= most:
        close = known
    else:
        close = difflib.get_close_matches(name, known, n=most, cutoff=0.3) or known[:most]
    return ", ".join(close)
