"""What a Ray worker does with a stage: in the shared run folder where it sees it, else in a scratch folder of its
own."""

import os
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from sluicegate.errors import UserError
from sluicegate.execution.ray.transfer import Files, name_of, pack, rename_sources, unpack
from sluicegate.runs.directory import Progress
from sluicegate.runs.lock import Busy

QUIET_SECONDS = 0.3
"""Between two messages about one part of a stage."""
PATIENCE = 30.0
"""How many seconds a worker waits for a run folder that another process holds: the lost worker's last process,
mostly."""


@dataclass(frozen=True)
class Order:
    """A stage for a worker: what to do, and what the worker must see in order to do it in place."""

    title: str
    settings: dict[str, Any]
    out: str
    exact: bool
    cwd: str
    """Folder of the driver, to which relative paths refer."""
    sight: tuple[str, ...]
    """Files and folders that the worker must see: the run folder's mark, and the stage's sources."""
    argv: tuple[str, ...]
    """The driver's command, for env.json."""
    keep_seconds: str
    """The driver's SLUICEGATE_KEEP_SECONDS."""
    threads: int
    packed: tuple[str, ...] = ()
    """Names of the sources that come along as transfers; one transfer more is what there is of the run folder."""
    name: str = ""
    """Name of the run folder, where there are transfers."""


@dataclass(frozen=True)
class Report:
    """How a stage ended on a worker."""

    folder: str = ""
    """Its run folder, in the shared place."""
    transfer: Files | None = None
    """Or the run folder's content."""
    mistake: str = ""
    """Or what the user did wrong."""
    blind: bool = False
    """Or that the worker does not see the run folder or a source, and got no transfers."""


def run_order(order: Order, transfers: Sequence[Files], tell: Any = None) -> Report:
    """Run a stage; `tell(part, done, total, numbers)` passes its progress on."""
    progress = _limit_messages(tell) if tell is not None else None
    try:
        with _driver_surroundings(order):
            if all(Path(name).expanduser().exists() for name in order.sight):
                return Report(folder=str(_execute_when_free(order.settings, Path(order.out), order.exact, order.title, progress)))
            if not transfers:
                return Report(blind=True)
        with tempfile.TemporaryDirectory(prefix="sluicegate-") as place:
            return Report(transfer=_run_in_scratch(order, transfers, Path(place), progress))
    except UserError as error:
        return Report(mistake=str(error))


@contextmanager
def _driver_surroundings(order: Order) -> Iterator[None]:
    """Be where the driver is, if there is such a place here, and keep and record what it would."""
    import torch

    torch.set_num_threads(order.threads)
    sys.argv = list(order.argv)  # Ray's own would tell of the cluster's insides
    if order.keep_seconds:
        os.environ["SLUICEGATE_KEEP_SECONDS"] = order.keep_seconds
    else:
        os.environ.pop("SLUICEGATE_KEEP_SECONDS", None)
    with chdir(order.cwd) if Path(order.cwd).is_dir() else nullcontext():
        yield


def _execute_when_free(settings: Mapping[str, Any], out: Path, exact: bool, title: str, progress: Progress | None) -> Path:
    """Run the stage; wait a while where another process still holds its folder."""
    from sluicegate.execution.execute import execute
    from sluicegate.runs.stage import from_config

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return execute(from_config(dict(settings)), out, exact=exact, title=title, progress=progress)
        except Busy:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _run_in_scratch(order: Order, transfers: Sequence[Files], place: Path, progress: Progress | None) -> Files:
    """Run the stage on what came along, and return its folder, whose settings name the driver's paths again."""
    from sluicegate.runs.stage import from_config

    # Unpack each source into a folder of its own, since two may have one name.
    here = {}
    for number, (name, files) in enumerate(zip(order.packed, transfers, strict=False)):
        unpack(files, place / str(number))
        here[name] = str(place / str(number) / name_of(name))
    # Beside them, the run folder as far as it had come; a resume point in it is taken up.
    run = place / "run" / order.name
    unpack(transfers[-1], run.parent)
    named = rename_sources(from_config(order.settings), lambda name: here.get(name, name))
    _execute_when_free(order.settings | named, run, True, order.title, progress)
    # The record names the driver's paths, not those of a folder that is about to go.
    config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    (run / "config.toml").write_text(tomli_w.dumps(config | {name: order.settings[name] for name in named}), encoding="utf-8")
    return pack(run)


def _limit_messages(tell: Any) -> Progress:
    """Pass on a part's end, and of the rest no more than a few messages a second: they cross a network."""
    last: dict[str, float] = {}

    def progress(part: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
        now = time.monotonic()
        if done >= total or now - last.get(part, 0.0) >= QUIET_SECONDS:
            last[part] = now
            tell(part, done, total, dict(numbers))

    return progress
