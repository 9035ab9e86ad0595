"""Stages as verbs: the dataclass of a stage is its command line."""

import dataclasses
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluicegate.cli.command import parse, print_json, seeds_from
from sluicegate.cli.progress import watching
from sluicegate.errors import UserError
from sluicegate.execution.execute import ALONE_SHARDED, execute
from sluicegate.execution.show import stage_results
from sluicegate.runs.directory import result_of
from sluicegate.runs.ranks import is_launched, launched, processes
from sluicegate.runs.stage import Stage, stages
from sluicegate.tasks.stage import OnData


@dataclass(frozen=True)
class Common:
    """Options of every verb that measures."""

    out: str = ""
    """Folder of the results; the default is made from the settings, under runs/."""
    seeds: int = 1
    """Run this many seeds, from --seed on, side by side; each gets a folder seed-N in --out."""
    procs: int = 0
    """Processes that train each model together, every one a share of each step's rows; 0: one, or as many as torchrun started."""
    shard: bool = False
    """With --procs, divide weights and the optimiser's memory among the processes (FSDP2) instead of keeping them whole in each."""
    json: bool = False
    """Print one JSON object with the metrics as the last line."""


def run_stage(verb: str, words: list[str]) -> int:
    """Run one stage from the command line, for one seed or several."""
    cls: type[Stage] = stages()[verb]
    description = (cls.__doc__ or "").strip()
    if known := cls.methods():
        kind, words = _method_of(cls, words)
        cls = dataclasses.make_dataclass(cls.__name__, [("objective", kind, kind())], bases=(cls,), frozen=True)
        description += f"\n\nThe method is chosen with --method: {', '.join(sorted(known))}. Below are the settings with {kind.NAME}."
    command = dataclasses.make_dataclass(verb, [("stage", cls, cls()), ("common", Common, Common())], frozen=True)
    parsed = parse(command, verb, words, description)
    common: Common = parsed.common
    stage: OnData = parsed.stage
    seeds = seeds_from(stage.seed, common.seeds)
    base = Path(common.out or f"runs/{verb}")
    world, exact = processes(common.procs), bool(common.out)
    place = {seed: base / f"seed-{seed}" if exact and len(seeds) > 1 else base for seed in seeds}
    if len(seeds) == 1 or world > 1:
        folders = [together(dataclasses.replace(stage, seed=seed), place[seed], exact, common.procs, common.shard) for seed in seeds]
    elif common.shard:
        raise UserError(ALONE_SHARDED)
    else:
        from sluicegate.execution.jobs import Job, run_jobs
        from sluicegate.execution.local import LocalPool

        jobs = [
            Job(f"seed {seed}", (), lambda done, seed=seed: {**stage.config(), "seed": seed}, place[seed], exact=bool(common.out))  # type: ignore[misc]
            for seed in seeds
        ]
        with watching() as progress:
            done = run_jobs(jobs, LocalPool(), progress)
        folders = [done[job.key] for job in jobs]
    if is_follower():
        return 0
    results = [result_of(folder) for folder in folders]
    stage_results(seeds, results, folders)
    if common.procs or is_launched():
        print(f"processes: {world}")
    if common.json:
        print_json({"seeds": seeds, "folders": [str(f) for f in folders], "results": results, "world_size": world})
    return 0


def together(stage: Stage, out: Path, exact: bool, procs: int, shard: bool) -> Path:
    """Execute a stage, with several processes where that is asked for; only one of them shows progress."""
    with watching() if not is_follower() else nullcontext() as progress:
        return execute(stage, out, exact=exact, progress=progress, procs=procs, shard=shard)


def is_follower() -> bool:
    """Whether a launcher started this process beside another one that speaks for both."""
    place = launched()
    return place is not None and place[0] > 0


def _method_of(cls: type[Stage], words: list[str]) -> tuple[type[Any], list[str]]:
    """Take --method out of the words: which other options there are depends on it."""
    chosen, left = "maxent", []
    rest = iter(words)
    for word in rest:
        if word == "--method":
            chosen = next(rest, "")
        elif word.startswith("--method="):
            chosen = word.partition("=")[2]
        else:
            left.append(word)
    return cls.method_called(chosen), left
