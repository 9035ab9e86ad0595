"""The one exception that is a user's mistake and not ours, and what helps to word it."""

import dataclasses
import errno
import os
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

T = TypeVar("T")


class UserError(ValueError):
    """A mistake that the user can mend.

    The message names the value, what is allowed, and what to do next. The command line shows it
    without a traceback and exits with status 2; from Python it is an ordinary ``ValueError``.
    """


def nearest(name: object, known: list[str], most: int = 4) -> str:
    """Return a clause that lists the names in `known` nearest to `name` (all of them when few)."""
    import difflib

    if len(known) <= most:
        close = known
    else:
        close = difflib.get_close_matches(str(name), known, n=most, cutoff=0.3) or known[:most]
    return ", ".join(close)


def called(what: str, name: str, known: Mapping[str, T]) -> T:
    """What has this name in `known`; raises `UserError` that lists what there is, as no `what`."""
    if name not in known:
        raise UserError(f"no {what} {name!r}. There are: {nearest(name, sorted(known), most=20)}.")
    return known[name]


def check_name(what: str, name: Any) -> None:
    """Raise `UserError` for a name that no folder may have; `what` says whose it is, as in "a recipe's name"."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise UserError(
            f"{what} is {name!r}: it names a folder. Use letters, digits, '-', '_' and '.', up to 100, and a letter or digit first."
        )


def printable(text: str) -> str:
    """The text with what would move a terminal's cursor or change its colours written out: ``\\x1b``."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def first_line(error: BaseException) -> str:
    """Return what another library's error says first, to be quoted within a sentence; its type where it says
    nothing."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def explain(error: OSError) -> str:
    """Say what the operating system refused and what to do next; nothing where only our code can be to blame."""
    name, why = os.fsdecode(error.filename or ""), error.strerror
    place = f" {name if len(name) <= 100 else name[:60] + '…' + name[-30:]!r}" if name else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return f"could not write{place}: {why}. Nothing finished is lost. Make room or name another place, then run the same command again."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"no right to open{place}: {why}. Change its permissions, or name another place."
    if name and error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL, errno.ENOENT):
        return f"cannot use{place}: {why}. Name another file or folder."
    if error.errno in (errno.ENOMEM, errno.EMFILE, errno.EFBIG):
        return f"the system refused{place}: {why}. Free some of it, or raise the limit, then run the same command again."
    return ""


def check_choices(cls: type[Any], values: dict[str, Any]) -> None:
    """Raise `UserError` for a value of a dataclass's field that is none of the field's ``Literal`` choices.

    Python does not check them, and a misspelt choice would quietly take the last branch of an ``if``.
    """
    for field in dataclasses.fields(cls):
        if field.name in values and get_origin(field.type) is Literal and values[field.name] not in get_args(field.type):
            allowed = ", ".join(map(str, get_args(field.type)))
            raise UserError(f"{field.name} is {values[field.name]!r}; it must be one of {allowed}.")
