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


def what_fits(found: dict[str, Any]) -> None:
    """A row for each stage, dtype and optimiser: GB by part and the most at once; below, what would make it fit."""
    console, rows, plan = terminal(), found["rows"], found["plan"]
    parts = [part for part in rows[0] if part not in ("stage", "dtype", "optimizer", "host", "fits", "with") and any(r[part] for r in rows)]
    devices = f"each of {found['devices']} devices" if found["devices"] > 1 else "a device"
    told = f"GB on {devices} of {found['memory'] / 1e9:.3g}, for {plan['rows']} rows of {plan['length']} tokens a step"
    console.print(_plain(f"{found['model']}: {told}"), soft_wrap=True)
    table = Table(
        "stage", "dtype", "optimiser", *(part.replace("others", "other models") for part in parts), "fits", box=None, pad_edge=False
    )
    for row in rows:
        fits = "yes" if row["fits"] else "no"
        table.add_row(row["stage"], row["dtype"], row["optimizer"], *(f"{row[part] / 1e9:.3g}" for part in parts), fits)
    console.print(table)
    for row in rows:
        if not row["fits"]:
            way = f"fits with {row['with']}" if row["with"] else "fits with none of the settings"
            console.print(_plain(f"{row['stage']}, {row['dtype']}, {row['optimizer']}: {way}"), soft_wrap=True)


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
