"""What is printed of recipes and experiments."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sluicegate.cli.terminal import terminal
from sluicegate.experiments.experiment import Outcome
from sluicegate.experiments.recipe import Recipe


def outcome(found: Outcome, folder: Path, page: Path) -> None:
    """The experiment's table, what it means, and where the report is."""
    from sluicegate.experiments.verdicts import verdicts

    console = terminal()
    _table(found, console)
    for verdict in verdicts(found) if not found.recipe.is_trial else ():
        console.print(escape(str(verdict)))
    _claims_and_warnings(found, console)
    console.print(f"\nreport:  {escape(str(page))}\nsummary: {escape(str(folder / 'summary.json'))}", soft_wrap=True)


def _table(found: Outcome, console: Console) -> None:
    from sluicegate.experiments.terminal import terminal_table

    console.print(terminal_table(found))


def _claims_and_warnings(found: Outcome, console: Console) -> None:
    for claim in found.checked():
        colour = "green" if all(claim.holds) else "yellow"
        console.print(f"[{colour}]{claim.word}[/]: {escape(claim.says)}", highlight=False)
    for text in found.warnings():
        console.print(f"[yellow]warning[/] {escape(text)}")


def recipes(titles: Mapping[str, str]) -> None:
    """The packaged recipes, and how to go on."""
    console = terminal()
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, title in titles.items():
        table.add_row(escape(name), escape(title))
    console.print(table)
    console.print("\nRun one: sluicegate run NAME.  Look at one first: sluicegate run NAME --plan.", highlight=False, soft_wrap=True)


def plan(recipe: Recipe) -> None:
    """What a recipe is about, its arms with their settings, and what it claims."""
    console = terminal()
    console.print(f"[bold]{escape(recipe.title or recipe.name)}[/]", highlight=False)
    for paragraph in recipe.paragraphs:
        console.print(escape(paragraph) + "\n", highlight=False)
    table = Table("arm", "verb", "settings", box=None, pad_edge=False)
    for name, settings in recipe.arms.items():
        own = ", ".join(f"{key} = {value}" for key, value in settings.items() if key != "verb")
        table.add_row(escape(name), escape(str(settings["verb"])), escape(own))
    console.print(table)
    seeds = f"{recipe.seeds} seed" + ("" if recipe.seeds == 1 else "s")
    console.print(f"\n{seeds}" + (", each arm attacked" if recipe.attack else ""), highlight=False)
    for claim in recipe.claims:
        source = f" ({claim['source']})" if claim.get("source") else ""
        console.print(f"claim: {escape(str(claim.get('says', '')) + source)}\n  {escape(str(claim['test']))}", highlight=False)


def sweep(outcomes: Sequence[tuple[dict[str, Any], Outcome]], pages: Sequence[Path]) -> None:
    """Every variant's table under its settings, and where its report is."""
    console = terminal()
    for (changes, found), page in zip(outcomes, pages, strict=True):
        console.print("\n" + "  ".join(f"{name} = {value}" for name, value in changes.items()), style="bold")
        _table(found, console)
        if found.recipe.is_trial:
            _claims_and_warnings(found, console)
        console.print(f"report: {escape(str(page))}", soft_wrap=True)
