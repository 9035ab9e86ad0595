"""Writing to the disk so that it is really there, or plainly not; and telling later whether it is what was written."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path


def sync(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk before returning."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def plain_disk_errors() -> Iterator[None]:
    """Turn safetensors' own error for a disk that cannot be written into the OSError that it stands for."""
    try:
        yield
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if type(error).__name__ != "SafetensorError" or number is None:
            raise
        code = int(number.group(1))
        raise OSError(code, os.strerror(code)) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A scratch file to write, which then takes the place of `path`: whole, or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with plain_disk_errors():
            yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def fingerprint(file: Path) -> str:
    """Size in bytes and sha256 (hex) of a file's content, ``"120 9f86..."``; read once while the file is unchanged."""
    seen = file.stat()
    return _fingerprint(file, seen.st_size, seen.st_mtime_ns, seen.st_ino)


@lru_cache(4096)
def _fingerprint(file: Path, size: int, changed: int, inode: int) -> str:
    with file.open("rb") as content:
        return f"{size} {hashlib.file_digest(content, 'sha256').hexdigest()}"


def share(place: Path) -> None:
    """Let a file, or all in a folder, be read by whoever the umask allows; safetensors' are their owner's alone."""
    umask = os.umask(0o077)
    os.umask(umask)
    for file in place.rglob("*") if place.is_dir() else [place]:
        if file.is_file() and not file.is_symlink():
            with suppress(PermissionError):  # another user's, whose run this one goes on with
                file.chmod(0o666 & ~umask)


def clear_dead(folder: Path, pattern: str) -> None:
    """Remove what killed processes left in `folder`: names like `pattern`, whose group 1 is a dead process."""
    for left in folder.iterdir():
        if (found := re.fullmatch(pattern, left.name)) and not _is_alive(int(found[1])):
            remove(left)


def remove(place: Path) -> None:
    """Remove a file, or a folder with all that is in it; of a link the link alone. What is gone already is no error."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True
