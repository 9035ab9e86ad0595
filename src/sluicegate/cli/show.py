"""What commands print: tables, verdicts, and where the files are."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from sluicegate.experiment import Outcome
    from sluicegate.inspection import Inspection
    from sluicegate.recipe import Recipe


def terminal() -> Console:
    """Standard output; wide enough for a table where it is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def stage_results(seeds: Sequence[int], results: Sequence[dict[str, Any]], folders: Sequence[Path]) -> None:
    """One block a group of scores, one line a seed; for an attack, its curve at a few points."""
    console = terminal()
    table = Table(title=None, box=None, pad_edge=False)
    for column in ("seed", "group", "exact", "probability", "loss, nats a token"):
        table.add_column(column, justify="right" if column != "group" else "left")
    measured = Table("seed", "measure", "", box=None, pad_edge=False)
    for seed, result in zip(seeds, results, strict=True):
        for name, value in result.get("measures", {}).items():
            measured.add_row(str(seed), name, _number(value))
        for group, scores in result["scores"].items():
            table.add_row(str(seed), group, f"{scores['exact']:.3f}", f"{scores['probability']:.3g}", f"{scores['loss']:.3f}")
    for filled in (table, measured):
        if filled.row_count:
            console.print(filled)
    for seed, result, folder in zip(seeds, results, folders, strict=True):
        made = ""
        for text in result.get("notes", ()):
            console.print(escape(text))
        for text in result.get("warnings", ()):
            console.print(f"[yellow]warning[/] {escape(text)}")
        if "owned" in result:
            console.print(_attack_table(result))
        else:
            steps = f"{result['steps']} steps, " if result["steps"] else ""
            made = f"{steps}{result['flops']['total']:.3g} FLOPs, "
            if result.get("reached") is False:
                console.print("[yellow]warning[/] the student did not reach its stop score within its steps (--steps, --stop-at).")
        console.print(f"seed {seed}: {made}kept in {escape(str(folder))}", soft_wrap=True)


def _number(value: float | None) -> str:
    if value is None:
        return "not finite"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"


def _attack_table(result: Mapping[str, Any]) -> Table:
    table = Table(
        title="recall after an attack of so many steps, worst case over learning rates", title_justify="left", box=None, pad_edge=False
    )
    efforts = result["owned"]["effort"]
    table.add_column("steps")
    for effort in efforts:
        table.add_column(f"{effort:g}", justify="right")
    for label, key in (("facts the attacker owns", "owned"), ("facts it never sees", "held_out")):
        table.add_row(label, *(f"{value:.2f}" for value in result[key]["recall"][0]))
    return table


def outcome(found: "Outcome", folder: Path, page: Path) -> None:
    """The experiment's table, what it means, and where the report is."""
    from sluicegate.report.terminal import terminal_table
    from sluicegate.report.words import sentences

    console = terminal()
    if found.recipe.is_trial:
        trial(found, console)
    else:
        console.print(terminal_table(found))
        for sentence in sentences(found):
            console.print(escape(sentence))
        for text in found.warnings():
            console.print(f"[yellow]warning[/] {escape(text)}")
    console.print(f"\nreport:  {escape(str(page))}\nsummary: {escape(str(folder / 'summary.json'))}", soft_wrap=True)


def trial(found: "Outcome", console: Console) -> None:
    """A trial's numbers, and which of the recipe's claims they bear out."""
    from sluicegate.report.trial import table

    console.print(table(found))
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


def plan(recipe: "Recipe") -> None:
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


def sweep(outcomes: Sequence[tuple[dict[str, Any], "Outcome"]], pages: Sequence[Path]) -> None:
    """Every variant's table under its settings, and where its report is."""
    from sluicegate.report.terminal import terminal_table

    console = terminal()
    for (changes, found), page in zip(outcomes, pages, strict=True):
        console.print("\n" + "  ".join(f"{name} = {value}" for name, value in changes.items()), style="bold")
        if found.recipe.is_trial:
            trial(found, console)
        else:
            console.print(terminal_table(found))
        console.print(f"report: {escape(str(page))}", soft_wrap=True)


def inspection(found: "Inspection", page: Path) -> None:
    """The verdict, what it rests on, and where the report is."""
    console = terminal()
    for arm in filter(None, (found.model, found.reference, found.harmless)):
        result = next(iter(arm.attacks.values()))
        console.print(f"\n[bold]{escape(arm.name)}[/] (seed {next(iter(arm.attacks))} of {len(arm.attacks)})")
        console.print(_attack_table(result))
    console.print(f"\n[bold]{escape(found.verdict.word.upper())}[/]")
    for sentence in found.verdict.sentences:
        console.print(escape(sentence))
    for text in found.warnings():
        console.print(f"[yellow]warning[/] {escape(text)}")
    console.print(f"\nreport: {escape(str(page))}", soft_wrap=True)


def doctor(found: dict[str, Any]) -> None:
    """Two columns: what, and which."""
    console = terminal()
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in found["versions"].items():
        table.add_row(name, value)
    for name in ("device", "cores", "threads", "world_size"):
        table.add_row(name.replace("_", " "), str(found[name]))
    console.print(table)
    if prompt := found.get("prompt"):
        console.print(f"\nfirst prompt, the answer after the bar:\n  {escape(prompt['tokens'])}", soft_wrap=True)
        template = "has a chat template" if prompt["chat_template"] else "no chat template"
        console.print(f"  BOS {escape(prompt['bos'])}, {prompt['bos_count']} of it in front; {template}")


def browsed(action: str, found: Any) -> None:
    """What `runs` found."""
    console = terminal()
    if action == "ls":
        table = Table(box=None, pad_edge=False)
        for column in ("run", "state", "scores (exact), or what a trial measured"):
            table.add_column(column, overflow="fold")
        for row in found:
            known = {group: value for group, value in row["scores"].items() if value is not None and math.isfinite(value)}
            scores = "  ".join(f"{group} {value:.3f}" for group, value in list(known.items())[:6])
            scores += f"  and {len(known) - 6} more" if len(known) > 6 else ""
            table.add_row(escape(row["run"]), escape(row["state"]), scores)
        console.print(table if found else "no runs here yet. Start with: sluicegate demo")
    elif action == "rm":
        for path in found:
            console.print(f"removed {escape(path)}", soft_wrap=True)
    elif action == "diff":
        table = Table("setting", "first", "second", box=None, pad_edge=False)
        for name, (a, b) in found.items():
            table.add_row(escape(name), escape(str(a)), escape(str(b)))
        console.print(table if found else "the two runs do not differ.")
    else:
        console.print_json(data=found)
