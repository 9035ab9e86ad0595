"""Stages that depend on one another, run in that order by whatever runs stages: local processes, or a Ray cluster.

`run_jobs` knows which stage may start and what became of the others; an `Executor` knows where they run. There are
three:
`sluicegate.execution.here.Here`, `sluicegate.execution.local.LocalPool`, and `sluicegate.execution.ray.cluster.OnRay`.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sluicegate.cli.progress import ALL
from sluicegate.errors import UserError
from sluicegate.execution.execute import tell_sources
from sluicegate.runs.directory import Progress
from sluicegate.runs.ranks import launched
from sluicegate.runs.stage import Stage

SHORT = 1.0
"""Seconds: a stage that took less was finished before, and says nothing of how long others take."""
KEPT = "Finished stages are kept: run the same command again to go on."


def refuse_launcher() -> None:
    """Raise `UserError` where a launcher started several processes, each of which would run every stage."""
    if (place := launched()) is not None and place[1] > 1:
        raise UserError(f"a launcher started {place[1]} processes (WORLD_SIZE), and each would run all the stages. Start only one.")


@dataclass(frozen=True)
class Job:
    """A stage that waits for others. It is asked for once their folders are known."""

    key: str
    """Its name, which others wait for."""
    needs: tuple[str, ...]
    """Names of the jobs it waits for."""
    stage: Callable[[Mapping[str, Path]], Stage]
    """The stage, given the run folder of every job that it needs."""
    out: Path
    """Folder in which its run folder is made."""
    exact: bool = False
    """Whether `out` is the run folder itself."""
    spare: bool = False
    """Whether what the others find stands without it."""


@dataclass(frozen=True)
class Task:
    """A stage that can start now."""

    title: str
    """What progress is told under."""
    stage: Stage
    out: Path
    exact: bool

    def same(self) -> str:
        """Alike for tasks that are one run in one folder, whatever their titles."""
        return json.dumps([self.stage.config(), str(self.out), self.exact], sort_keys=True)


Ended = tuple[Task, Path | Exception]
"""A task with its run folder, or with what ended it."""


class Workers(Protocol):
    """Workers that take tasks. They tell progress while `wait` is waited for, or at any other time."""

    places: int
    """How many tasks it takes at a time."""

    def start(self, task: Task) -> None:
        """Begin a task as soon as there is a worker for it."""

    def wait(self) -> list[Ended]:
        """Wait for at least one of the tasks to end. An error of the workers themselves, after which nothing can run,
        is raised."""


class Executor(Protocol):
    """Where stages run."""

    def open_workers(self, most: int, progress: Progress | None) -> AbstractContextManager[Workers]:
        """Have workers for the length of the block, for at most `most` tasks; an error that leaves the block ends what
        they do."""


def run_jobs(
    jobs: Sequence[Job], executor: Executor, progress: Progress | None = None, failed: dict[str, str] | None = None
) -> dict[str, Path]:
    """Run all jobs, earlier ones first where there is a choice; return the run folder of each that is done.

    Jobs that are the same stage in the same place run once. A job that fails stops those that need it and no others;
    what is finished is kept. Raises `UserError` that lists what failed, unless all of it can be spared: then `failed`
    takes the reasons, by the jobs' names.
    """
    if not jobs:
        return {}
    state = _State(jobs)
    with executor.open_workers(len(jobs), progress) as workers:
        state.tell(progress, workers.places)
        while state.waiting or state.running:
            for task in state.ready(workers.places):
                workers.start(task)
            if state.running:
                for task, found in workers.wait():
                    state.end(task, found)
                state.tell(progress, workers.places)
    if failed is not None:
        failed |= state.failed
    if any(job.key in state.failed and not job.spare for job in jobs):
        told = "\n".join(_one_screen(state.failed))
        again = "Remove the cause and run the same command again: it goes on from there."
        text = f"{len(state.failed)} of {len(jobs)} stages did not finish; the others are kept. {again}\n{told}"
        raise UserError(text) from state.unforeseen
    return {job.key: state.done[job.key] for job in jobs if job.key in state.done}  # in their order, and not in that in which they ended


class _State:
    """What is waited for, what runs, and what became of the rest."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.waiting, self.total = list(jobs), len(jobs)
        self.running: dict[str, list[Job]] = {}
        """Jobs by the task they share."""
        self.done: dict[str, Path] = {}
        self.failed: dict[str, str] = {}
        self.unforeseen: Exception | None = None
        self._ended: dict[str, Path | Exception] = {}
        self._begun: dict[str, float] = {}
        self._took: list[float] = []
        """Seconds of the tasks that were not finished before."""

    def ready(self, places: int) -> Iterator[Task]:
        """Tasks to start now: no more than there is room for, and none that another job has had run already."""
        while self.waiting:
            self._give_up()
            able = [job for job in self.waiting if all(need in self.done for need in job.needs)]
            if not able and not self.running:  # nothing runs and nothing ever will
                self.failed |= {job.key: "not run: it waits for a stage that waits for it, or that is not there" for job in self.waiting}
                self.waiting = []
            if not able or len(self.running) >= places:
                return
            job = able[0]
            self.waiting.remove(job)
            try:
                task = Task(job.key, job.stage(self.done), job.out, job.exact)
            except UserError as error:
                self._settle([job], error)
                continue
            same = task.same()
            if same in self._ended:
                self._settle([job], self._ended[same])
            elif same in self.running:
                self.running[same].append(job)
            else:
                tell_sources(task.stage)
                self.running[same], self._begun[same] = [job], time.monotonic()
                yield task

    def end(self, task: Task, found: Path | Exception) -> None:
        """Note what became of a task."""
        same = task.same()
        self._ended[same] = found
        if (took := time.monotonic() - self._begun[same]) > SHORT:
            self._took.append(took)
        self._settle(self.running.pop(same), found)
        if isinstance(found, Exception) and not isinstance(found, UserError):
            self.unforeseen = self.unforeseen or found

    def tell(self, progress: Progress | None, places: int) -> None:
        """Say how many of several jobs have ended, and how long the others take if each takes as long as those did."""
        ended = len(self.done) + len(self.failed)
        minutes = {"minutes left": sum(self._took) / len(self._took) * (self.total - ended) / places / 60} if self._took else {}
        if progress and self.total > 1:
            progress(ALL, ended, self.total, minutes)

    def _settle(self, jobs: list[Job], found: Path | Exception) -> None:
        if isinstance(found, Path):
            self.done |= {job.key: found for job in jobs}
        else:
            told = str(found) if isinstance(found, UserError) else f"{type(found).__name__}: {found}"
            self.failed |= {job.key: told for job in jobs}

    def _give_up(self) -> None:
        """Fail the jobs that need a failed one, and those that need these."""
        while lost := [job for job in self.waiting if any(need in self.failed for need in job.needs)]:
            for job in lost:
                self.failed[job.key] = f"not run: it needs {', '.join(need for need in job.needs if need in self.failed)}"
            self.waiting = [job for job in self.waiting if job.key not in self.failed]


def _one_screen(failed: Mapping[str, str], most: int = 8) -> Iterator[str]:
    """A line for each failure, causes before what they kept from running, and no more than fit on a screen."""
    causes_first = sorted(failed, key=lambda key: failed[key].startswith("not run"))
    for key in causes_first[:most]:
        yield f"  {key}: {failed[key]}"
    if len(failed) > most:
        yield f"  ... and {len(failed) - most} more."
