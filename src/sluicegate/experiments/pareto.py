"""Cost against what comes back, every arm on one picture, with the never-knew model's budgets as lines.

Fresh training can be cut short too, and is then cheaper: so its cost is counted three times, at its full schedule, when
it first had 95 % of its own final retain score, and when it first had what the students stop at. The latter two need
its course (`check_every` of its stage).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sluicegate.experiments.experiment import Outcome
from sluicegate.experiments.recipe import references
from sluicegate.report.arms import Row
from sluicegate.report.charts import Point, draw_point, label_points
from sluicegate.report.figures import Series, draw_picture, set_cost_axis, set_shares_axis
from sluicegate.report.formatting import plain, short
from sluicegate.values.statistics import Estimate, estimate

SHARE = 0.95
"""Of the retain score at which a student stops, and at which training might have."""
NEAR = {"A@10": 0.05, "B@100": 0.08}
"""How far above the reference's a recall may be to count as its robustness."""
CHEAP = 0.8
"""Share of the reference's cost that would be a saving."""


@dataclass(frozen=True)
class Budget:
    """One way to count what the reference costs, as a share of its full schedule."""

    words: str
    cost: Estimate | None
    """Over the seeds on which it got there; None where that is not known, or was on no seed."""
    missed: int = 0
    """Seeds on which it did not get there within its schedule."""


def budgets(outcome: Outcome) -> list[Budget]:
    """The three budgets of the reference."""
    reference = outcome.arms[outcome.recipe.reference]
    found = [Budget("its full schedule", estimate([1.0] * len(outcome.seeds)))]
    teacher = _teacher(outcome)
    for words, target in (
        ("to 95 % of its own retain score", lambda seed, course: SHARE * course[-1][1]),
        ("to the students' retain score", lambda seed, course: SHARE * teacher[seed] if seed in teacher else math.inf),
    ):
        shares, missed = [], 0
        for seed, result in reference.results.items():
            course = result.get("course")
            if not course:
                continue
            first = next((step for step, score in course if score >= target(seed, course)), None)
            if first is None:
                missed += 1
            else:
                shares.append(first / result["steps"])
        found.append(Budget(words, estimate(shares) if shares else None, missed))
    return found


def _teacher(outcome: Outcome) -> dict[int, float]:
    """By seed, the retain score of the suppressed model that most arms are distilled from."""
    recipe = outcome.recipe
    taught = [references(arm).get("model") for arm in recipe.arms.values() if arm.get("verb") in ("distill", "undo")]
    suppressed = [name for name in taught if name and recipe.arms[name].get("verb") == "unlearn"]
    if not suppressed:
        return {}
    arm = outcome.arms[max(suppressed, key=suppressed.count)]
    return {seed: float(result["scores"]["retain"][arm.by]) for seed, result in arm.results.items() if "retain" in result["scores"]}


def pictures(outcome: Outcome, table: Sequence[Row], looks: Mapping[str, Series]) -> list[dict[str, Any]]:
    """Title, note and SVG of every picture of this kind in the recipe."""
    found = []
    for number, picture in enumerate(outcome.recipe.pictures):
        y = str(picture["y"])
        chosen = [row for row in table if row.name in picture.get("arms", outcome.recipe.arms)]
        svg = _picture(f"pareto-{number}", outcome, chosen, looks, y)
        if svg:
            notes = [str(picture.get("note", "")), *conclusion(outcome, table)]
            found.append({"title": str(picture.get("title", "")) or f"Cost and {y}", "note": " ".join(filter(None, notes)), "svg": svg})
    return found


def conclusion(outcome: Outcome, table: Sequence[Row]) -> list[str]:
    """Which arms have the reference's robustness at less than its cost, counted against each of its budgets."""
    own = next(row for row in table if row.role == "reference")
    said = []
    measured = {label: found.mean for label in NEAR if (found := own.at.get(label))}
    if len(measured) < len(NEAR):
        return ["The attack was too short to tell whether any arm is as robust as the reference."]
    robust = [row for row in table if all((at := row.at.get(label)) and at.mean <= measured[label] + NEAR[label] for label in NEAR)]
    reached = [row for row in robust if row.role in ("distilled", "dial", "other") and row.relative]
    margins = " and ".join(f"{label} within {plain(margin)}" for label, margin in NEAR.items())
    for budget in budgets(outcome):
        if budget.cost is None:
            said.append(f"What the reference costs {budget.words} is not known." if not budget.missed else f"It never came {budget.words}.")
            continue
        names = [row.name for row in reached if row.relative and row.relative.mean <= CHEAP * budget.cost.mean]
        dear = f"{CHEAP:.0%} of the reference's cost {'' if 'full' not in budget.words else 'at '}{budget.words}"
        said.append(f"As robust as the reference ({margins}) at {dear} or less: {short(names) if names else 'none'}.")
    return said


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other is both cheaper and lower than, by cost."""
    best, kept = math.inf, []
    for point in sorted(points, key=lambda p: (p.x.mean, p.y.mean)):
        if point.y.mean < best:
            best = point.y.mean
            kept.append(point)
    return kept


def _apart(places: Sequence[float], least: float) -> list[tuple[str, float]]:
    """Numbers from 1 to write above lines at these places of a log axis, together where they would overlap."""
    found: list[tuple[list[int], list[float]]] = []
    for number, place in sorted(enumerate(places, 1), key=lambda both: both[1]):
        if found and math.log(place / found[-1][1][-1]) < least:
            found[-1][0].append(number)
            found[-1][1].append(place)
        else:
            found.append(([number], [place]))
    return [(", ".join(map(str, sorted(numbers))), math.exp(sum(map(math.log, at)) / len(at))) for numbers, at in found]


def _picture(name: str, outcome: Outcome, table: Sequence[Row], looks: Mapping[str, Series], y: str) -> str:
    points = [
        Point(looks[row.name], row.relative, at)
        for row in table
        if row.role != "pretrained" and row.relative and row.relative.mean > 0 and (at := row.at.get(y))
    ]
    if len(points) < 2:
        return ""
    lines = [(budget, budget.cost.mean) for budget in budgets(outcome) if budget.cost]
    reference = next((p for p in points if p.series.strong), None)
    label = f"{y} against compute: " + ", ".join(f"{p.series.name} {p.y.mean:.2f} at {p.x.mean:.3g}" for p in points)
    label += ". The reference's cost: " + ", ".join(f"{budget.words} {at:.2f}" for budget, at in lines) + "."
    with draw_picture(name, label, 400, left=60, right=16, top=30, bottom=48) as picture:
        axes = picture.axes
        xs = [p.x.mean for p in points] + [at for _, at in lines]
        low, high = min(xs) / 1.5, max(xs) * 2.1
        set_cost_axis(axes, low, high, lambda v: f"{v:g}×")
        set_shares_axis(axes.yaxis)
        axes.set_ylim(-0.05, 1.05)
        for number, (_, place) in enumerate(lines):
            dashes = ((8, 0.001), (5, 3), (1, 2))[number % 3]
            axes.axvline(place, color=picture.paint("reference"), lw=1.0, dashes=dashes, zorder=1)
        for numbers, place in _apart([at for _, at in lines], math.log(high / low) / 20):
            fraction = ("data", "axes fraction")
            axes.annotate(numbers, (place, 1), xycoords=fraction, xytext=(0, 5), textcoords="offset points", ha="center", fontsize=8.5)
        picture.mark(y=reference.y.mean if reference else None, lw=1.0, colour="reference")
        best = front([p for p in points if not p.series.strong])
        axes.step([p.x.mean for p in best], [p.y.mean for p in best], where="post", color=picture.paint("faint"), lw=1.2, zorder=2)
        for p in points:
            draw_point(picture, p)
        picture.label("compute, as a multiple of the reference's", f"{y} (lower is better)")
        label_points(picture, points)
    return picture.svg
