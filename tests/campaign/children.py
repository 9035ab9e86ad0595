"""Commands in processes that are made to be killed: forked from one that has imported everything, each with its own
group, folder for what is temporary, output, memory limit and end."""

import mmap
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Callable, Sequence
from pathlib import Path

MARK = "SLUICEGATE_CAMPAIGN"
"""Variable in the environment by which processes are known that a command has started."""
MEMORY = 8 * 2**30
"""Bytes of address space for a process; torch alone takes more than three billion of them."""
SECONDS = 240.0
"""How long a command may take before it counts as one that hangs."""
WRITES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink")
VOLATILE = ("lock", "seconds.json")
"""Files that differ between equal runs: who held the folder, how long it took. Pages (.html) may tell seconds too."""


def warm() -> None:
    """Import what the commands need, once for all. Nothing is computed: threads do not survive a fork."""
    import torch

    torch.set_num_threads(1)
    from sluicegate.app.verbs import verbs
    from sluicegate.engine.models import load

    verbs()
    load("arithmetic-tiny")


class Moments:
    """A count of the moments at which a process is about to change the disk, shared with its parent."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)

    @property
    def count(self) -> int:
        return int.from_bytes(self._memory[:8], "little")

    def watch(self, fatal: int = 0) -> None:
        """Count from here on, in this process; kill its group at moment number `fatal`, right before the change."""
        own, here = os.getpid(), os.getcwd()
        self._memory[:8] = bytes(8)

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event == "open":
                flags = arguments[2]
                if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                    return
            elif event not in WRITES:
                return
            place = arguments[0]
            if os.getpid() != own or not isinstance(place, str | Path) or (str(place).startswith("/") and not str(place).startswith(here)):
                return
            now = self.count + 1
            self._memory[:8] = now.to_bytes(8, "little")
            if now == fatal:
                os.killpg(0, signal.SIGKILL)

        sys.addaudithook(hook)


def start(words: Sequence[str], place: Path, *, keep: float = 0.0, before: Callable[[], None] | None = None) -> int:
    """Fork a process that does the command `words` in the folder `place`; returns its number, which is its group's too.

    `before` is called in it once all is set up. Its output goes to ``said.txt`` beside the folder.
    """
    said, temporary = place.with_name(f"{place.name}.said.txt"), place.with_name(f"{place.name}.tmp")
    temporary.mkdir(exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    if process := os.fork():
        return process
    status = 99
    try:
        os.setsid()
        os.chdir(place)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        os.environ |= {MARK: str(place), "TMPDIR": str(temporary.resolve()), "SLUICEGATE_KEEP_SECONDS": str(keep), "OMP_NUM_THREADS": "1"}
        os.environ |= {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
        tempfile.tempdir = None
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        sys.argv = ["sluicegate", *words]
        sys.modules["__main__"] = types.ModuleType("__main__")  # a pool's workers would run the file of ours again
        if before:
            before()
        from sluicegate.app import main

        status = main(list(words))
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def end_of(process: int, seconds: float = SECONDS) -> int | None:
    """Wait for a process: its exit status, less than 0 for a signal; None where it hung and was killed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    kill(process)
    os.waitpid(process, 0)
    return None


def kill(process: int) -> None:
    """Kill a process with its whole group."""
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:  # not yet its own group
        os.kill(process, signal.SIGKILL)


def offspring(place: Path) -> list[int]:
    """The processes that commands in the folder `place` have started, and that are alive."""
    found, wanted = [], f"{MARK}={place}\0".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if wanted in (entry / "environ").read_bytes() and (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                    found.append(int(entry.name))
            except (OSError, IndexError):  # gone meanwhile
                pass
    return found


def wait_for_offspring(place: Path, seconds: float = 60.0) -> list[int]:
    """Wait until what a killed command had started has ended by itself; those that did not, which are killed."""
    until = time.monotonic() + seconds
    while (left := offspring(place)) and time.monotonic() < until:
        time.sleep(0.05)
    for process in left:
        os.kill(process, signal.SIGKILL)
    return left


def said(place: Path) -> str:
    """All that commands in the folder `place` have printed."""
    file = place.with_name(f"{place.name}.said.txt")
    return file.read_text(errors="replace") if file.exists() else ""


def snapshot(place: Path) -> dict[str, bytes]:
    """Every file in a folder, and the names of its folders, but for what is `VOLATILE`."""
    found = {}
    for path in sorted(place.rglob("*")):
        if path.name not in VOLATILE and path.suffix != ".html":
            found[path.relative_to(place).as_posix()] = b"" if path.is_dir() else path.read_bytes()
    return found


def difference(first: dict[str, bytes], second: dict[str, bytes]) -> list[str]:
    """The names in which two snapshots differ."""
    return [name for name in sorted({*first, *second}) if first.get(name) != second.get(name)]
