"""The pages: what goes into the templates, and the writing of the file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sluicegate.experiments import pareto, trial_page
from sluicegate.experiments.experiment import Outcome
from sluicegate.experiments.recipe import Recipe
from sluicegate.experiments.repeat import on_every_page
from sluicegate.experiments.rows import rows, savings_problem
from sluicegate.experiments.verdicts import losses_against_reference, verdicts
from sluicegate.report import charts
from sluicegate.report.arms import PROBES, Row, curve_pictures, groups, retain_table
from sluicegate.report.charts import Point
from sluicegate.report.figures import DASHES, Series
from sluicegate.report.formatting import percent
from sluicegate.report.html import Link, render, write_page
from sluicegate.runs.stage import stages
from sluicegate.values.statistics import Estimate

_DIAL_SHADES = 5


def report_experiment(outcome: Outcome, path: Path, beside: Sequence[Link] = ()) -> Path:
    """Write an experiment's page, one file, and return its `path`; `beside` are pages to name at its end."""
    if outcome.recipe.is_trial:
        return trial_page.write(outcome, path)
    recipe, table = outcome.recipe, rows(outcome)
    looks = _looks(table)
    attacked = [name for name, arm in outcome.arms.items() if arm.attacks]
    page = render(
        "experiments/experiment.html",
        verdicts=verdicts(outcome),
        rows=table,
        looks=looks,
        probes=[label for label, _, _ in PROBES if any(row.at[label] for row in table)],
        attack=_attack_in_words(outcome) if attacked else "",
        no_savings=savings_problem(outcome),
        level=outcome.level,
        curves=curve_pictures(
            "", {name: outcome.arms[name] for name in attacked}, looks, outcome.level if any(row.savings for row in table) else None
        ),
        dial=_dial(outcome, table, looks),
        forest=_forest(table, looks, recipe),
        pareto=pareto.pictures(outcome, table, looks),
        bars=_bars(table, looks, recipe),
        losses=losses_against_reference(outcome),
        groups=groups(table),
        left=retain_table(outcome.arms),
        beside=beside,
        **on_every_page(outcome),
    )
    return write_page(path, page)


def _looks(table: Sequence[Row]) -> dict[str, Series]:
    """Colour by what an arm stands for; arms of one kind differ by dashes, those on the dial by shade."""
    looks: dict[str, Series] = {}
    seen: dict[str, int] = {}
    dial = sorted((row for row in table if row.role == "dial"), key=lambda row: row.alpha or 0.0)
    for i, row in enumerate(table):
        n = seen[row.role] = seen.get(row.role, -1) + 1
        colour = str(row.role)
        dash = DASHES[n % len(DASHES)]
        if row.role == "dial":
            rank = dial.index(row)
            colour = f"dial-{round(rank * (_DIAL_SHADES - 1) / max(1, len(dial) - 1)) + 1 if len(dial) > 1 else 3}"
            dash = DASHES[len(dial) - 1 - rank if len(dial) <= 3 else 0]
        looks[row.name] = Series(row.name, f"a{i}", colour, dash, row.role == "reference")
    return looks


def _dial(outcome: Outcome, table: Sequence[Row], looks: Mapping[str, Series]) -> dict[str, Any] | None:
    relative = any(row.relative for row in table)
    by_savings = any(row.savings for row in table)
    points = []
    for row in table:
        x = row.relative if relative else row.cost
        y = _one_minus(row.savings) if by_savings else _one_minus(row.at["A@10"])
        if row.role != "pretrained" and x and x.mean > 0 and y:
            points.append(Point(looks[row.name], x, y, row.alpha))
    if len(points) < 2:
        return None
    y_label = "robustness (1 \N{MINUS SIGN} savings)" if by_savings else "robustness (1 \N{MINUS SIGN} A@10)"
    x_label = "compute, as a multiple of the reference's" if relative else "compute, FLOPs"
    label = "Robustness against compute: " + ", ".join(f"{p.series.name} {p.y.mean:.2f} at {p.x.mean:.3g}" for p in points) + "."
    svg = charts.dial_picture("dial", label, points, x_label=x_label, y_label=y_label, relative=relative)
    return {"svg": svg, "by_savings": by_savings, "joined": sum(p.order is not None for p in points) > 1, "relative": relative}


def _one_minus(found: Estimate | None) -> Estimate | None:
    if found is None:
        return None
    turned = {"at least": "at most", "at most": "at least"}.get(found.bound, found.bound)
    return Estimate(1 - found.mean, 1 - found.high, 1 - found.low, found.n, turned)


def _forest(table: Sequence[Row], looks: Mapping[str, Series], recipe: Recipe) -> str:
    found = [(looks[row.name], row.savings) for row in table if row.savings and row.name not in (recipe.reference, recipe.pretrained)]
    if not found:
        return ""
    found.sort(key=lambda pair: pair[1].mean)
    label = "Savings: " + ", ".join(f"{series.name} {e}" for series, e in found) + "."
    return charts.forest_picture("forest", label, found, x_label="savings", ends=("never knew", "merely hidden"))


def _bars(table: Sequence[Row], looks: Mapping[str, Series], recipe: Recipe) -> str:
    reference = next((row.cost for row in table if row.role == "reference" and row.cost and row.cost.mean > 0), None)
    unit = reference.mean if reference else 1e9
    found = []
    for row in table:
        if row.cost and row.cost.mean > 0 and row.own and row.role != "pretrained":
            student, teacher = row.own["student"], row.own["teacher"]
            before = max(0.0, row.cost.mean - row.own["total"])
            found.append((looks[row.name], (before / unit, student / unit, teacher / unit)))
    if not found:
        return ""
    label = "FLOPs of every arm: what it was made from, its student, its teacher."
    x_label = "compute, as a multiple of the reference's" if reference else "compute, GFLOPs"
    return charts.bars_picture("ledger", label, found, ("part-before", "part-student", "part-teacher"), x_label=x_label)


def _attack_in_words(outcome: Outcome) -> str:
    known = {"lora_rank": 0, "keep_retain": 0.0, "round_bits": 0, **stages()["relearn"]().config(), **outcome.recipe.attack}
    data = {
        "forget": "a random half of the forget facts",
        "retain": "harmless retain rows only",
        "mixed": "a random half of the forget facts, mixed with as many retain rows",
    }.get(str(known["kind"]), str(known["kind"]))
    # What was tried counts, not what was asked for: rates may have been chosen by the model's width.
    tried = {float(rate) for arm in outcome.arms.values() for attack in arm.attacks.values() for rate in attack.get("by_rate", {})}
    rates = sorted(tried)
    weights = f"an adapter of rank {known['lora_rank']}" if known["lora_rank"] else "all parameters"
    what = f"The attack fine-tunes {weights} on {data}: {known['steps']} steps of {known['batch']} rows"
    more = ""
    if known["keep_retain"]:
        more += f" Only models that keep {percent(float(known['keep_retain']))} of their retain score count."
    if known["round_bits"]:
        more += f" Weights are first rounded to {known['round_bits']} bits and back, which is what step 0 shows."
    if len(rates) < 2:
        return what + (f" at learning rate {rates[0]:g}." if rates else ".") + more
    spread = f"under each of {len(rates)} learning rates from {rates[0]:g} to {rates[-1]:g}"
    return f"{what} {spread}; at every point the rate that serves the attacker best counts.{more}"
