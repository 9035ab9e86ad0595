"""What the page, the terminal and the sentences show: one row an arm, and how a number is written."""

import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from sluicegate.curves import Curve, Estimate, estimate
from sluicegate.errors import UserError
from sluicegate.experiment import Arm, Outcome
from sluicegate.recipe import Recipe

Role = Literal["reference", "pretrained", "suppressed", "distilled", "dial", "control", "other"]

PROBES = (("A@10", "owned", 10.0), ("A@30", "owned", 30.0), ("B@10", "held_out", 10.0), ("B@100", "held_out", 100.0))
"""The columns read off the curves: label, which facts, attack steps."""


@dataclass(frozen=True)
class Row:
    """One arm as the tables show it; None where it was not measured."""

    name: str
    role: Role
    verb: str
    method: str
    alpha: float | None
    """The noise dial's setting, where the arm has one."""
    made_from: tuple[tuple[str, str], ...]
    """(setting, other arm), for example ("model", "base")."""
    scores: dict[str, dict[str, Estimate]]
    """Group -> measure -> mean over seeds."""
    at: dict[str, Estimate | None]
    """A@10, A@30, B@100."""
    savings: Estimate | None
    steps: Estimate | None
    cost: Estimate | None
    """FLOPs from the pretrained model on."""
    relative: Estimate | None
    """The same as a multiple of the reference's, paired by seed."""
    own: dict[str, float] = field(default_factory=dict)
    """The stage's own FLOPs, mean over seeds: student, teacher, evaluation, total."""
    by: str = "exact"
    """What its scores are read by: exact answers, or on running text argmax, the tokens that are the first choice."""

    def score(self, group: str, measure: str = "") -> Estimate | None:
        return self.scores.get(group, {}).get(measure or self.by)


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
        made_from=tuple((key, str(value)[1:]) for key, value in settings.items() if isinstance(value, str) and value.startswith("@")),
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
        teachers = recipe.ancestors(str(recipe.arms[name].get("model", ""))[1:]) if _is_arm(recipe.arms[name].get("model")) else []
        if any(recipe.arms[a].get("verb") == "unlearn" for a in teachers):
            return "distilled"
        if recipe.reference in teachers:
            return "control"
    return "other"


def _is_plain(recipe: Recipe, name: str) -> bool:
    """Whether an arm of undo differs from its like by alpha alone, so that it has a place on the dial."""
    settings = recipe.arms[name]
    teacher = settings.get("model")
    again = _is_arm(teacher) and recipe.arms[str(teacher)[1:]].get("verb") == "undo"
    return not again and settings.get("aim", "all") == "all" and not settings.get("match_hidden")


def _is_arm(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("@")


def alpha(arm: Arm, recipe: Recipe) -> float | None:
    """The alpha that a budget chose (mean over seeds), else that in the run's config.toml; without the folder, the one in the recipe."""
    chosen = [float(result["alpha"]) for result in arm.results.values() if "alpha" in result]
    if chosen:
        return sum(chosen) / len(chosen)
    for folder in arm.folders.values():
        config = read_toml(folder / "config.toml")
        if "alpha" in config:
            return float(config["alpha"])
    written = recipe.arms.get(arm.name, {}).get("alpha", recipe.common.get("alpha"))
    return None if written is None else float(written)


def read_toml(path: Any) -> dict[str, Any]:
    """The content of a TOML file, empty where there is none to be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}


def group_scores(arm: Arm) -> dict[str, dict[str, Estimate]]:
    """Group -> measure -> mean over the seeds that have it."""
    found: dict[str, dict[str, list[float]]] = {}
    for result in arm.results.values():
        for group, scores in result.get("scores", {}).items():
            for measure, value in scores.items():
                found.setdefault(group, {}).setdefault(measure, []).append(float(value))
    return {
        group: {m: estimate(v, at_least=0.0, at_most=math.inf if m == "loss" else 1.0) for m, v in scores.items()}
        for group, scores in found.items()
    }


def probes(arm: Arm) -> dict[str, Estimate | None]:
    """A@10, A@30, B@100, or B@10 in its place under a shorter attack; None where it is shorter still, or there was none."""
    if not arm.attacks:
        return {label: None for label, _, _ in PROBES}
    curves: dict[str, Curve] = {"owned": arm.owned, "held_out": arm.held_out}
    found = {label: curves[which].at(x) if x <= curves[which].budget else None for label, which, x in PROBES}
    if found["B@100"]:
        found["B@10"] = None
    return found


def savings(outcome: Outcome, name: str) -> Estimate | None:
    """Savings against the reference, None where they are not defined (see `savings_problem`)."""
    try:
        return outcome.savings(name)
    except UserError:
        return None


def savings_problem(outcome: Outcome) -> str:
    """Why there are no savings although there is a reference; empty where nothing is wrong."""
    reference = outcome.arms.get(outcome.recipe.reference)
    if reference is None or not reference.attacks:
        return ""
    for arm in outcome.arms.values():
        try:
            arm.owned.savings(reference.owned, outcome.level)
        except UserError as error:
            return str(error)
    return ""


def savings_by_seed(arm: Arm, reference: Arm, level: float) -> dict[int, float]:
    """Savings of each seed alone, for paired comparisons between arms; empty where they are not defined."""
    theirs = _single(reference.owned)
    found = {}
    for seed, curve in _single(arm.owned).items():
        if seed in theirs:
            try:
                found[seed] = curve.savings(theirs[seed], level).mean
            except UserError:
                return {}
    return found


def _single(curve: Curve) -> dict[int, Curve]:
    each = zip(curve.seeds, curve.recall, strict=True)
    return {seed: Curve(curve.effort, (row,), (seed,), curve.unit, curve.attack) for seed, row in each}


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


# ------------------------------------------------------------------------------------- how numbers are written

MINUS = "\N{MINUS SIGN}"
THIN = "\N{NARROW NO-BREAK SPACE}"


def plain(value: float, digits: int = 2) -> str:
    """A number with a true minus sign and no minus before zero."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def share(value: float) -> str:
    """A share as a percentage: whole, with one digit where whole would round to all or nothing."""
    near_end = 0 < value < 0.0095 or 0.9905 < value < 1
    text = plain(100 * value, 1 if near_end else 0)
    return "100" if text == "100.0" else "0" if text == "0.0" else text


def percent(value: float) -> str:
    return f"{share(value)}{THIN}%"


def has_interval(found: Estimate) -> bool:
    return not (math.isnan(found.low) or math.isnan(found.high))


def times(value: float) -> str:
    """A multiple: three digits at most."""
    return f"{plain(value, 2 if value < 10 else 1 if value < 100 else 0)}×"


def flops(value: float) -> str:
    """FLOPs with a prefix: 159 G."""
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            scaled = value / size
            return f"{scaled:.{0 if scaled >= 99.95 else 1 if scaled >= 9.995 else 2}f}{THIN}{prefix}"
    return f"{value:.0f}"


BOUNDS = {"": "", "at least": "≥" + THIN, "at most": "≤" + THIN, "about": "≈" + THIN}


@dataclass(frozen=True)
class Written:
    """A number as a table cell shows it."""

    value: str
    interval: str = ""
    """Empty for one seed, and where it is narrower than the digits that are shown."""

    def __bool__(self) -> bool:
        return bool(self.value)

    def __str__(self) -> str:
        return f"{self.value} [{self.interval}]" if self.interval else self.value


NOTHING = Written("")


def count(value: float) -> str:
    return f"{value:.0f}"


_WRITERS: dict[str, Callable[[float], str]] = {"share": share, "plain": plain, "times": times, "flops": flops, "count": count}


def measure(size: float) -> Callable[[float], str]:
    """Writes numbers about as large as `size` with three digits that count: 0.0312, 4.28, 123."""
    if size and not 1e-4 <= abs(size) < 1e6:
        return lambda value: f"{value:.2e}".replace("-", MINUS)
    digits = 2 - math.floor(math.log10(abs(size))) if size else 2
    return partial(plain, digits=min(max(digits, 0), 6))


def written(found: Estimate | None, kind: Literal["share", "plain", "times", "flops", "count", "measure"] = "plain") -> Written:
    """Write an estimate in the way its kind is written; nothing for None."""
    if found is None or not math.isfinite(found.mean):
        return NOTHING
    one = measure(found.mean) if kind == "measure" else _WRITERS[kind]
    value = BOUNDS[found.bound] + (percent(found.mean) if kind == "share" else one(found.mean))
    low, high = (one(found.low), one(found.high)) if has_interval(found) else ("", "")
    return Written(value, f"{low.rstrip('×')} to {high}" if low != high else "")


def short(values: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, (", ".join(values[:-1]), values[-1]))) if values else ""
