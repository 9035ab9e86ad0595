"""Run folders and what stages are made from, as bytes, for workers that do not see the folders themselves."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from sluicegate.errors import UserError
from sluicegate.runs.directory import check_owner, check_strangers, hold, read_identity, write_done
from sluicegate.tasks.texts import PREFIX

if TYPE_CHECKING:
    from sluicegate.runs.stage import Stage

Files = dict[str, bytes]
"""A file or a folder: the content of each file by its path, which begins with the name of the file or folder itself."""

FIRST = ("config.toml", "env.json", "parents.json")
"""Written in this order when a run begins, and so when one arrives: what stops us between leaves a folder that can be
resumed."""


def name_of(path: str | Path) -> str:
    """The name under which a file or folder travels."""
    return Path(path).expanduser().resolve().name


def pack(path: str | Path) -> Files:
    """The file `path`, or all files in the folder `path` but the lock of a run; links are followed."""
    path = Path(path).expanduser().resolve()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file() and file.name != "lock")
    return {file.relative_to(path.parent).as_posix(): file.read_bytes() for file in files}


def unpack(files: Mapping[str, bytes], into: Path) -> None:
    """Write such files into the folder `into`; `ValueError` for a name that would lie outside of it."""
    for name, content in files.items():
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts:
            raise ValueError(f"a transfer holds a file {name!r}, which is outside of its folder")
        file = into / parts
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def store_run(files: Files, folder: Path, digest: str) -> None:
    """Make `folder` the finished run that `files` are, in the order in which a stage that ran there would have: DONE
    last.

    What is there of the same run is replaced. A run that is finished already is left as it is, since another process
    may have been quicker. Raises `UserError` where the folder belongs to another run, or another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder):
        check_owner(folder, digest)
        check_strangers(folder)
        if (folder / "DONE").exists():
            return
        scratch = folder / f".arriving-{os.getpid()}"
        try:
            unpack(files, scratch)
            (arrived,) = scratch.iterdir()
            if (found := (read_identity(arrived) or {}).get("hash", "")) != digest:
                raise UserError(f"a worker made another run than {folder.name} of this stage ({found[:8]}): its files or packages differ.")
            shutil.rmtree(folder / "state", ignore_errors=True)
            entries = {entry.name: entry for entry in sorted(arrived.iterdir()) if entry.name != "DONE"}
            for name in dict.fromkeys((*FIRST, *entries)):
                place = folder / name
                if place.is_dir():
                    shutil.rmtree(place)
                entries[name].replace(place)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        write_done(folder)


def local_sources(stage: "Stage") -> list[str]:
    """The files and folders of this machine that a stage is made from, as its settings name them; each once."""
    found: dict[str, None] = {}

    def note(name: str) -> str:
        if Path(name).expanduser().exists():
            found[name] = None
        return name

    rename_sources(stage, note)
    return list(found)


def rename_sources(stage: "Stage", rename: Callable[[str], str]) -> dict[str, str]:
    """The settings that name the stage's sources, with `rename` applied to each name: of data there may be several in
    one."""
    whole = {setting: rename(value) for kind in ("model", "run") for setting, value in stage.sources(kind).items()}
    for setting, value in stage.sources("data").items():
        names = [name.strip() for name in value.split(",")]
        parts = [(PREFIX if name.startswith(PREFIX) else "", name.removeprefix(PREFIX).strip()) for name in names]
        whole[setting] = ",".join(prefix + rename(name) for prefix, name in parts)
    return whole
