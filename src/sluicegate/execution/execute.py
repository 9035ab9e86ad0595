"""Execute a stage: from its settings to a finished run folder."""

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluicegate.errors import UserError
from sluicegate.runs.directory import RunContext, RunDirectory, check_finished, check_owner, clear_finished, open_run, read_identity
from sluicegate.runs.stage import Stage, environment, folder_name, identify, identities, stages
from sluicegate.tasks import read
from sluicegate.tasks.stage import OnData
from sluicegate.values.items import digest

if TYPE_CHECKING:
    from sluicegate.runs.directory import Progress
    from sluicegate.runs.ranks import Ranks

ALONE_SHARDED = "--shard divides a model among processes, and there is one. Ask for more: --procs 2"


def identity(stage: Stage) -> tuple[str, dict[str, str]]:
    """The stage's hash, and the hashes of what it is made from."""
    from sluicegate.engine.models import model_digest

    parents, base = {}, stage.base if isinstance(stage, OnData) else ""
    for name, value in (stage.sources("model") | stage.sources("run")).items():
        own = read_identity(Path(value)) if Path(value).is_dir() else None
        if own:  # its hash stands for its files only while they are what it wrote
            check_finished(Path(value), every=True)
        parents[name] = own["hash"] if own else model_digest(value, base if name == "model" else "")
    for name, value in stage.sources("data").items():
        parents[name] = digest(read(value, name, getattr(stage, "columns", "")), choices=stage.VERB == "score")
    if rendered := _rendering(stage):
        parents["rendering"] = rendered
    parents |= stage.contents()
    return identify(stage, parents), parents


def _rendering(stage: Stage) -> str:
    """How prompts are rendered, where a chat template by itself would do it otherwise (see `encoding.rendering`)."""
    if not getattr(stage, "template", False):
        return ""
    from sluicegate.engine.encoding import rendering
    from sluicegate.engine.models import load_tokenizer

    with suppress(UserError):  # which comes again where the stage encodes its rows
        if isinstance(stage, OnData):
            return rendering(stage.tell(load_tokenizer(stage.model, stage.base)))
        return rendering(load_tokenizer(stage.model))  # type: ignore[attr-defined]
    return ""


def tell_sources(stage: Stage) -> None:
    """Have said what there is to say of a stage's rows and chat template: here, and so once, wherever it will run."""
    with suppress(UserError):  # which comes again where the stage runs
        if isinstance(stage, OnData):
            stage.split()
        else:
            for name, value in stage.sources("data").items():
                read(value, name)
        _rendering(stage)


def home_of(stage: Stage, out: Path, *, exact: bool = False) -> tuple[Path, str, dict[str, str]]:
    """The run folder of a stage, its hash there, and the hashes of what it is made from.

    With `exact`, `out` is the folder; else it is ``out/verb-method-hash8``. A run that is there under an earlier form
    of its hash is found (see `runs.stage.identities`).
    """
    _, parents = identity(stage)
    known = identities(stage, parents)
    if exact:
        there = read_identity(out)
        return out, there["hash"] if there and there["hash"] in known else known[0], parents
    own = next((digest for digest in known if (out / folder_name(stage, digest)).exists()), known[0])
    return out / folder_name(stage, own), own, parents


def execute(
    stage: Stage,
    out: Path,
    *,
    exact: bool = False,
    title: str = "",
    progress: "Progress | None" = None,
    procs: int = 0,
    shard: bool = False,
) -> Path:
    """Run a stage in its folder and return the folder; a finished one is not run again.

    With `exact`, `out` is the folder; else the folder is ``out/verb-method-hash8``. `procs` processes train
    the model together, with FSDP2 where `shard`: those that a launcher such as torchrun has started, of which this
    is one, or else new ones on this machine; 0 is as many as a launcher started, and one without.
    """
    import torch

    from sluicegate.engine.memory import check_fits
    from sluicegate.engine.models import device
    from sluicegate.execution.torchrun import clear_launches, launch
    from sluicegate.runs.ranks import ALONE, join, launched

    world = _world(stage, procs, shard)
    starts = world > 1 and launched() is None
    if starts:
        clear_launches()
    ranks = ALONE if world == 1 or starts else join(shard)
    stage, folder, own, parents = _settled(stage, ranks, out, exact)
    if ranks.first((folder / "DONE").exists()):
        if ranks.leads:
            check_owner(folder, own)
            check_finished(folder)
            clear_finished(folder)
        return folder
    check_fits(stage, world, shard)
    if starts:
        launch(stage.config(), folder, world, shard=shard, title=title or folder.name, show=progress is not None)
        return folder
    threads = torch.get_num_threads() if stage.is_wide() else 1
    surroundings = environment(str(device()), threads, ranks.world, ranks.shard)
    opened = _opened(
        ranks,
        folder,
        digest=own,
        config=stage.config(),
        parents=parents,
        environment=surroundings,
        title=title or folder.name,
        progress=progress,
        interval=_interval(),
    )
    with _threads(threads), opened as run:
        if not ranks.first((folder / "DONE").exists()):  # another process may have finished it while we waited to open it
            result = stage.run(run)
            if isinstance(run, RunDirectory):
                run.finish(result)
    return folder


def _interval() -> float:
    """Seconds between resume points, as the environment says."""
    told = os.environ.get("SLUICEGATE_KEEP_SECONDS") or "20"
    try:
        seconds = float(told)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise UserError(f"SLUICEGATE_KEEP_SECONDS is {told!r}; it must be a number of seconds, 0 or more. Unset it for 20.")
    return seconds


def _world(stage: Stage, procs: int, shard: bool) -> int:
    """How many processes are to run the stage; `UserError` where it cannot be that many."""
    from sluicegate.runs.ranks import processes

    world = processes(procs)
    if world > 1 and not stage.TOGETHER:
        able = ", ".join(sorted(name for name, cls in stages().items() if cls.TOGETHER))
        raise UserError(f"{stage.VERB} runs in one process, and here there would be {world}. Several can work together on: {able}.")
    if shard and world == 1:
        raise UserError(ALONE_SHARDED)
    objective = getattr(stage, "objective", None)
    if shard and not getattr(objective, "SHARDS", True):
        raise UserError(f"the method {stage.method!r} swaps whole weights in, which a divided model cannot do. Leave --shard out.")
    return world


def _settled(stage: Stage, ranks: "Ranks", out: Path, exact: bool) -> tuple[Stage, Path, str, dict[str, str]]:
    """The stage resolved, and `home_of`'s answer for it; `UserError` in all processes where they do not agree."""
    if ranks.world == 1:
        stage = stage.resolved()
        return stage, *home_of(stage, out, exact=exact)
    from importlib.metadata import version

    home = None
    told: dict[str, Any] = {"error": "", "hash": "", "versions": {n: version(n) for n in ("sluicegate", "torch")}, "shard": ranks.shard}
    try:
        stage = stage.resolved()
        home = home_of(stage, out, exact=exact)
        parents = home[2]
        content = {name: value for name, value in stage.config().items() if name not in parents}
        told |= {"hash": identify(stage, parents), "settings": content, "content": parents}
    except UserError as error:
        told["error"] = str(error)
    everyone = ranks.gather(told)
    for rank, other in enumerate(everyone):
        if other["error"]:
            raise UserError(other["error"] if all(o["error"] for o in everyone) else f"process {rank} of {ranks.world}: {other['error']}")
    for rank, other in enumerate(everyone):
        for what in ("versions", "shard", "settings", "content", "hash"):
            if other[what] != everyone[0][what]:
                raise UserError(f"the processes do not agree: {_difference(what, everyone[0][what], other[what], rank)} Start all alike.")
    # Rank 0 says where: another process might look at the folder before, or after, it was made.
    return stage, *ranks.first(home)


def _difference(what: str, first: Any, other: Any, rank: int) -> str:
    if not isinstance(first, dict):
        return f"{what} is {first!r} in process 0 and {other!r} in process {rank}."
    name = next(n for n in sorted({*first, *other}) if first.get(n) != other.get(n))
    if what == "content":
        return f"what --{name} names holds other content in process 0 than in process {rank}."
    return f"{name} is {first.get(name)!r} in process 0 and {other.get(name)!r} in process {rank}."


@contextmanager
def _opened(ranks: "Ranks", folder: Path, *, title: str, **how: Any) -> "Iterator[RunContext]":
    """The run folder, held by the process that leads; the others get a room in which nothing is kept."""
    with ExitStack() as stack:
        run, error = RunContext(title), None
        try:
            if ranks.leads:
                run = stack.enter_context(open_run(folder, title=title, **how))
        except (UserError, OSError) as caught:
            error = caught
        if error := ranks.first(error):
            raise error
        run.path, run.ranks = folder, ranks
        yield run


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
