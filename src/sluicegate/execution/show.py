"""What is printed of finished stages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from sluicegate.cli.terminal import terminal
from sluicegate.tasks.benchmarks import about


def stage_results(seeds: Sequence[int], results: Sequence[dict[str, Any]], folders: Sequence[Path]) -> dict[str, Any]:
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
    for result in results:
        if "benchmark" in result:
            console.print(benchmark_table(result["benchmark"]))
    for seed, result, folder in zip(seeds, results, folders, strict=True):
        made = ""
        for text in result.get("notes", ()):
            console.print(escape(text))
        for text in result.get("warnings", ()):
            console.print(f"[yellow]warning[/] {escape(text)}")
        if "owned" in result:
            console.print(attack_table(result))
        else:
            steps = f"{result['steps']} steps, " if result["steps"] else ""
            made = f"{steps}{result['flops']['total']:.3g} FLOPs, "
            if result.get("reached") is False:
                console.print("[yellow]warning[/] the student did not reach its stop score within its steps (--steps, --stop-at).")
        console.print(f"seed {seed}: {made}kept in {escape(str(folder))}", soft_wrap=True)
    return {}


def benchmark_table(found: Mapping[str, Any]) -> Table:
    """A benchmark's numbers with their intervals, the reference's beside them, and what each is."""
    table = Table(found["name"], "", "95 %", "reference", "what it is", box=None, pad_edge=False)
    for name, what in about(found["name"]).items():
        if name in found["numbers"]:
            between = " to ".join(map(_number, found["intervals"].get(name, ())))
            theirs = _number(found["reference"][name]) if name in found["reference"] else ""
            table.add_row(name, _number(found["numbers"][name]), between, theirs, escape(what))
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "not finite"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"


def attack_table(result: Mapping[str, Any]) -> Table:
    unit = result["owned"].get("unit", "attack steps")
    steps = unit == "attack steps"
    title = "recall after an attack of so many steps, worst case over learning rates" if steps else f"recall by {unit}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    efforts = result["owned"]["effort"]
    table.add_column("steps" if steps else unit)
    for effort in efforts:
        table.add_column(f"{effort:g}", justify="right")
    for label, key in (("facts the attacker owns", "owned"), ("facts it never sees", "held_out")):
        table.add_row(label, *(f"{value:.2f}" for value in result[key]["recall"][0]))
    return table
