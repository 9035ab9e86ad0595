"""Where tables are printed."""

from rich.console import Console


def terminal() -> Console:
    """Standard output; wide enough for a table where it is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=120)
