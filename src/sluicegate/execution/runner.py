"""The one way from words to finished runs: the dataclass of a stage is its command line."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluicegate.cli.command import parse, print_json, seeds_from
from sluicegate.cli.progress import watching
from sluicegate.errors import UserError
from sluicegate.execution.execute import ALONE_SHARDED
from sluicegate.execution.here import Here
from sluicegate.execution.jobs import Executor, Job, run_jobs
from sluicegate.execution.local import LocalPool
from sluicegate.execution.show import stage_results
from sluicegate.runs.directory import result_of
from sluicegate.runs.ranks import is_launched, launched, processes
from sluicegate.runs.stage import Stage, method_field


@dataclass(frozen=True)
class Common:
    """Options of every verb that measures."""

    out: str = ""
    """Folder of the results; the default is made from the settings, under runs/."""
    seeds: int = 1
    """Run this many seeds, from --seed on, side by side; each gets a folder seed-N in --out."""
    procs: int = 0
    """Processes that train each model together, every one a share of each step's rows; 0: one, or as many as torchrun
    started."""
    shard: bool = False
    """With --procs, divide weights and the optimiser's memory among the processes (FSDP2) instead of keeping them whole
    in each."""
    json: bool = False
    """Print one JSON object with the metrics as the last line."""


Shown = Callable[[Sequence[int], Sequence[dict[str, Any]], Sequence[Path]], Mapping[str, Any]]
"""Prints seeds, results and run folders of finished stages; what it returns is added to the line of JSON."""


def run_stage(cls: type[Stage], words: list[str], name: str = "", show: Shown = stage_results, chosen: str = "--method") -> int:
    """Run one stage from the command line, for one seed or several; `name` is the verb as it was called, and `chosen`
    what it says of how its method is chosen."""
    name = name or cls.VERB
    description = (cls.__doc__ or "").strip()
    kind = None
    if known := cls.methods():
        kind, words = _method_of(cls, words)
        description += f"\n\nThe method is chosen with {chosen}: {', '.join(sorted(known))}. Below are the settings with {kind.NAME}."
    stage, common = _read(cls, kind, name, words, description)
    seeds = seeds_from(stage.seed, common.seeds)  # type: ignore[attr-defined]
    each = {seed: dataclasses.replace(stage, seed=seed) for seed in seeds}  # type: ignore[call-arg]
    folders = run_seeds(each, Path(common.out or f"runs/{name.split()[0]}"), common)
    if is_follower():
        return 0
    results = [result_of(folder) for folder in folders]
    more = show(seeds, results, folders)
    world = processes(common.procs)
    if common.procs or is_launched():
        print(f"processes: {world}")
    if common.json:
        print_json({"seeds": seeds, "folders": [str(f) for f in folders], "results": results, "world_size": world, **more})
    return 0


def run_seeds(stages: Mapping[int, Stage], base: Path, common: Common, executor: Executor | None = None) -> list[Path]:
    """Run a stage of each seed and return their folders: here where there is one or several processes share each, else
    side by side.

    With ``common.out``, `base` is the run folder, or holds one a seed.
    """
    exact, world = bool(common.out), processes(common.procs)
    if common.shard and world == 1:
        raise UserError(ALONE_SHARDED)
    jobs = [
        Job(f"seed {seed}" if len(stages) > 1 else "", (), lambda done, stage=stage: stage, place, exact)  # type: ignore[misc]
        for seed, stage in stages.items()
        for place in (base / f"seed-{seed}" if exact and len(stages) > 1 else base,)
    ]
    if executor is None:
        executor = Here(common.procs, common.shard) if len(stages) == 1 or world > 1 else LocalPool()
    with watching() if not is_follower() else nullcontext() as progress:
        done = run_jobs(jobs, executor, progress)
    return [done[job.key] for job in jobs]


def is_follower() -> bool:
    """Whether a launcher started this process beside another one that speaks for both."""
    place = launched()
    return place is not None and place[0] > 0


def _read(cls: type[Stage], kind: type[Any] | None, name: str, words: list[str], description: str) -> tuple[Stage, Common]:
    """The stage and the common options that the words describe; `kind` is the class of the stage's method."""
    shown = cls
    if kind is not None:  # a class whose nested field has the settings of this method
        shown = dataclasses.make_dataclass(cls.__name__, [(method_field(cls), kind, kind())], bases=(cls,), frozen=True)
    command = dataclasses.make_dataclass(cls.VERB.replace("-", "_"), [("stage", shown, shown()), ("common", Common, Common())], frozen=True)
    parsed = parse(command, name, words, description)
    return cls(**{field.name: getattr(parsed.stage, field.name) for field in dataclasses.fields(cls)}), parsed.common


def _method_of(cls: type[Stage], words: list[str]) -> tuple[type[Any], list[str]]:
    """Take --method out of the words: which other options there are depends on it."""
    chosen, left = getattr(cls, method_field(cls)).NAME, []
    rest = iter(words)
    for word in rest:
        if word == "--method":
            chosen = next(rest, "")
        elif word.startswith("--method="):
            chosen = word.partition("=")[2]
        else:
            left.append(word)
    return cls.method_called(chosen), left
