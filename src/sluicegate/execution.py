"""Execution: from settings to a finished run folder.

Every kind of stage is known here: the verbs on data, and the trials, which are found by looking.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluicegate import trials
from sluicegate.errors import UserError, nearest
from sluicegate.items import digest
from sluicegate.runs.identity import Stage, build, environment, folder_name, identify
from sluicegate.stages import Ablate, Distill, OnData, Relearn, Route, Score, Train, Undo, Unlearn
from sluicegate.tasks import read
from sluicegate.unlearning.objectives import method

if TYPE_CHECKING:
    from sluicegate.runs.room import Progress

STAGES: dict[str, type[OnData]] = {cls.VERB: cls for cls in (Train, Score, Route, Ablate, Unlearn, Distill, Undo, Relearn)}


def kinds() -> dict[str, type[Stage]]:
    """Every stage that a table of settings can name: the verbs and the trials."""
    return {**STAGES, **trials.found()}


def from_config(settings: dict[str, Any]) -> Stage:
    """Make a stage from a flat table such as config.toml holds; raises `UserError` for unknown names."""
    left = dict(settings)
    verb = left.pop("verb", None)
    known = kinds()
    if verb not in known:
        raise UserError(f"no verb {verb!r}. There are: {nearest(str(verb), sorted(known), most=20)}.")
    name = left.pop("method", None)
    return build(known[verb], left, method(name) if name is not None else None)


def identity(stage: Stage) -> tuple[str, dict[str, str]]:
    """The stage's hash, and the hashes of what it is made from."""
    from sluicegate.models import model_digest
    from sluicegate.runs.room import read_identity

    parents = {}
    for name, value in (stage.sources("model") | stage.sources("run")).items():
        own = read_identity(Path(value)) if Path(value).is_dir() else None
        parents[name] = own["hash"] if own else model_digest(value)
    for name, value in stage.sources("data").items():
        parents[name] = digest(read(value, name))
    return identify(stage, parents), parents


def execute(stage: Stage, out: Path, *, exact: bool = False, title: str = "", progress: "Progress | None" = None) -> Path:
    """Run a stage in its folder and return the folder; a finished one is not run again.

    With `exact`, `out` is the folder; else the folder is ``out/verb-method-hash8``.
    """
    import os

    import torch

    from sluicegate.models import device
    from sluicegate.runs.room import check_owner, open_run

    stage = stage.resolved()
    own, parents = identity(stage)
    folder = out if exact else out / folder_name(stage, own)
    if (folder / "DONE").exists():
        check_owner(folder, own)
        return folder
    threads = torch.get_num_threads() if stage.is_wide() else 1
    surroundings = environment(str(device()), threads)
    interval = float(os.environ.get("SLUICEGATE_KEEP_SECONDS", "20"))
    opened = open_run(
        folder,
        digest=own,
        config=stage.config(),
        parents=parents,
        environment=surroundings,
        title=title or folder.name,
        progress=progress,
        interval=interval,
    )
    with _threads(threads), _tidy(folder), opened as room:
        if not (folder / "DONE").exists():  # another process may have finished it while we waited to open it
            room.finish(stage.run(room))
    return folder


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch use so many threads inside."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _tidy(folder: Path) -> Iterator[None]:
    """Remove a run folder that a user's mistake ended before anything in it was worth keeping."""
    was_there = folder.exists()
    try:
        yield
    except UserError:
        metrics = folder / "metrics.jsonl"
        if not was_there and not (folder / "state" / "index.json").exists() and (not metrics.exists() or not metrics.stat().st_size):
            shutil.rmtree(folder, ignore_errors=True)
        raise
