"""Claims and numbers of an experiment as Markdown tables, of trials and of models that are attacked alike."""

import math
from collections.abc import Sequence
from typing import Any

from sluicegate.experiments.claims import Checked, Side
from sluicegate.experiments.experiment import Outcome
from sluicegate.report.formatting import written
from sluicegate.values.statistics import Estimate, estimate


def claims_shown(checked: Sequence[Checked]) -> list[dict[str, Any]]:
    """What the HTML pages show of claims: each with its comparisons in words."""
    return [
        {"claim": c, "sides": [" ".join((_side(x.left, len(c.holds)), x.sign, _side(x.right, len(c.holds)))) for x in c.comparisons]}
        for c in checked
    ]


def _side(side: Side, seeds: int) -> str:
    """The expression and its number, in which a name stands out; a plain number stands for itself."""
    text, number = side.written, written(side.value, "measure")
    if is_number(text):
        return f"{float(text):g}"
    found = f"{number.value}" if number else "not measured"
    return f"{text} = {found}" + (f" [{number.interval}]" if number.interval else "") + _few(side, seeds)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _few(side: Side, seeds: int) -> str:
    return f" on {side.value.n} of {seeds} seeds" if 0 < side.value.n < seeds else ""


def claims_table(checked: Sequence[Checked]) -> str:
    """Claim, source, what was found here, what it is set against, verdict: one row for each comparison of a claim."""
    lines = ["| claim | source | here | control | verdict |", "|---|---|---|---|---|"]
    for claim in checked:
        n = len(claim.holds)
        for k, compared in enumerate(claim.comparisons):
            head = (claim.says, claim.source) if k == 0 else ("", "")
            control = compared.right
            if is_number(control.written):
                against = f"{compared.sign} {float(control.written):g}"
            else:
                number = written(control.value, "measure").value or "not measured"
                against = f"{compared.sign} {control.written} = {number}{_few(control, n)}"
            cells = (*head, _side(compared.left, n), against, claim.verdict if k == 0 else "")
            lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines)


def measured(outcome: Outcome) -> list[str]:
    """The measures that some arm has a number of."""
    recipe = outcome.recipe
    known = dict.fromkeys(measure for arm in recipe.arms for measure in recipe.measures_of(arm))
    return [name for name in known if any(_numbers(outcome, arm, name) for arm in recipe.arms)]


def _numbers(outcome: Outcome, arm: str, measure: str) -> list[float]:
    """An arm's number on the seeds that have one."""
    return [value for value in outcome.numbers(arm).get(measure, ()) if math.isfinite(value)]


def of_seeds(found: Estimate | None, outcome: Outcome) -> str:
    """A note where only some seeds have the number."""
    return f"{found.n} of {len(outcome.seeds)} seeds" if found is not None and found.n < len(outcome.seeds) else ""


def cell(outcome: Outcome, arm: str, measure: str) -> str:
    """An arm's mean over seeds with its interval; empty where no seed has a number."""
    values = _numbers(outcome, arm, measure)
    found = estimate(values) if values else None
    return " ".join(filter(None, (str(written(found, "measure")), of_seeds(found, outcome))))


def arms_table(outcome: Outcome) -> str:
    """Arms against measures: means over seeds with their intervals."""
    shown = measured(outcome)
    lines = ["| arm | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for name in outcome.recipe.trials or outcome.recipe.arms:
        lines.append(f"| {name} | " + " | ".join(cell(outcome, name, m) or "–" for m in shown) + " |")
    return "\n".join(lines)
