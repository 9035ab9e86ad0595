"""sluicegate run, sweep, report: recipes over seeds and values, and their pages."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from sluicegate.cli.command import assignment, print_json, seeds_from, simple
from sluicegate.cli.progress import watching
from sluicegate.errors import UserError
from sluicegate.execution.jobs import Executor
from sluicegate.execution.runner import Common, is_follower, run_seeds
from sluicegate.execution.show import stage_results
from sluicegate.execution.where import Where
from sluicegate.experiments import show
from sluicegate.experiments.experiment import load_outcome, run_recipe
from sluicegate.experiments.recipe import load_recipe, override, titles
from sluicegate.experiments.sweep import combinations, run_sweep
from sluicegate.runs.directory import Progress, result_of
from sluicegate.runs.ranks import processes
from sluicegate.runs.stage import Stage, from_config
from sluicegate.values.files import read_toml


@dataclass(frozen=True)
class Run:
    """Run a recipe, or a single stage from its config.toml; what is finished is not run again.

    Without a name: list the packaged recipes."""

    recipe: Positional[str] = ""
    """A TOML file, the name of a packaged recipe, or a run's config.toml."""
    plan: bool = False
    """Show what the recipe is about, its arms and its claims, and run nothing."""
    seeds: int = 0
    """Number of seeds; 0: as many as the recipe says."""
    seed: int = 0
    """First seed."""
    out: str = ""
    """Folder of the results; default: runs/NAME."""
    set: tuple[str, ...] = ()
    """Settings to change, each ARM.FIELD=VALUE, attack.FIELD=VALUE or common.FIELD=VALUE."""
    where: Where = Where()
    procs: int = 0
    """For a single stage's config.toml: processes that train its model together; 0: one, or as many as torchrun
    started."""
    shard: bool = False
    """With --procs, divide weights and the optimiser's memory among the processes (FSDP2)."""
    json: bool = False
    """Print the summary as the last line."""

    def run(self) -> int:
        if not self.recipe:
            show.recipes(titles())
            if self.json:
                print_json({"recipes": titles()})
            return 0
        executor = self.where.executor()
        single = _single_stage(self.recipe)
        if single is not None:
            folder = self._single(single, executor)
            if is_follower():
                return 0
            stage_results([getattr(single, "seed", 0)], [result_of(folder)], [folder])
            if self.json:
                print_json(result_of(folder))
            return 0
        if processes(self.procs) > 1 or self.shard:
            raise UserError(
                "a recipe runs its stages side by side, each in one process (--workers). --procs and --shard are for one stage."
            )
        changes = dict(assignment(text) for text in self.set)
        if self.plan:
            show.plan(override(load_recipe(self.recipe), changes))
            return 0
        return run_and_report(self.recipe, (self.seed, self.seeds), self.out, executor, changes, self.json)

    def _single(self, stage: Stage, executor: Executor) -> Path:
        """Run one stage: here, by --procs processes, or on the cluster."""
        if self.where.on != "local" and (processes(self.procs) > 1 or self.shard):
            raise UserError(f"--procs and --shard start processes on this machine, and --on {self.where.on} runs each stage in one.")
        common = Common(out=self.out, procs=self.procs, shard=self.shard)
        return run_seeds({0: stage}, Path(self.out or "runs"), common, None if self.where.on == "local" else executor)[0]


@dataclass(frozen=True)
class Sweep:
    """Run a recipe once for every combination of values; stages that do not differ are shared."""

    recipe: Positional[str]
    """A TOML file, or the name of a packaged recipe."""
    over: tuple[str, ...]
    """Fields and their values, each PLACE.FIELD=[V1,V2,...]; PLACE is an arm, attack or common."""
    seeds: int = 0
    """Number of seeds; 0: as many as the recipe says."""
    seed: int = 0
    """First seed."""
    out: str = ""
    """Folder of the results; default: runs/NAME-sweep."""
    where: Where = Where()
    json: bool = False
    """Print all summaries as the last line."""

    def run(self) -> int:
        from sluicegate.experiments.page import report_experiment

        recipe = load_recipe(self.recipe)
        executor = self.where.executor()
        if not (axes := dict(assignment(text) for text in self.over)):
            raise UserError("--over is empty; name a setting and its values, for example --over 'undo_0.6.alpha=[0.2, 0.4]'.")
        folder = Path(self.out or f"runs/{recipe.name}-sweep")
        with watching() as progress:
            seeds = seeds_from(self.seed, self.seeds or recipe.seeds)
            outcomes = run_sweep(recipe, combinations(axes), folder, seeds, executor=executor, progress=progress)
        pages = [report_experiment(outcome, folder / f"variant-{n}" / "report.html") for n, (_, outcome) in enumerate(outcomes)]
        show.sweep(outcomes, pages)
        if self.json:
            print_json({"variants": [{"changes": changes, **outcome.summary()} for changes, outcome in outcomes]})
        return 0


def run_and_report(
    name: str,
    seeds: tuple[int, int],
    out: str,
    executor: Executor,
    changes: dict[str, Any],
    as_json: bool,
    drawing: Callable[[Progress], Path] | None = None,
    shown: tuple[str, str] = ("", ""),
) -> int:
    """Run a recipe, write its report, print its table; `drawing` makes a page that it links to as `shown`."""
    from sluicegate.experiments.page import report_experiment
    from sluicegate.report.html import Link

    recipe = override(load_recipe(name), changes)
    folder = Path(out or f"runs/{recipe.name}")
    with watching() as progress:
        outcome = run_recipe(recipe, folder, seeds_from(seeds[0], seeds[1] or recipe.seeds), executor=executor, progress=progress)
        drawn = drawing(progress) if drawing else None
    beside = [Link(drawn.relative_to(folder).as_posix(), *shown)] if drawn else []
    page = report_experiment(outcome, folder / "report.html", beside)
    show.outcome(outcome, folder, page)
    if drawn:
        print(f"page:    {drawn}")
    if as_json:
        print_json(outcome.summary())
    return 0


def _single_stage(source: str) -> Stage | None:
    """The stage of a config.toml, or None where the file is a recipe (or not a file at all)."""
    path = Path(source)
    if not path.is_file():
        return None
    content = read_toml(path)
    return from_config(content) if "verb" in content else None


@dataclass(frozen=True)
class Report:
    """Write the report of a finished experiment again."""

    folder: Positional[str] = "runs/undo-arithmetic"
    """Folder of the experiment (the one with experiment.json)."""
    out: str = ""
    """File to write; default: report.html in the folder."""
    claims: bool = False
    """Instead of the page, print as Markdown which of the recipe's claims hold, and the numbers."""

    def run(self) -> int:
        from sluicegate.experiments.markdown import arms_table, claims_table
        from sluicegate.experiments.page import report_experiment
        from sluicegate.experiments.repeat import command

        folder = Path(self.folder)
        outcome = load_outcome(folder)
        if self.claims:
            seeds = ", ".join(map(str, outcome.seeds))
            print(f"Command: `{command(outcome)}` (seeds {seeds}; intervals: 95 %, Student's t over seeds).\n")
            if outcome.recipe.claims:
                print(claims_table(outcome.checked()) + "\n")
            print(arms_table(outcome))
            return 0
        print(report_experiment(outcome, Path(self.out or folder / "report.html")))
        return 0


RUN = simple("run", Run, "runs and recipes")
SWEEP = simple("sweep", Sweep, "runs and recipes")
REPORT = simple("report", Report, "runs and recipes")
