"""Where tables are printed, and what there is to say of rows and templates."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sluicegate.runs.ranks import launched
from sluicegate.values.items import LOG


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


class _Told(logging.Handler):
    """Prints each text once, on the standard error of the moment."""

    told: tuple[str, ...] = ()

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{'read' if record.levelno == logging.INFO else 'warning:'} {record.getMessage()}"
        if text not in self.told:
            print(text, file=sys.stderr)
            self.told += (text,)


@contextmanager
def telling() -> Iterator[None]:
    """Print what is said of rows and templates; of several processes that read the same, in the first one alone."""
    place, handler, level = launched(), _Told(), LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(logging.ERROR if place and place[0] else logging.INFO)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)
