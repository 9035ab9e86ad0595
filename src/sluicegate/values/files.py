"""Reading a user's file: what it holds, or one line that names the file and what is wrong with it."""

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sluicegate.errors import UserError, first_line

LIMIT = 4 * 2**30
"""Bytes up to which a file is read at once."""


def check_readable(path: Path, limit: int = LIMIT) -> Path:
    """The path of an ordinary file of at most `limit` bytes; what may never end (a device, a pipe) is refused."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise UserError(f"no file {short(str(path), 300)}: {getattr(error, 'strerror', None) or first_line(error)}.") from None
    if not path.is_file():
        raise UserError(
            f"{short(str(path), 300)} is no ordinary file. Give a file; what another program prints must be saved in one first."
        )
    if found.st_size > limit:
        raise UserError(f"{path}: {found.st_size:,} bytes; at most {limit:,} are read. Is it the right file?")
    return path


@contextmanager
def reading(path: Path | str, advice: str = "Restore the file, or give another one.") -> Iterator[None]:
    """Turn whatever is raised within, while a user's file is taken apart, into one `UserError` that names the file. For
    code that only reads the file: a bug of ours within it would look like the user's mistake."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{_cut(str(path), 300)}: {_reason(error)}. {advice}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg} at line {error.lineno}, column {error.colno})"
    if isinstance(error, tomllib.TOMLDecodeError):
        return f"not valid TOML: {first_line(error)}"
    if isinstance(error, RecursionError):
        return "cannot be read (nested too deeply)"
    if isinstance(error, MemoryError):
        return f"cannot be read (more than the memory holds: {first_line(error)})"
    if isinstance(error, KeyError):
        return f"cannot be read (no {short(str(error.args[0] if error.args else ''))} in it)"
    return f"cannot be read ({_cut(first_line(error), 200)})"


def short(text: str, most: int = 60) -> str:
    """The text in quotes, with an ellipsis in its middle where it is longer than `most` characters."""
    return repr(_cut(text, most))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2 - 1) :]}"


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte-order mark."""
    with reading(path, "Save it as UTF-8 text and try again."):
        return check_readable(path).read_text(encoding="utf-8-sig")


def read_json(path: Path, advice: str = "Restore the file, or give another one.") -> dict[str, Any]:
    """The object of a JSON file."""
    with reading(path, advice):
        content = json.loads(check_readable(path).read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"it holds {short(json.dumps(content))} where an object {{...}} is expected")
        return content


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file."""
    with reading(path, "Mend it at that place and try again."):
        return tomllib.loads(check_readable(path).read_bytes().decode())
