"""Writing to the disk so that it is really there, or plainly not."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
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
