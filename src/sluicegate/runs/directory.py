"""The run folder of one stage: who it is, how far it got, what it found. docs/design.md says what each file holds."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from sluicegate.deprecated import alias
from sluicegate.errors import UserError
from sluicegate.runs.disk import clear_dead, fingerprint, plain_disk_errors, remove, replacing, share, sync
from sluicegate.runs.lock import Busy, held
from sluicegate.runs.ranks import ALONE, Ranks

if TYPE_CHECKING:  # listing runs must not cost the import of torch
    from torch import Tensor

FORMAT = 1
"""Version of the folder's layout."""
APART = ("DONE", "lock", "seconds.json")
"""Files of a finished run that have no checksum: they may change after it."""
FILES = ("config.toml", "parents.json", *APART, "env.json", "metrics.jsonl", "result.json", "report.html", "page.html")
"""Files of ours right in a run folder, whatever its stage."""
SMALL = 64 * 2**20
"""Bytes up to which a file is read to see whether a finished run is what it was; larger ones where they are used."""

Progress = Callable[[str, int, int, Mapping[str, float]], None]
"""Called with what is running, steps done, steps in all, and the newest numbers."""


@dataclass(frozen=True)
class Checkpoint:
    """A resume point: numbers, tensors, and whether that part of the stage had been finished."""

    values: dict[str, Any]
    tensors: dict[str, "Tensor"]
    finished: bool
    own: bool = False
    """Whether the tensors are this process's shares of divided ones."""


class RunContext:
    """Where a stage works when nothing is kept, as when called from Python; `RunDirectory` is the one that keeps."""

    ranks: Ranks = ALONE
    """The processes that work here together; only the one that leads keeps anything."""

    def __init__(self, title: str = "in memory", progress: Progress | None = None) -> None:
        self.title = title
        self.path = Path()
        self._progress = progress

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one record to the metrics."""

    def log_once(self, part: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Append what was measured between two parts, as a part of its own: `log` would append it again on resuming."""
        if self.load_checkpoint(part) is None:
            for record in records:
                self.log(record)
            self.save_checkpoint(part, {}, {}, finished=True)

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

    def save_checkpoint_all_ranks(self, part: str, values: Mapping[str, Any], tensors: Mapping[str, "Tensor"], *, finished: bool) -> None:
        """The same where several processes work: of tensors that are divided among them, each writes its own shares."""
        ranks, state = self.ranks, self.path / "state"
        shares = ranks.shard and ranks.first(isinstance(self, RunDirectory)) and not ranks.any(not state.is_dir())
        if not shares:  # or not all of them see the folder
            return self.save_checkpoint(part, values, {key: ranks.whole(t) for key, t in tensors.items()}, finished=finished)
        begun = time.monotonic()
        local = {key: t.to_local() if hasattr(t, "to_local") else t for key, t in tensors.items()}
        file = state / _file_of(part, values, finished, f"-{ranks.rank}-of-{ranks.world}")
        return self._note(part, values, ranks.gather(_write_tensors(file, local)), finished, begun)

    def _note(self, part: str, values: Mapping[str, Any], written: list[tuple[str, str]], finished: bool, begun: float) -> None:
        """Make what was written, (file, fingerprint), the resume point of `part`."""

    def load_checkpoint_all_ranks(self, part: str) -> Checkpoint | None:
        """The resume point as the folder's holder finds it: own shares where as many wrote them, else whole tensors."""
        if self.ranks.world == 1:
            return self.load_checkpoint(part)
        entry = self.ranks.first(self._entry(part))
        if entry is None:
            return None
        values, finished, files = entry
        if self.ranks.shard and len(files) == self.ranks.world:
            return Checkpoint(values, _read_tensors(self.path / "state", *files[self.ranks.rank]), finished, own=True)
        found = self.load_checkpoint(part)
        return Checkpoint(values, self.ranks.tensors(found.tensors if found else {}), finished)

    def _entry(self, part: str) -> tuple[dict[str, Any], bool, list[tuple[str, str]]] | None:
        """Values, whether it is finished, and the files of a resume point with their fingerprints."""
        return None


class RunDirectory(RunContext):
    """A stage's run folder, held open by one process. Use `open_run`."""

    def __init__(self, path: Path, title: str, progress: Progress | None, interval: float) -> None:
        super().__init__(title, progress)
        self.path = path
        self._interval = interval
        self._kept_at = time.monotonic()
        self._keeping = 0.0  # seconds that the last resume point took to write
        self._state = path / "state"
        self._index: dict[str, Any] = {"offset": 0, "parts": {}}
        self._logged = hashlib.sha256()
        metrics = path / "metrics.jsonl"
        for place, real in ((self._state, self._state.is_dir()), (metrics, metrics.is_file())):
            if place.is_symlink() or (place.exists() and not real):
                raise damaged(place, "it is a link, or nothing that a run writes")
        done = (path / "DONE").exists()
        if not done:
            self._state.mkdir(exist_ok=True)
            if (self._state / "index.json").exists():
                self._index = read_index(self._state / "index.json")
            logged = metrics.read_bytes()[: self._index["offset"]] if metrics.exists() else b""
            self._logged.update(logged)
            if len(logged) < self._index["offset"] or self._index.get("logged") not in (None, self._logged.hexdigest()):
                raise damaged(metrics, "it is not what was logged up to the resume point")
        self._metrics = metrics.open("ab")
        if not done:  # what was logged after the resume point will be logged again
            self._metrics.truncate(self._index["offset"])
        self._metrics.seek(0, os.SEEK_END)

    def log(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record).encode() + b"\n"
        self._metrics.write(line)
        self._logged.update(line)

    def checkpoint_due(self) -> bool:
        # Writing a large model may take as long as many steps: it shall not take more than a tenth of the time.
        wait = max(self._interval, 10 * self._keeping) if self._interval else 0.0
        return time.monotonic() - self._kept_at >= wait

    def save_checkpoint(self, part: str, values: Mapping[str, Any], tensors: Mapping[str, "Tensor"], *, finished: bool) -> None:
        begun = time.monotonic()
        file = self._state / _file_of(part, values, finished)
        self._note(part, values, [_write_tensors(file, tensors)] if tensors else [], finished, begun)

    def _note(self, part: str, values: Mapping[str, Any], written: list[tuple[str, str]], finished: bool, begun: float) -> None:
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        old = self._entry(part)
        self._index["parts"][part] = {"values": dict(values), "files": [list(file) for file in written], "finished": finished}
        self._index |= {"offset": self._metrics.tell(), "logged": self._logged.hexdigest()}
        plain = json.loads(json.dumps(self._index))  # as it will be read back
        write_atomic(self._state / "index.json", json.dumps(plain | {"sum": _sum(plain)}))
        for name in {name for name, _ in (old[2] if old else [])} - {name for name, _ in written}:
            (self._state / name).unlink(missing_ok=True)
        self._kept_at = time.monotonic()
        self._keeping = self._kept_at - begun

    def _entry(self, part: str) -> tuple[dict[str, Any], bool, list[tuple[str, str]]] | None:
        entry = self._index["parts"].get(part)
        if entry is None:
            return None
        old = [(entry["tensors"], entry.get("sum", ""))] if entry.get("tensors") else []  # as earlier versions wrote it
        return entry["values"], entry["finished"], entry.get("files", old)

    def load_checkpoint(self, part: str) -> Checkpoint | None:
        entry = self._entry(part)
        if entry is None:
            return None
        first, *others = [_read_tensors(self._state, *file) for file in entry[2]] or [{}]
        if others:  # the shares of several processes, cut along the first dimension; a number all have alike
            from torch import cat

            first = {key: cat([own, *(o[key] for o in others)]) if own.dim() else own for key, own in first.items()}
        return Checkpoint(entry[0], first, entry[1])

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write what was found, then DONE, then drop the resume point."""
        self._metrics.flush()
        os.fsync(self._metrics.fileno())
        write_atomic(self.path / "result.json", json.dumps(result, indent=1))
        write_done(self.path)
        shutil.rmtree(self._state, ignore_errors=True)

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
    belongs to another stage or another version, when its files are damaged, or when another process holds it.
    """
    first = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    with hold(path), _tidy(path) if first else contextlib.nullcontext():
        check_owner(path, digest)
        if not (path / "parents.json").exists():
            check_strangers(path)
            write_atomic(path / "config.toml", tomli_w.dumps(dict(config)))
            write_atomic(path / "env.json", json.dumps(environment, indent=1))
            write_atomic(path / "parents.json", json.dumps({"format": FORMAT, "hash": digest, "parents": dict(parents)}, indent=1))
        elif not (path / "DONE").exists():
            if read_json(path / "parents.json").get("parents") != dict(parents):
                raise damaged(path / "parents.json", "it names other parents than its hash was made from")
            if (path / "env.json").exists():
                _note_world(path / "env.json", environment)
            write_atomic(path / "config.toml", tomli_w.dumps(dict(config)))
        _clear(path)
        run = RunDirectory(path, title, progress, interval)
        started = time.process_time()
        try:
            yield run
        finally:
            run.close()
            _add_seconds(path, time.process_time() - started)


def hold(path: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the lock of the run folder `path`; raises `Busy` where another process does."""
    return held(path / "lock", f"the run folder {str(path)!r} is in use", "Wait for it to end, or choose another --out.")


@contextlib.contextmanager
def _tidy(path: Path) -> Iterator[None]:
    """Remove a run folder, its lock held, that a user's mistake ended before anything was worth keeping."""
    try:
        yield
    except UserError:
        metrics = path / "metrics.jsonl"
        if not (path / "state" / "index.json").exists() and (not metrics.exists() or not metrics.stat().st_size):
            shutil.rmtree(path, ignore_errors=True)
        raise


def _clear(path: Path) -> None:
    """Remove, while the lock is held, what a process left that was killed while it wrote."""
    for left in filter(_scratch, path.iterdir()):
        remove(left)
    if (path / "DONE").exists():
        remove(path / "state")


def _note_world(file: Path, environment: Mapping[str, Any]) -> None:
    """Add this sitting's number of processes to env.json, which speaks of the first, where it is another."""
    before = read_json(file)
    worlds = [*before.get("world_sizes", [before.get("world_size", 1)])]
    if (now := environment.get("world_size", 1)) != worlds[-1]:
        write_atomic(file, json.dumps(before | {"world_sizes": [*worlds, now]}, indent=1))


def check_strangers(path: Path) -> None:
    """Raise `UserError` where a folder without a run holds more than one leaves that was stopped as it began."""
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
    identity = read_json(file)
    if not isinstance(identity.get("hash"), str) or "format" not in identity:
        raise damaged(file)
    return identity


def damaged(file: Path, why: str = "") -> UserError:
    """The error for a file of a run that is not what was written."""
    advice = "Put the file back, or remove the folder (sluicegate runs rm) and start over, or choose another --out."
    return UserError(f"{str(file)!r} is damaged or from another version{f': {why}' if why else ''}. {advice}")


def read_json(file: Path) -> dict[str, Any]:
    """The table in a JSON file of a run; `UserError` where there is none."""
    if not file.is_file():
        raise damaged(file, "it is missing, or no file")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise damaged(file, "it is not JSON") from None
    if not isinstance(found, dict):
        raise damaged(file)
    return found


def read_index(file: Path) -> dict[str, Any]:
    """The index of a resume point; `UserError` where it is not what was written. Earlier versions wrote no sums."""
    index = read_json(file)
    told = index.pop("sum", None)
    whole = isinstance(index.get("parts"), dict) and isinstance(index.get("offset"), int)
    if not whole or told not in (None, _sum(index)):
        raise damaged(file)
    return index


def _file_of(part: str, values: Mapping[str, Any], finished: bool, share: str = "") -> str:
    return f"{part.replace('/', '_')}-{values.get('steps', 0)}{'-end' if finished else ''}{share}.safetensors"


def _write_tensors(file: Path, tensors: Mapping[str, "Tensor"]) -> tuple[str, str]:
    """Write a file of tensors, whole or not at all; return its name and fingerprint."""
    from safetensors.torch import save_file

    scratch = file.with_name(f".{file.name}")
    with plain_disk_errors():
        save_file({key: t.contiguous() for key, t in tensors.items()}, scratch)
    sync(scratch)
    told = fingerprint(scratch)
    scratch.replace(file)
    return file.name, told


def _read_tensors(folder: Path, name: str, told: str) -> dict[str, "Tensor"]:
    from safetensors.torch import load_file

    file = folder / name
    if not file.is_file() or (told and fingerprint(file) != told):
        raise damaged(file, "it is missing, or not what was written")
    # By copy: what is mapped would keep the space of the file until the process ends.
    return {key: t.clone() for key, t in load_file(file).items()}


def _sum(index: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def files_of(path: Path) -> Iterator[str]:
    """Files of a run by their names below it, in order; no resume point's, half written, or other runs'."""
    for here, folders, names in os.walk(path):
        place = Path(here)
        resume = "state" if place == path else ""
        folders[:] = sorted(f for f in folders if f != resume and not _scratch(place / f) and not (place / f / "parents.json").exists())
        yield from ((place / name).relative_to(path).as_posix() for name in sorted(names) if not _scratch(place / name))


def write_done(path: Path) -> None:
    """Have all files of a run on the disk, readable as others made here; then write DONE, which vouches for them."""
    files = {name: path / name for name in files_of(path) if name not in APART}
    for file in files.values():
        share(file)
        sync(file)
    write_atomic(path / "DONE", json.dumps({"sums": {name: fingerprint(file) for name, file in files.items()}}, indent=1))


def check_finished(path: Path, *, every: bool = False, only: Sequence[str] = ()) -> None:
    """Raise `UserError` where a run is not finished, or no longer what it was when it ended.

    Compares the size of every file (or of `only` these), and the content of those up to `SMALL`, or with `every` of
    all. A run that was finished before there were checksums is taken as it is.
    """
    if not (path / "DONE").exists():
        raise UserError(f"{str(path)!r} is not a finished run (no DONE in it). Run its command again: it resumes.")
    sums = _sums(path)
    for name in only if only and set(only) <= set(sums) else sums:
        file, size = path / name, int(sums[name].split()[0])
        if not file.is_file():
            raise damaged(file, "it is missing, and the run is finished")
        if file.stat().st_size != size or ((every or size <= SMALL) and fingerprint(file) != sums[name]):
            raise damaged(file, "it was changed after the run had finished")
    folders = {name.split("/")[0] for name in sums if "/" in name}  # what is added to a model might be loaded with it
    for name in files_of(path) if not only else ():
        if name.split("/")[0] in folders and name not in sums and not Path(name).name.startswith("."):
            raise damaged(path / name, "it was added after the run had finished")


def _sums(path: Path) -> dict[str, str]:
    """Size and sha256 of a finished run's files as DONE holds them; of a run from before there were such, none."""
    file = path / "DONE"
    if file.is_file() and not file.stat().st_size:
        return {}
    sums = read_json(file).get("sums")
    if not isinstance(sums, dict) or not all(re.fullmatch(r"\d+ [0-9a-f]{64}", str(told)) for told in sums.values()):
        raise damaged(file)
    return sums


def clear_finished(path: Path) -> None:
    """Remove what a process left that was killed right after it had written DONE."""
    if (path / "state").exists() or any(map(_scratch, path.iterdir())):
        with contextlib.suppress(Busy, OSError), hold(path):
            _clear(path)


def remove_run(path: Path) -> list[str]:
    """Remove a run folder; return what is left, not known to be the run's. `Busy` where a process works in it."""
    with hold(path):
        try:
            known = _sums(path)
        except UserError:  # a damaged DONE vouches for nothing
            known = {}
        whole = {"state"} if known else {"state", "model"}
        for place in [*path.iterdir()]:
            if _scratch(place) or place.name in whole or (place.is_symlink() and place.name == "model"):
                remove(place)
        own = [name for name in files_of(path) if name in known or name in FILES]
        for name in sorted(own, key=lambda name: name in (*FILES[:2], "lock")):  # last those by which a run is known
            remove(path / name)
        for here, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):  # not empty
                Path(here).rmdir()
        return [str(place) for place in sorted(path.iterdir())] if path.is_dir() else []


def write_atomic(path: Path, text: str) -> None:
    """Write a whole file or nothing, and have it on the disk before returning."""
    clear_dead(path.parent, rf"\.{re.escape(path.name)}\.(\d+)")
    try:
        with replacing(path) as scratch, scratch.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except IsADirectoryError:
        raise damaged(path, "a folder is in its place") from None


def _scratch(path: Path) -> bool:
    """Whether this was never moved into place: ``.result.json.123``, ``.model-123``."""
    return re.fullmatch(r"\.(DONE|[\w-]+\.(json|toml|html|safetensors|gguf))\.\d+|\.(model|arriving)-\d+", path.name) is not None


def _add_seconds(path: Path, seconds: float) -> None:
    """CPU seconds over all sittings; apart from result.json, which is the same for every machine."""
    file = path / "seconds.json"
    before = 0.0
    with contextlib.suppress(UserError, TypeError, ValueError, OSError):  # what is there is worth no error
        before = float(read_json(file)["cpu"]) if file.exists() else 0.0
    with contextlib.suppress(OSError):  # a full disk must not hide the error that got us here
        write_atomic(file, json.dumps({"cpu": before + seconds}))


def result_of(folder: str | Path) -> dict[str, Any]:
    """What a finished run found; raises `UserError` where it is not finished."""
    path = Path(folder)
    check_finished(path, only=["result.json"])
    return read_json(path / "result.json")


__getattr__ = alias(__name__, Room="RunContext", RunFolder="RunDirectory", Resumed="Checkpoint")
