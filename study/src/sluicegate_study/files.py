"""Reading users' files: regular ones only, of a stated size, as UTF-8; what cannot be read is said in one line."""

import os
import stat
from pathlib import Path

from sluicegate_study.errors import UserError

LARGEST = 64 * 2**20
"""Bytes that a file of text may have; a log may have 16 times as many."""


def read_file(path: Path, what: str, most: int = LARGEST) -> bytes:
    """The bytes of a file. `what` names it in errors: "the notes".

    Raises `UserError` where there is none, for what is no regular file (a device or a pipe may never end), and for more
    than `most` bytes."""
    try:
        # A pipe without a writer would hold up the opening itself.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                kind = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
                raise UserError(f"{what} {str(path)!r}: this is {kind}, expected a file.")
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(most + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise UserError(f"no {what.removeprefix('the ')} {str(path)!r}: expected a file there.") from None
    if len(content) > most:
        raise UserError(f"{what} {str(path)!r} is larger than {most // 2**20} MiB, which is the most that is read: divide it.")
    return content


def read_text(path: Path, what: str, most: int = LARGEST) -> str:
    """The text of a file in UTF-8, without a byte order mark. Raises `UserError` as `read_file` does, and where it is
    not UTF-8."""
    try:
        return read_file(path, what, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} {str(path)!r}: this is not UTF-8 (byte {error.start}), save it as UTF-8.") from None
