"""The page of `sluicegate oversight`, and its tables for the terminal and as Markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluicegate.report.formatting import plain, written
from sluicegate.report.html import render, write_page
from sluicegate_papers.oversight.arms import ARMS, trained_as
from sluicegate_papers.oversight.page_boards import boards
from sluicegate_papers.oversight.page_numbers import BEST, FIGURES, Found, percent
from sluicegate_papers.oversight.page_pictures import ENDS, by_share, by_update, ends, label_of, looks_of
from sluicegate_papers.oversight.page_verdicts import difference, policies, verdicts

if TYPE_CHECKING:
    from rich.table import Table

RULES = {
    "last": "the last look",
    "seen": "stopped by overseen return",
    "weighted": "stopped by inverse probability",
    "peek": "best look (cheating)",
}


def report_oversight(found: Found, path: Path, *, command: str, facts: str = "") -> Path:
    """Write the page of finished runs to `path`, one file that needs nothing else, and return it.

    `command` is what makes it again; `facts` is a line on budgets.
    """
    looks = looks_of(found.names)
    size = f"{found.size} by {found.size}"
    pairs = [
        (percent(p), *(by_update(found, p, f, looks, y) for f, y in (("return", "true return"), ("overseen", "overseen return"))))
        for p in found.shares
    ]
    page = render(
        "oversight/page.html",
        "sluicegate_papers",
        title=f"Scalable oversight on a {size} board",
        facts=facts,
        looks=looks,
        labels=[label_of(name) for name in found.names],
        drawn=list(
            dict.fromkeys(label for label in looks if any(f'"arm {looks[label].key}"' in svg for _, *svgs in pairs for svg in svgs))
        ),
        seeds=found.seeds,
        exact=bool(found.references),
        ceiling=plain(found.reference("ceiling"), 3),
        optimum=plain(found.reference("optimal"), 3),
        verdicts=verdicts(found),
        policies=[(share, [written(cell) for cell in cells]) for share, cells in policies(found)],
        by_share=[by_share(found, looks, "return", "true return"), by_share(found, looks, "far", "true return, Ghost nearer")],
        updates=pairs,
        ends=[(percent(share), ends(found, share, looks)) for share in found.shares],
        colours=[(name.replace("timeout", "time-out").capitalize(), colour) for name, colour in ENDS.items()],
        boards=boards(found),
        tables=[(percent(share), _rows(found, share)) for share in found.shares],
        stopping=[(percent(share), _stopping(found, share)) for share in found.shares],
        paired=_paired(found),
        best=label_of(BEST) if BEST in found.names else "",
        rules=RULES,
        abouts={label_of(name): _about(name) for name in found.names},
        warnings=found.warnings(),
        command=command,
    )
    return write_page(path, page)


def _about(name: str) -> str:
    arm, rule = trained_as(name)
    return ARMS[arm].about if arm == name else f"{arm}'s run, {RULES[rule]}"


def _rows(found: Found, share: float) -> list[tuple[str, str, list[Any]]]:
    """Each arm's name, a note where it had no labels, and its cells: return, ends, near, far, Ghost seen, overseen."""
    rows = []
    for name in found.names:
        cells = [written(found.estimate(share, name, figure)) for figure in FIGURES]
        stopped = trained_as(name)[0] != name  # what is told of the last look is not told of a stopped arm
        cells += [written(None if stopped else found.last(share, name, figure)) for figure in ("ghost_flagged", "overseen")]
        rows.append((label_of(name), found.unlabelled(share, name), cells))
    return rows


def _stopping(found: Found, share: float) -> list[tuple[str, list[Any]]]:
    """Each trained arm's return at the looks that the rules take."""
    trained = [name for name in found.names if trained_as(name)[0] == name]
    return [(label_of(name), [written(found.estimate(share, name, rule=rule)) for rule in RULES]) for name in trained]


def _paired(found: Found) -> list[tuple[str, list[Any]]]:
    """How far routed lies above each other arm, by share; empty without it."""
    if BEST not in found.names:
        return []
    return [(label_of(name), [written(found.ahead(share, name)) for share in found.shares]) for name in found.names if name != BEST]


# ------------------------------------------------------------------------------- other forms


def tables(found: Found) -> "list[Table]":
    """For a terminal: one table a share, arms against figures, and the differences from the routed arm."""
    from sluicegate.cli.terminal import seeds_table

    made = []
    for share in found.shares:
        compared = BEST in found.names and len(found.names) > 1
        columns = ("return", "D / G / time-out", "near / far", *(["routed less this"] if compared else []))
        table = seeds_table(f"{percent(share)} of oversight, {found.size} x {found.size}", len(found.seeds), columns)
        for name in found.names:
            table.add_row(name, *_cells(found, share, name), *([_ahead(found, share, name)] if compared else []))
        made.append(table)
    return made


def _cells(found: Found, share: float, name: str) -> list[str]:
    def joined(figures: Sequence[str]) -> str:
        return " / ".join(plain(found.estimate(share, name, figure).mean) for figure in figures)

    told = [str(written(found.estimate(share, name))), found.unlabelled(share, name)]
    return [", ".join(filter(None, told)), joined(("diamond", "ghost", "timeout")), joined(("near", "far"))]


def _ahead(found: Found, share: float, name: str) -> str:
    return "" if name == BEST else difference(found.ahead(share, name))


def markdown(found: Found) -> str:
    """The same as one Markdown table, for the documentation."""
    lines = ["| p | arm | return | D / G / time-out | near / far | routed less this |", "|---" * 6 + "|"]
    for share in found.shares:
        for name in found.names:
            more = _ahead(found, share, name) if BEST in found.names else ""
            lines.append("| " + " | ".join((f"{share:g}", name, *_cells(found, share, name), more)) + " |")
    return "\n".join(lines)
