"""Run stages in this process, one after the other; or each by several processes that train its model together."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sluicegate.execution.execute import execute
from sluicegate.execution.jobs import Ended, Task, Workers
from sluicegate.runs.directory import Progress


@dataclass(frozen=True)
class Here:
    """This process, with those that a launcher has started beside it. What goes wrong in a stage is raised as it is."""

    procs: int = 0
    """Processes that train each model together (see `execute`)."""
    shard: bool = False
    """Whether they divide its weights among themselves."""

    @contextmanager
    def open_workers(self, most: int, progress: Progress | None) -> Iterator[Workers]:
        yield _InTurn(self, progress)


class _InTurn:
    """A task that was started is done while it is waited for."""

    places = 1

    def __init__(self, how: Here, progress: Progress | None) -> None:
        self._how, self._progress = how, progress
        self._next: list[Task] = []

    def start(self, task: Task) -> None:
        self._next.append(task)

    def wait(self) -> list[Ended]:
        task, how = self._next.pop(), self._how
        done = execute(task.stage, task.out, exact=task.exact, title=task.title, progress=self._progress, procs=how.procs, shard=how.shard)
        return [(task, done)]
