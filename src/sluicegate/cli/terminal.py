"""Where tables are printed."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text


def terminal() -> Console:
    """Standard output; wide enough for a table where it is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def seeds_table(title: str, seeds: int, columns: Sequence[str]) -> Table:
    """An empty table of arms against numbers, whose title says over how many seeds they are means."""
    told = "one seed, no intervals" if seeds == 1 else f"means over {seeds} seeds, [95 % interval]"
    table = Table(title=Text(f"{title}: {told}"), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm", overflow="fold", max_width=26)
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    return table
