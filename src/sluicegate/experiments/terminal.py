"""The experiment's table for a terminal of 100 columns."""

from rich.table import Table
from rich.text import Text

from sluicegate.cli.terminal import seeds_table
from sluicegate.experiments.claims import names
from sluicegate.experiments.experiment import Outcome
from sluicegate.experiments.markdown import cell, measured
from sluicegate.experiments.rows import rows
from sluicegate.report.arms import PROBES
from sluicegate.report.formatting import written

MOST = 7
"""Measures of trials that there is room for."""


def terminal_table(outcome: Outcome) -> Table:
    """Arm, retain, forget, A@10, A@30, B@100, savings with interval, cost relative to the reference; or of trials, the
    measures that claims and pictures speak of.

    Shares are percentages, means over seeds; a column that nothing was measured for is left out.
    """
    if outcome.recipe.is_trial:
        return _of_trials(outcome)
    found = rows(outcome)
    columns: list[tuple[str, list[str]]] = [
        ("retain", [written(row.score("retain"), "share").value for row in found]),
        ("forget", [written(row.score("forget"), "share").value for row in found]),
        *((label, [written(row.at[label], "share").value for row in found]) for label, _, _ in PROBES),
        ("savings", [str(written(row.savings)) for row in found]),
        ("cost", [written(row.relative, "times").value or written(row.cost, "flops").value for row in found]),
    ]
    shown = [(name, cells) for name, cells in columns if any(cells)]
    table = seeds_table(outcome.recipe.title or outcome.recipe.name, len(outcome.seeds), [name for name, _ in shown])
    roles = {"reference": " (reference)", "pretrained": " (start)"}
    for i, row in enumerate(found):
        style = "bold" if row.role == "reference" else ""
        label = Text(row.name).append(roles.get(row.role, ""), "dim")
        table.add_row(label, *(Text(cells[i] or "-") for _, cells in shown), style=style)
    return table


def _of_trials(outcome: Outcome) -> Table:
    recipe = outcome.recipe
    spoken = [measure for claim in recipe.claims for _, measure in names(str(claim["test"]))]
    spoken += [measure for picture in recipe.pictures for measure in picture.get("measures", ())]
    chosen = list(dict.fromkeys(spoken or recipe.measures()))[:MOST]
    shown = [name for name in recipe.measures() if name in chosen and name in measured(outcome)]
    table = seeds_table(recipe.title or recipe.name, len(outcome.seeds), shown)
    for name in recipe.trials:
        table.add_row(Text(name), *(Text(cell(outcome, name, measure) or "-") for measure in shown))
    return table
