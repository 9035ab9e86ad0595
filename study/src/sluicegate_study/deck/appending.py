"""Files that several programs add to: a log, or a deck that is being written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import lock_descriptor

from sluicegate_study.errors import UserError


@contextmanager
def open_locked(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading and for adding to its end, by one program at a time: others wait. It is made where it is
    missing.

    At the end all that was added is on the disk, and the lock goes with the open file, however the program ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        raise UserError(f"{str(path)!r} is a folder, a device or a pipe: expected a file, there or not. Choose another one.")
    with path.open("a+b") as file:
        lock_descriptor(file.fileno(), poll_interval=0.01)
        yield file
        file.flush()
        os.fsync(file.fileno())
