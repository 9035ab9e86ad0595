"""Print an audit on the terminal."""

from rich.markup import escape

from sluicegate.audit.audit import AuditResult
from sluicegate.cli.terminal import terminal
from sluicegate.execution.show import attack_table


def print_audit(found: AuditResult) -> None:
    """Print the verdict, what it rests on, and where the report is."""
    console = terminal()
    for arm in filter(None, (found.model, found.reference, found.harmless)):
        result = next(iter(arm.attacks.values()))
        console.print(f"\n[bold]{escape(arm.name)}[/] (seed {next(iter(arm.attacks))} of {len(arm.attacks)})")
        console.print(attack_table(result))
    console.print(f"\n[bold]{escape(found.verdict.word.upper())}[/]")
    for sentence in found.verdict.sentences:
        console.print(escape(sentence))
    for text in found.warnings():
        console.print(f"[yellow]warning[/] {escape(text)}")
    console.print(f"\nreport: {escape(str(found.page))}", soft_wrap=True)
