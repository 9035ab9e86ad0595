"""One process at a time: a lock that the kernel drops when its holder dies, however it dies (filelock's, over `flock`).
The file may stay behind and means nothing; its text names the holder, for the message that the next one gets."""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from sluicegate.errors import UserError, printable


class Busy(UserError):
    """Another process holds the lock; it may let go."""


@contextlib.contextmanager
def held(path: Path, what: str, advice: str) -> Iterator[None]:
    """Hold the lock file `path`, made where it is missing; do not wait for another holder.

    Raises `Busy`, a `UserError`, where another process holds it: `what`, as in ``"the run folder 'x' is in use"``, then
    "by another process" and which one, then the `advice`, whole sentences. The folder of `path` must exist.
    """
    if path.is_symlink():
        raise UserError(f"the lock file {str(path)!r} is a link, which is not followed. Remove it and run again.")
    # With `on_acquired`, filelock never falls back to a lock that would stay when its holder is killed.
    lock = FileLock(path, blocking=False, thread_local=False, preserve_lock_file=True, on_acquired=_write_holder)
    try:
        taken = lock.acquire()
    except (Timeout, FileNotFoundError):  # the latter where the holder has just removed the whole folder
        raise Busy(f"{what} by another process ({_read_holder(path)}). {advice}") from None
    with taken:
        yield


def _write_holder(file: int) -> None:
    """Name this process in the lock file, by the descriptor that the lock is held with."""
    os.ftruncate(file, 0)
    os.pwrite(file, f"process {os.getpid()} on {platform.node()}".encode(), 0)


def _read_holder(path: Path) -> str:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return printable(file.read(100).decode(errors="replace").strip()) or "unknown"
    return "unknown"
