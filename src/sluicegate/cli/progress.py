"""Progress in the terminal: a bar for each running stage, or now and then a line where there is no terminal; and what
there is to say of rows and templates."""

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sluicegate.runs.directory import Progress
from sluicegate.runs.ranks import launched
from sluicegate.values.items import LOG

ALL = "all stages"
"""Under this name it is told how many stages of a command have ended."""
QUIET_SECONDS = 5.0
"""Between two lines where the output is not a terminal."""


@contextmanager
def watching() -> Iterator[Progress]:
    """Show progress on the standard error for the length of the block."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<36.36}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[numbers]}"),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(part: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
            if part not in tasks:
                tasks[part] = bars.add_task(part, total=total, numbers="")
            bars.update(tasks[part], completed=done, total=total, numbers=_short(numbers), visible=done < total)

        yield tell


class _Lines:
    """One line every few seconds, so that a log shows that something is going on."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._all = ""

    def __call__(self, part: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
        if part == ALL:
            self._all = f"  ({done} of {total} stages, {_short(numbers)})".replace(", )", ")")
        elif time.monotonic() - self._last >= QUIET_SECONDS:
            self._last = time.monotonic()
            print(f"{part}: {done} of {total}  {_short(numbers)}{self._all}", file=sys.stderr, flush=True)


def _short(numbers: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in list(numbers.items())[:4] if name != "step")


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
