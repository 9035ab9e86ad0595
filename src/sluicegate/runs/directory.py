"""The run folder of one stage: who it is, how far it got, what it found.

::

    config.toml     the stage, fully resolved; fed back, it gives the same hash
    parents.json    hashes of the models and data it was made from
    env.json        an allow-list: versions, device, world size, threads, argv
    metrics.jsonl   one line a step or evaluation; cut back to the resume point on resume
    state/          the resume point; removed when the stage is done
    result.json     what the stage found
    DONE            written last: its absence means "resume me"
"""

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from sluicegate.deprecated import alias
from sluicegate.errors import UserError
from sluicegate.runs.disk import plain_disk_errors, sync
from sluicegate.runs.lock import held
from sluicegate.runs.ranks import ALONE, Ranks

if TYPE_CHECKING:  # listing runs must not cost the import of torch
    from torch import Tensor

FORMAT = 1
"""Version of the folder's layout."""

Progress = Callable[[str, int, int, Mapping[str, float]], None]
"""Called with what is running, steps done, steps in all, and the newest numbers."""


@dataclass(frozen=True)
class Checkpoint:
    """A resume point: numbers, tensors, and whether that part of the stage had been finished."""

    values: dict[str, Any]
    tensors: dict[str, "Tensor"]
    finished: bool


class RunContext:
    """Where a stage works when nothing is to be kept: progress is shown, the rest is dropped.

    This is what a verb called from Python gets by default. `RunDirectory` is the one that keeps.
    """

    ranks: Ranks = ALONE
    """The processes that work here together; only the one that leads keeps anything."""

    def __init__(self, title: str = "in memory", progress: Progress | None = None) -> None:
        self.title = title
        self.path = Path()
        self._progress = progress

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one record to the metrics."""

    def progress(self, part: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
        """Tell whoever watches how far the stage is."""
        if self._progress is not None:
            self._progress(f"{self.title} {part}".strip(), done, total, numbers)

    def checkpoint_due(self) -> bool:
        """Whether it is time for a resume point."""
        return False

    def save_checkpoint(self, part: str, values: Mapping[str, Any], tensors: Mapping[str, "Tensor"], *, finished: bool) -> None:
        """Make this the resume point of `part`."""

    def load_checkpoint(self, part: str) -> Checkpoint | None:
        """The resume point of `part`, or None when it starts from nothing."""
        return None

    def load_checkpoint_all_ranks(self, part: str) -> Checkpoint | None:
        """The same for all processes that work here: what the one that holds the folder finds."""
        found = self.load_checkpoint(part)
        if self.ranks.world == 1:
            return found
        told = self.ranks.first((found.values, found.finished) if found else None)
        return Checkpoint(told[0], self.ranks.tensors(found.tensors if found else {}), told[1]) if told else None


class RunDirectory(RunContext):
    """A stage's run folder, held open by one process. Use `open_run`."""

    def __init__(self, path: Path, title: str, progress: Progress | None, interval: float) -> None:
        super().__init__(title, progress)
        self.path = path
        self._interval = interval
        self._kept_at = time.monotonic()
        self._keeping = 0.0  # seconds that the last resume point took to write
        self._state = path / "state"
        self._state.mkdir(exist_ok=True)
        self._index: dict[str, Any] = {"offset": 0, "parts": {}}
        if (self._state / "index.json").exists():
            self._index = json.loads((self._state / "index.json").read_text())
        # What was logged after the resume point will be logged again.
        self._metrics = (path / "metrics.jsonl").open("ab")
        if not (path / "DONE").exists():
            self._metrics.truncate(self._index["offset"])
        self._metrics.seek(0, os.SEEK_END)

    def log(self, record: Mapping[str, Any]) -> None:
        self._metrics.write(json.dumps(record).encode() + b"\n")

    def checkpoint_due(self) -> bool:
        # Writing a large model may take as long as many steps: it shall not take more than a tenth of the time.
        wait = max(self._interval, 10 * self._keeping) if self._interval else 0.0
        return time.monotonic() - self._kept_at >= wait

    def save_checkpoint(self, part: str, values: Mapping[str, Any], tensors: Mapping[str, "Tensor"], *, finished: bool) -> None:
        from safetensors.torch import save_file

        begun = time.monotonic()
        name = None
        if tensors:
            name = f"{part.replace('/', '_')}-{values.get('steps', 0)}{'-end' if finished else ''}.safetensors"
            scratch = self._state / f".{name}"
            with plain_disk_errors():
                save_file({key: t.contiguous() for key, t in tensors.items()}, scratch)
            sync(scratch)
            scratch.replace(self._state / name)
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        old = self._index["parts"].get(part, {}).get("tensors")
        self._index["parts"][part] = {"values": dict(values), "tensors": name, "finished": finished}
        self._index["offset"] = self._metrics.tell()
        write_atomic(self._state / "index.json", json.dumps(self._index))
        if old and old != name:
            (self._state / old).unlink(missing_ok=True)
        self._kept_at = time.monotonic()
        self._keeping = self._kept_at - begun

    def load_checkpoint(self, part: str) -> Checkpoint | None:
        from safetensors.torch import load_file

        entry = self._index["parts"].get(part)
        if entry is None:
            return None
        tensors = load_file(self._state / entry["tensors"]) if entry["tensors"] else {}
        return Checkpoint(entry["values"], tensors, entry["finished"])

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write what was found, then DONE, then drop the resume point."""
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        write_atomic(self.path / "result.json", json.dumps(result, indent=1))
        write_atomic(self.path / "DONE", "")
        shutil.rmtree(self._state)

    def close(self) -> None:
        self._metrics.close()


@contextlib.contextmanager
def open_run(
    path: Path,
    *,
    digest: str,
    config: Mapping[str, Any],
    parents: Mapping[str, str],
    environment: Mapping[str, Any],
    title: str,
    progress: Progress | None = None,
    interval: float = 20.0,
) -> Iterator[RunDirectory]:
    """Hold the run folder `path` for the stage with this `digest`; new, or resumed where it stopped.

    `interval` is the time between resume points, in seconds. Raises `UserError` when the folder
    belongs to another stage or another version, or when another process holds it.
    """
    path.mkdir(parents=True, exist_ok=True)
    with held(path / "lock", f"the run folder {str(path)!r} is in use", "Wait for it to end, or choose another --out."):
        check_owner(path, digest)
        if not (path / "parents.json").exists():
            check_strangers(path)
            write_atomic(path / "config.toml", tomli_w.dumps(dict(config)))
            write_atomic(path / "env.json", json.dumps(environment, indent=1))
            write_atomic(path / "parents.json", json.dumps({"format": FORMAT, "hash": digest, "parents": dict(parents)}, indent=1))
        elif (path / "env.json").exists():
            _note_world(path / "env.json", environment)
        for left in filter(_scratch, path.iterdir()):  # by a process that was killed while it wrote
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        run = RunDirectory(path, title, progress, interval)
        started = time.process_time()
        try:
            yield run
        finally:
            run.close()
            _add_seconds(path, time.process_time() - started)


def _note_world(file: Path, environment: Mapping[str, Any]) -> None:
    """Add another number of processes than the last sitting's to env.json, which otherwise speaks of the first
    sitting."""
    before = json.loads(file.read_text())
    worlds = [*before.get("world_sizes", [before.get("world_size", 1)])]
    if (now := environment.get("world_size", 1)) != worlds[-1]:
        write_atomic(file, json.dumps(before | {"world_sizes": [*worlds, now]}, indent=1))


def check_strangers(path: Path) -> None:
    """Raise `UserError` where a folder that holds no run yet holds anything but what one leaves that was stopped as it
    began."""
    ours = ("lock", "config.toml", "env.json")
    if not path.is_dir() or (path / "parents.json").exists():
        return
    strangers = [p.name for p in path.iterdir() if p.name not in ours and not _scratch(p)]
    if strangers:
        raise UserError(f"the folder {str(path)!r} is not empty and holds no run of ours (found {strangers[0]!r}). Choose another --out.")


def check_owner(path: Path, digest: str) -> None:
    """Raise `UserError` when the folder holds another stage's run, or one of another version."""
    identity = read_identity(path)
    if identity is None:
        return
    if identity.get("format") != FORMAT:
        raise UserError(
            f"the run folder {str(path)!r} was written by another version (layout {identity.get('format')}, this one writes {FORMAT}). "
            "It is left as it is. Choose another --out, or remove it with: sluicegate runs rm"
        )
    if identity["hash"] != digest:
        raise UserError(
            f"the run folder {str(path)!r} holds another run ({identity['hash'][:8]}; this command would be {digest[:8]}): its settings or "
            f"data differ, or its version. It is left as it is. Choose another --out, or: sluicegate runs rm {path}"
        )


def read_identity(path: Path) -> dict[str, Any] | None:
    """The content of parents.json, or None where there is no run; `UserError` where it is damaged."""
    file = path / "parents.json"
    if not file.exists():
        return None
    try:
        identity: dict[str, Any] = json.loads(file.read_text())
        identity["hash"], identity["format"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(f"{str(file)!r} is damaged or from another version. Remove the folder, or choose another --out.") from None
    return identity


def write_atomic(path: Path, text: str) -> None:
    """Write a whole file or nothing, and have it on the disk before returning."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _scratch(path: Path) -> bool:
    """Whether this is a file or folder of a run that was never moved into place: ``.result.json.123``,
    ``.model-123``."""
    return re.fullmatch(r"\.(config\.toml|\w+\.json|DONE)\.\d+|\.(model|arriving)-\d+", path.name) is not None


def _add_seconds(path: Path, seconds: float) -> None:
    """CPU seconds over all sittings; apart from result.json, which is the same for every machine."""
    file = path / "seconds.json"
    with contextlib.suppress(OSError):  # a full disk must not hide the error that got us here
        before = json.loads(file.read_text())["cpu"] if file.exists() else 0.0
        write_atomic(file, json.dumps({"cpu": before + seconds}))


def result_of(folder: str | Path) -> dict[str, Any]:
    """What a finished run found; raises `UserError` where it is not finished."""
    path = Path(folder)
    if not (path / "DONE").exists():
        raise UserError(f"{str(folder)!r} is not a finished run (no DONE in it). Run its command again: it resumes.")
    found: dict[str, Any] = json.loads((path / "result.json").read_text())
    return found


__getattr__ = alias(__name__, Room="RunContext", RunFolder="RunDirectory", Resumed="Checkpoint")
