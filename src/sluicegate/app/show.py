"""What is printed of run folders and of this machine."""

import math
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sluicegate.cli.terminal import terminal
from sluicegate.errors import printable


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
            table.add_row(_plain(row["run"]), _plain(row["state"]), _plain(scores))
        console.print(table if found else "no runs here yet. Start with: sluicegate demo")
    elif action == "rm":
        for path in found:
            console.print(_plain(f"removed {path}"), soft_wrap=True)
    elif action == "diff":
        table = Table("setting", "first", "second", box=None, pad_edge=False)
        for name, (a, b) in found.items():
            table.add_row(_plain(name), _plain(str(a)), _plain(str(b)))
        console.print(table if found else "the two runs do not differ.")
    else:
        console.print_json(data=found)


def _plain(text: str) -> Text:
    """Text in which nothing is markup and nothing moves the cursor: folders and files may be named in any way."""
    return Text(printable(text))
