"""Run stages as tasks of a Ray cluster that is there already.

A worker that sees the run folder and the stage's sources works in place, as a process of the local pool does: what is
finished, resume points and locks are the folder's. Another gets the sources' bytes through Ray's object store and sends
the finished run folder back. When a worker is lost, Ray gives its task to another one.
"""

import dataclasses
import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluicegate.errors import UserError, first_line
from sluicegate.execution.jobs import KEPT, Ended, Task, Workers, refuse_launcher
from sluicegate.execution.ray.bootstrap import bootstrap, package_version, progress_queue
from sluicegate.execution.ray.connection import connected
from sluicegate.execution.ray.resources import Need, Resources
from sluicegate.execution.ray.transfer import local_sources, pack, store_run
from sluicegate.execution.ray.worker import Order, Report
from sluicegate.runs.directory import Progress, check_finished, check_owner, check_strangers

if TYPE_CHECKING:
    from sluicegate.runs.stage import Stage

LOST = 5
"""How many workers a stage may lose, one after the other, and still be given to the next."""
POLL_SECONDS = 0.3
"""Between two looks at progress."""
LOOK_SECONDS = 10.0
"""Between two looks at whether the cluster still has a machine for what waits; it may be without one for about that
long."""


@dataclass(frozen=True)
class OnRay:
    """The workers of a Ray cluster."""

    address: str = ""
    """HOST:PORT of the cluster's head, or ray://HOST:PORT; empty: RAY_ADDRESS, or the cluster that this machine belongs
    to."""
    workers: int = 0
    """Most stages at a time; 0: as many as the cluster has room for."""
    resources: Resources = field(default_factory=Resources)
    """What each stage takes up of a machine."""

    @contextmanager
    def open_workers(self, most: int, progress: Progress | None) -> Iterator[Workers]:
        refuse_launcher()
        with connected(self.address) as ray:
            workers = _RayWorkers(ray, self, most, progress)
            try:
                yield workers
            except ray.exceptions.RayError as error:
                raise UserError(f"Ray gave up: {first_line(error)}. {KEPT}") from None
            finally:
                workers.close()


@dataclass(frozen=True)
class _Sent:
    """A task that the cluster has; its run folder and hash, where that folder will have to be brought home."""

    task: Task
    need: Need
    folder: Path = Path()
    digest: str = ""


class _RayWorkers:
    """Tasks handed to the cluster, and what comes back."""

    def __init__(self, ray: Any, plan: OnRay, most: int, progress: Progress | None) -> None:
        self.places = plan.workers or most  # Ray itself queues what it has no room for
        self._ray, self._resources, self._progress = ray, plan.resources, progress
        self._bootstrap = ray.remote(max_retries=LOST)(bootstrap(package_version()))
        self._queue = _start_queue(ray) if progress is not None else None
        self._asked: Any = None
        self._running: dict[Any, _Sent] = {}
        self._settled: list[Ended] = []
        self._transfers: dict[str, Any] = {}
        self._marks: dict[Path, Path] = {}
        self._blind = False
        """Whether some worker did not see a folder or source: from then on they come along."""
        self._seen_room: dict[Need, float] = {}

    def start(self, task: Task) -> None:
        need = self._resources.of(task.stage.VERB)
        self._check_room(need)
        try:
            self._submit(task, need)
        except (UserError, OSError) as error:  # the mistake is this task's alone
            self._settled.append((task, error))

    def wait(self) -> list[Ended]:
        while not self._settled:
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=POLL_SECONDS)
            self._pass_progress()
            for ref in ready:
                self._settle(ref, self._running.pop(ref))
            for need in {sent.need for sent in self._running.values()}:
                self._check_room(need)
        settled, self._settled = self._settled, []
        return settled

    def close(self) -> None:
        """End what still runs, pass on the last progress, and leave no mark."""
        for ref in self._running:
            with suppress(Exception):
                self._ray.cancel(ref, force=True)
        with suppress(self._ray.exceptions.RayError):
            for _ in range(2):  # the first answer may have been given before the last message
                self._pass_progress(patience=1.0)
        for mark in self._marks.values():
            mark.unlink(missing_ok=True)

    def _submit(self, task: Task, need: Need) -> None:
        # First hope that the worker sees what we see: it gets names only.
        sources = local_sources(task.stage)
        order = Order(
            title=task.title,
            settings=task.stage.config(),
            out=str(task.out),
            exact=task.exact,
            cwd=os.getcwd(),
            sight=(str(self._mark(task)), *sources),
            argv=tuple(sys.argv),
            keep_seconds=os.environ.get("SLUICEGATE_KEEP_SECONDS", ""),
            threads=max(1, int(need.cpus)),
        )
        sent, transfers = _Sent(task, need), []
        # Once a worker did not, all get the content too, and what there is of the run folder to go on from.
        if self._blind:
            folder, digest = _home_of(task.stage, task)
            if (folder / "DONE").exists():
                check_finished(folder)
                self._settled.append((task, folder))
                return
            order = dataclasses.replace(order, packed=tuple(sources), name=folder.name)
            sent = _Sent(task, need, folder, digest)
            transfers = [*map(self._transfer, sources), self._ray.put(pack(folder) if folder.is_dir() else {})]
        # As a dictionary: a worker without the package could not read an Order.
        start = self._bootstrap.options(num_cpus=need.cpus, num_gpus=need.gpus, name=task.title)
        self._running[start.remote(dataclasses.asdict(order), self._queue, *transfers)] = sent

    def _settle(self, ref: Any, sent: _Sent) -> None:
        """Note what a task came to; or send it again, this time with all it needs."""
        errors = self._ray.exceptions
        try:
            report: Report | str = self._ray.get(ref)
        except errors.RayTaskError as error:
            cause = error.cause
            self._settled.append((sent.task, cause if isinstance(cause, Exception) else error))
            return
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError, errors.ObjectLostError) as error:
            lost = UserError(f"it lost its worker {LOST + 1} times, the last time so: {first_line(error)}. Out of memory?")
            self._settled.append((sent.task, lost))
            return
        if isinstance(report, str):
            raise UserError(f"a worker cannot run stages: {report} {KEPT}")
        try:
            if report.mistake:
                raise UserError(report.mistake)
            if report.blind:
                self._blind = True
                self._submit(sent.task, sent.need)
            elif report.transfer is not None:
                store_run(report.transfer, sent.folder, sent.digest)
                self._settled.append((sent.task, sent.folder))
            else:
                self._settled.append((sent.task, Path(report.folder)))
        except (UserError, OSError) as error:
            self._settled.append((sent.task, error))

    def _mark(self, task: Task) -> Path:
        """A file by which a worker knows that the folder of the runs is this one, and not its own of that name."""
        root = task.out.parent if task.exact else task.out
        if root not in self._marks:
            root.mkdir(parents=True, exist_ok=True)
            mark = root / f".seen-{uuid.uuid4().hex}"
            mark.touch()
            self._marks[root] = mark
        return self._marks[root]

    def _transfer(self, name: str) -> Any:
        if name not in self._transfers:
            self._transfers[name] = self._ray.put(pack(name))
        return self._transfers[name]

    def _check_room(self, need: Need) -> None:
        """Raise `UserError` where no machine could ever run such a stage: Ray would wait for one without end."""
        now = time.monotonic()
        last = self._seen_room.get(need)
        if last is not None and now - last < LOOK_SECONDS:
            return
        have = [(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)) for node in self._ray.nodes() if node["Alive"]]
        if any(cpus >= need.cpus and gpus >= need.gpus for cpus, gpus in have):
            self._seen_room[need] = now
        elif last is None or now - last > 2 * LOOK_SECONDS:  # a machine that was lost may come back
            told = "; ".join(f"{cpus:g} CPUs, {gpus:g} GPUs" for cpus, gpus in have[:8]) or "none"
            raise UserError(
                f"no machine of the Ray cluster has {need}, which a stage is to have. There are: {told}. "
                f"Ask for less with --resources, or add a machine. {KEPT}"
            )

    def _pass_progress(self, patience: float = 0.0) -> None:
        """Pass on what the workers told, if the queue has answered."""
        if self._queue is None or self._progress is None:
            return
        self._asked = self._asked or self._queue.take.remote()
        if not self._ray.wait([self._asked], timeout=patience)[0]:
            return
        asked, self._asked = self._asked, None
        told: list[Any] = []
        with suppress(self._ray.exceptions.RayError):  # the queue's machine is lost: Ray starts it again elsewhere
            told = self._ray.get(asked)
        for message in told:
            self._progress(*message)


def _start_queue(ray: Any) -> Any:
    """The actor that takes progress: on this machine, where that can be had, since the others may be lost."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    options: dict[str, Any] = {"num_cpus": 0, "max_restarts": -1}
    with suppress(Exception):
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(progress_queue()).options(**options).remote()


def _home_of(stage: "Stage", task: Task) -> tuple[Path, str]:
    """The run folder that a task will have, and its hash; `UserError` where the folder is another's."""
    from sluicegate.execution.execute import home_of

    folder, digest, _ = home_of(stage.resolved(), task.out, exact=task.exact)
    check_owner(folder, digest)
    check_strangers(folder)
    return folder, digest
