"""One process at a time: a lock that the kernel drops when its holder dies, however it dies.

The file itself may stay behind and means nothing: what counts is the kernel's `flock` on it. Its text names the holder,
for the message that the next one gets.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from sluicegate.errors import UserError


class Busy(UserError):
    """Another process holds the lock; it may let go."""


@contextlib.contextmanager
def held(path: Path, what: str, advice: str) -> Iterator[None]:
    """Hold the lock file `path`, made where it is missing; do not wait for another holder.

    Raises `Busy`, a `UserError`, where another process holds it: `what`, as in ``"the run folder 'x' is in use"``, then
    "by another process" and which one, then the `advice`, whole sentences. The folder of `path` must exist.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # less the umask, as any file: a group may share a folder
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 100).decode(errors="replace").strip() or "unknown"
            raise Busy(f"{what} by another process ({holder}). {advice}") from None
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
        yield
        os.ftruncate(file, 0)
    finally:
        os.close(file)
