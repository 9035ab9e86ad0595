"""Experiments: the arms of a recipe, run over seeds, each attacked, and gathered into one table."""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from sluicegate.errors import UserError
from sluicegate.execution.jobs import Executor, Job, run_jobs
from sluicegate.execution.local import LocalPool
from sluicegate.experiments.claims import Checked, check, shares
from sluicegate.experiments.recipe import OF_MODELS, PROBED, Recipe, references
from sluicegate.runs.arm import Arm
from sluicegate.runs.directory import Progress, result_of, write_atomic
from sluicegate.runs.stage import Stage, from_config
from sluicegate.values.files import read_json, reading
from sluicegate.values.statistics import Estimate


@dataclass(frozen=True)
class Outcome:
    """A finished experiment: the recipe and every arm over all seeds."""

    recipe: Recipe
    seeds: tuple[int, ...]
    arms: Mapping[str, Arm]

    @property
    def level(self) -> float:
        """Recall up to which savings are counted: the recipe's, or halfway to the reference's highest."""
        return self.recipe.level or (self.reference.owned.halfway() if self.reference else 0.5)

    @property
    def reference(self) -> Arm | None:
        """The reference arm where it was attacked, so that others can be compared with it."""
        reference = self.arms.get(self.recipe.reference)
        return reference if reference is not None and reference.attacks else None

    def savings(self, arm: str) -> Estimate | None:
        """Savings of an arm against the reference; None without an attack, or without a reference that has to learn."""
        if self.reference is None or not self.arms[arm].attacks or self._reference_knows():
            return None
        return self.arms[arm].owned.savings(self.reference.owned, self.level)

    def _reference_knows(self) -> bool:
        """Whether the reference already recalls the level before any attack, on some seed."""
        return self.reference is not None and min(self.reference.owned.effort_to(self.level)) <= 0

    def warnings(self) -> list[str]:
        """Everything that weakens a number in the table, each said once with the arms and seeds that it holds for."""
        by_text: dict[str, dict[str, list[str]]] = {}
        for name, arm in self.arms.items():
            for seed in self.seeds:
                lost = [measure for measure, value in arm.results[seed].get("measures", {}).items() if value is None]
                for measure in lost:
                    by_text.setdefault(f"{measure} came out as no finite number", {}).setdefault(name, []).append(str(seed))
                said = [*arm.results[seed].get("warnings", ()), *(arm.attacks[seed]["warnings"] if seed in arm.attacks else ())]
                if arm.results[seed].get("reached") is False:
                    said.append("the student did not reach its stop score within its steps")
                for text in said:
                    by_text.setdefault(text.rstrip("."), {}).setdefault(name, []).append(str(seed))
        where = {text: [f"{name} (seed {', '.join(seeds)})" for name, seeds in arms.items()] for text, arms in by_text.items()}
        found = [f"{text}: {', '.join(arms)}." for text, arms in where.items()]
        if self._reference_knows():
            known = f"recalls {self.level:.0%} before any attack"
            found.insert(0, f"the reference {self.recipe.reference!r} {known}: there are no savings.")
        return found

    def numbers(self, arm: str) -> dict[str, list[float]]:
        """What claims can say of an arm, one number a seed: NaN where a seed has none."""
        nothing = [math.nan] * len(self.seeds)
        known = self.recipe.measures_of(arm)
        if self.recipe.is_trial:
            return {measure: self.arms[arm].measured(measure) or nothing for measure in known}
        found = self._of_model(self.arms[arm])
        return {measure: found.get(measure, nothing) for measure in known}

    def _of_model(self, arm: Arm) -> dict[str, list[float]]:
        """The numbers of a model that is attacked (see `recipe.OF_MODELS`), as far as they were measured."""
        results = [arm.results[seed] for seed in self.seeds]
        found: dict[str, list[float]] = {"flops": [arm.flops[seed] for seed in self.seeds]}
        for name, group, measure in (
            ("retain", "retain", arm.by),
            ("forget", "forget", arm.by),
            ("loss", "forget", "loss"),
            ("probability", "forget", "probability"),
        ):
            found[name] = [float(r.get("scores", {}).get(group, {}).get(measure, math.nan)) for r in results]
        for name, missing in (("steps", math.nan), ("divergence", math.nan), ("reached", True)):
            found[name] = [float(r.get(name, missing)) for r in results]
        of_benchmark = [r.get("benchmark", {}).get("numbers", {}) for r in results]
        found |= {name: [float(numbers.get(name, math.nan)) for numbers in of_benchmark] for name in of_benchmark[0]}
        if arm.attacks:
            found |= _probed(arm)
        if arm.attacks and self.reference and not self._reference_knows():
            saved = savings_by_seed(arm, self.reference, self.level)
            found["savings"] = [saved.get(seed, math.nan) for seed in self.seeds]
        return found

    def checked(self) -> list[Checked]:
        """The recipe's claims, each tested on every seed."""
        values = {name: self.numbers(name) for name in self.arms} if self.recipe.claims else {}
        within = shares(self.recipe.measures() or OF_MODELS)
        return [check(claim, values, within) for claim in self.recipe.claims]

    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        claims = [{"says": c.says, "test": c.test, "holds": list(c.holds)} for c in self.checked()]
        if self.recipe.is_trial:
            return {"seeds": list(self.seeds), "arms": {name: self._measured(name) for name in self.recipe.trials}, "claims": claims}
        arms: dict[str, Any] = {}
        for name, arm in self.arms.items():
            row: dict[str, Any] = {group: arm.scores(group) for group in ("retain", "forget")}
            if arm.attacks:
                row |= _probed(arm)
                savings = self.savings(name)
                row["savings"] = savings.as_list() if savings else None
            row["flops"] = [arm.flops[seed] for seed in self.seeds]
            row["steps"] = [arm.results[seed]["steps"] for seed in self.seeds]
            arms[name] = row
        return {"seeds": list(self.seeds), "arms": arms} | ({"claims": claims} if claims else {})

    def _measured(self, arm: str) -> dict[str, list[float | None]]:
        """What a trial measured, one number a seed: None where it has none, since JSON has no NaN."""
        found = {measure: self.arms[arm].measured(measure) for measure in self.recipe.measures_of(arm)}
        return {measure: [v if math.isfinite(v) else None for v in values] for measure, values in found.items() if values}


def _probed(arm: Arm) -> dict[str, list[float]]:
    """What is read off an attack's curves (see `recipe.PROBED`), as far as it went: one recall a seed."""
    probes = [(label, arm.owned if label.startswith("A") else arm.held_out, int(label[2:])) for label in PROBED]
    return {label: list(curve.per_seed(effort)) for label, curve, effort in probes if effort <= curve.budget}


def savings_by_seed(arm: Arm, reference: Arm, level: float) -> dict[int, float]:
    """Savings of each seed alone, for paired comparisons between arms; empty where they are not defined."""
    mine, theirs = ({c.seeds[0]: c for c in one.owned.by_seed()} for one in (arm, reference))
    try:
        return {seed: curve.savings(theirs[seed], level).mean for seed, curve in mine.items() if seed in theirs}
    except UserError:
        return {}


def run_recipe(
    recipe: Recipe,
    out: Path,
    seeds: Sequence[int],
    *,
    stages: Path | None = None,
    workers: int = 0,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Run every arm over the seeds, attack each, and gather what they found.

    Stages run where the `executor` says, by default in `workers` local processes. Run folders lie in `stages` (by
    default `out`); finished ones are found again. Writes summary.json, and experiment.json for `load_outcome`.
    """
    folders = run_jobs(jobs_of(recipe, stages or out, seeds), executor or LocalPool(workers), progress)
    return write_down(recipe, out, seeds, folders)


def write_down(recipe: Recipe, out: Path, seeds: Sequence[int], folders: Mapping[str, Path]) -> Outcome:
    """Gather what the finished run folders found, and write it into `out` (see `run_recipe`)."""
    out.mkdir(parents=True, exist_ok=True)
    outcome = gather(recipe, seeds, folders)
    places = {key: os.path.relpath(path, out) for key, path in folders.items()}
    write_atomic(out / "experiment.json", json.dumps({"recipe": asdict(recipe), "seeds": list(seeds), "folders": places}, indent=1))
    write_atomic(out / "summary.json", json.dumps(outcome.summary(), indent=1))
    return outcome


def load_outcome(folder: Path) -> Outcome:
    """Read a finished experiment back from its folder; raises `UserError` where there is none."""
    file = folder / "experiment.json"
    if not file.exists():
        raise UserError(f"{str(folder)!r} holds no finished experiment (no experiment.json). Run its recipe again: it resumes.")
    with reading(file, "Run its recipe again: it resumes, and writes this file anew."):
        content = read_json(file)
        recipe, seeds = Recipe(**content["recipe"]), [int(seed) for seed in content["seeds"]]
        folders = {str(key): folder / str(place) for key, place in content["folders"].items()}
    return gather(recipe, seeds, folders)


def jobs_of(recipe: Recipe, folder: Path, seeds: Sequence[int]) -> list[Job]:
    """Every stage as a job in `folder`: models before attacks, which are many, short, and fill the cores."""

    def job(title: str, settings: Callable[..., dict[str, Any]], arm: str, seed: int, needs: Iterable[str]) -> Job:
        keys = {other: f"{other} seed {seed}" for other in needs}

        def stage(done: Mapping[str, Path]) -> Stage:
            return from_config(settings(arm, seed, {other: done[key] for other, key in keys.items()}))

        return Job(f"{title}{arm} seed {seed}", tuple(keys.values()), stage, folder)

    models, attacks = [], []
    for arm, seed in product(recipe.arms, seeds):
        others = references(recipe.arms[arm]).values()
        models.append(job("", recipe.stage_settings, arm, seed, others))
        if recipe.attack:
            attacks.append(job("attack on ", recipe.attack_settings, arm, seed, (arm, *others)))
    return models + attacks


def gather(recipe: Recipe, seeds: Sequence[int], folders: Mapping[str, Path]) -> Outcome:
    """Read what finished run folders found into one outcome."""
    spent = {key: float(result_of(path)["flops"]["total"]) for key, path in folders.items() if not key.startswith("attack on ")}
    arms = {}
    for name in recipe.arms:
        counted = [a for a in recipe.ancestors(name) if a != recipe.pretrained or name == recipe.pretrained]
        keys = {seed: f"{name} seed {seed}" for seed in seeds}
        arms[name] = Arm(
            name,
            {seed: result_of(folders[key]) for seed, key in keys.items()},
            {seed: result_of(folders[f"attack on {key}"]) for seed, key in keys.items() if recipe.attack},
            {seed: sum(spent[f"{a} seed {seed}"] for a in counted) for seed in seeds},
            {seed: folders[key] for seed, key in keys.items()},
        )
    return Outcome(recipe, tuple(seeds), arms)
