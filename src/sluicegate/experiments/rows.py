"""One row an arm of an experiment: what it stands for, what it cost, what it saved."""

from typing import Any

from sluicegate.errors import UserError
from sluicegate.experiments.experiment import Outcome
from sluicegate.experiments.recipe import Recipe, references
from sluicegate.report.arms import Role, Row, group_scores, probes, read_toml
from sluicegate.runs.arm import Arm
from sluicegate.values.statistics import Estimate, estimate


def rows(outcome: Outcome) -> list[Row]:
    """Every arm of the experiment, in the recipe's order."""
    return [_row(outcome, name) for name in outcome.arms]


def _row(outcome: Outcome, name: str) -> Row:
    arm, recipe = outcome.arms[name], outcome.recipe
    first: Any = next(iter(arm.results.values()), {})
    settings = recipe.arms.get(name, {})
    verb = str(first.get("verb") or settings.get("verb", ""))
    cost = [arm.flops[s] for s in outcome.seeds if s in arm.flops]
    steps = [float(r["steps"]) for r in arm.results.values() if "steps" in r]
    return Row(
        name=name,
        role=role(recipe, name),
        verb=verb,
        method=str(first.get("method", "")),
        alpha=alpha(arm, recipe) if role(recipe, name) == "dial" else None,
        made_from=tuple(references(settings).items()),
        scores=group_scores(arm),
        at=probes(arm),
        savings=savings(outcome, name),
        steps=estimate(steps, at_least=0.0) if steps else None,
        cost=estimate(cost, at_least=0.0) if cost else None,
        relative=_relative(outcome, name),
        own=_own(arm),
        by=arm.by,
    )


def role(recipe: Recipe, name: str) -> Role:
    """What an arm stands for, read off its verb and what it is made from, never off its name."""
    if name == recipe.reference:
        return "reference"
    if name == recipe.pretrained:
        return "pretrained"
    verb = recipe.arms[name].get("verb")
    if verb == "unlearn":
        return "suppressed"
    if verb == "undo":
        return "dial" if _is_plain(recipe, name) else "other"
    if verb == "distill":
        teacher = references(recipe.arms[name]).get("model")
        teachers = recipe.ancestors(teacher) if teacher else []
        if any(recipe.arms[a].get("verb") == "unlearn" for a in teachers):
            return "distilled"
        if recipe.reference in teachers:
            return "control"
    return "other"


def _is_plain(recipe: Recipe, name: str) -> bool:
    """Whether an arm of undo differs from its like by alpha alone, so that it has a place on the dial."""
    settings = recipe.arms[name]
    teacher = references(settings).get("model")
    again = teacher and recipe.arms[teacher].get("verb") == "undo"
    return not again and settings.get("aim", "all") == "all" and not settings.get("match_hidden")


def alpha(arm: Arm, recipe: Recipe) -> float | None:
    """The alpha that a budget chose (mean over seeds), else the run's own; without the folder, the recipe's."""
    chosen = [float(result["alpha"]) for result in arm.results.values() if "alpha" in result]
    if chosen:
        return sum(chosen) / len(chosen)
    for folder in arm.folders.values():
        config = read_toml(folder / "config.toml")
        if "alpha" in config:
            return float(config["alpha"])
    written = recipe.arms.get(arm.name, {}).get("alpha", recipe.common.get("alpha"))
    return None if written is None else float(written)


def savings(outcome: Outcome, name: str) -> Estimate | None:
    """Savings against the reference, None where they are not defined (see `savings_problem`)."""
    try:
        return outcome.savings(name)
    except UserError:
        return None


def savings_problem(outcome: Outcome) -> str:
    """Why there are no savings although there is a reference; empty where nothing is wrong."""
    try:
        if reference := outcome.reference:
            for arm in outcome.arms.values():
                arm.owned.savings(reference.owned, outcome.level)
    except UserError as error:
        return str(error)
    return ""


def paired(first: dict[int, float], second: dict[int, float]) -> Estimate | None:
    """Mean of first - second over the seeds that both have."""
    shared = [seed for seed in first if seed in second]
    return estimate([first[seed] - second[seed] for seed in shared]) if shared else None


def _relative(outcome: Outcome, name: str) -> Estimate | None:
    reference = outcome.arms.get(outcome.recipe.reference)
    if reference is None:
        return None
    mine, theirs = outcome.arms[name].flops, reference.flops
    ratios = [mine[s] / theirs[s] for s in outcome.seeds if s in mine and theirs.get(s, 0) > 0]
    return estimate(ratios, at_least=0.0) if ratios else None


def _own(arm: Arm) -> dict[str, float]:
    spent = [r["flops"] for r in arm.results.values() if "flops" in r]
    return {key: sum(float(s.get(key, 0)) for s in spent) / len(spent) for key in ("student", "teacher", "evaluation", "total") if spent}
