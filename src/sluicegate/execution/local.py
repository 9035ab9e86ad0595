"""Run stages in local processes, as many at a time as there is room for."""

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluicegate.errors import UserError
from sluicegate.execution.execute import execute
from sluicegate.execution.jobs import KEPT, Ended, Task, Workers, refuse_launcher
from sluicegate.runs.directory import Progress
from sluicegate.runs.stage import Stage
from sluicegate.values.items import LOG


@dataclass(frozen=True)
class LocalPool:
    """Processes on this machine."""

    workers: int = 0
    """How many; 0: one a core, at most one a job. Where there are accelerators, one each and never more."""

    @contextmanager
    def open_workers(self, most: int, progress: Progress | None) -> Iterator[Workers]:
        refuse_launcher()
        cores = len(os.sched_getaffinity(0))
        if self.workers < 0:
            raise UserError(f"--workers is {self.workers}; it is the number of processes side by side, or 0 for one a core.")
        devices = _devices()
        places = min([self.workers or cores, most] + [devices] * (devices > 0))
        context = multiprocessing.get_context("spawn")
        free = context.SimpleQueue()
        for number in range(places):
            free.put(number)
        channel = context.Queue() if progress else None
        ended = threading.Event()
        listener = threading.Thread(target=_listen, args=(channel, progress, ended), daemon=True)
        if channel is not None:
            listener.start()
        pool = ProcessPoolExecutor(places, context, _start_worker, (channel, max(1, cores // places), free))
        try:
            yield _Processes(pool, places)
        except BrokenProcessPool:
            raise UserError(f"a worker process was killed from outside (out of memory?). {KEPT}") from None
        except BaseException:
            _kill(pool)
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            if channel is not None:
                ended.set()
                listener.join(timeout=2)


class _Processes:
    """The processes, and what each is at."""

    def __init__(self, pool: ProcessPoolExecutor, places: int) -> None:
        self.places = places
        self._pool = pool
        self._running: dict[Future[Path], Task] = {}

    def start(self, task: Task) -> None:
        self._running[self._pool.submit(_work, task.stage, task.out, task.exact, task.title)] = task

    def wait(self) -> list[Ended]:
        found: list[Ended] = []
        for future in wait(self._running, return_when=FIRST_COMPLETED).done:
            task = self._running.pop(future)
            try:
                found.append((task, future.result()))
            except BrokenProcessPool:
                raise
            except Exception as error:
                found.append((task, error))
        return found


_channel: Any = None


def _devices() -> int:
    """How many accelerators there are."""
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def _take_device(free: Any) -> None:
    """Make one of the free accelerators this process's own."""
    import torch

    if _devices():
        torch.accelerator.set_device_index(free.get())


def _start_worker(channel: Any, threads: int, free: Any = None) -> None:
    """Once a process: take the channel and a device of its own, share the cores, and leave Ctrl-C to the parent."""
    import torch

    global _channel
    _channel = channel
    _take_device(free)
    torch.set_num_threads(min(threads, torch.get_num_threads()))  # no more than OMP_NUM_THREADS allows
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    LOG.disabled = True  # the parent has said it
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()


def _die_with(parent: int) -> None:
    """End this process soon after its parent, however that ended: it would go on holding its run folder."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _work(stage: Stage, out: Path, exact: bool, title: str) -> Path:
    def tell(part: str, steps: int, total: int, numbers: Mapping[str, float]) -> None:
        _channel.put((part, steps, total, dict(numbers)))

    return execute(stage, out, exact=exact, title=title, progress=tell if _channel is not None else None)


def _listen(channel: Any, progress: Progress, ended: threading.Event) -> None:
    """Pass messages on until the pool has ended and none is left.

    The parent never writes into the channel, not even to end it: a worker that was killed while
    writing leaves the channel's lock taken, and the parent would wait for it at its exit.
    """
    while True:
        try:
            progress(*channel.get(timeout=0.2))
        except queue.Empty:
            if ended.is_set():
                return


def _kill(pool: ProcessPoolExecutor) -> None:
    """End the workers at once: what they were doing resumes from its last resume point."""
    for process in list((pool._processes or {}).values()):
        process.kill()
