"""Print an audit on the terminal, and what attackers there are."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from sluicegate.audit.result import AuditResult
from sluicegate.cli.terminal import terminal
from sluicegate.execution.show import attack_table


def print_audit(found: AuditResult) -> None:
    """Print the verdict, what it rests on, and where the report is."""
    console = terminal()
    for arm in filter(None, (found.model, found.reference, found.harmless)):
        result = next(iter(arm.attacks.values()))
        console.print(f"\n[bold]{escape(arm.name)}[/] (seed {next(iter(arm.attacks))} of {len(arm.attacks)})")
        console.print(attack_table(result))
    if found.suite:
        table = Table("attacker", "z", "above the reference", "at effort", "numbers it fits", "FLOPs", box=None, pad_edge=False)
        for own in found.suite.findings:
            at = f"{own.effort:g} {own.unit}"
            z = "-" if math.isnan(own.z) else f"{own.z:.1f}"
            table.add_row(own.attacker, z, str(own.excess), at, f"{own.capacity:,}", f"{own.flops:.2g}")
        console.print("\n[bold]every attacker[/], the strongest first", table, sep="\n")
    console.print(f"\n[bold]{escape(found.verdict.word.upper())}[/]")
    for sentence in found.verdict.sentences:
        console.print(escape(sentence))
    for text in found.warnings():
        console.print(f"[yellow]warning[/] {escape(text)}")
    console.print(f"\nreport: {escape(str(found.page))}", soft_wrap=True)


def print_attackers(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table of attackers; where it is known, how many numbers each fits, what it costs in FLOPs, and that as a
    multiple of an audit's fine-tuning of one model on one seed."""
    known = any("flops" in row for row in rows)
    costs = [Column(name, no_wrap=True, justify="right") for name in ("fits", "FLOPs", "audits")] if known else ["source"]
    table = Table(
        Column("attacker", no_wrap=True), "suite", Column("what it does", min_width=24), "effort", *costs, box=None, pad_edge=False
    )
    for row in rows:
        told = [row[name] for name in ("name", "suite", "what", "unit", *(() if known else ("source",)))]
        told += [f"{row['capacity']:,}", f"{row['flops']:.2g}", f"{row['audits']:.2g}"] if known else []
        table.add_row(*map(escape, told))
    terminal().print(table)
