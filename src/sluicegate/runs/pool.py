"""Run stages that depend on one another in local processes, as many at a time as there is room for."""

import json
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluicegate.errors import UserError
from sluicegate.runs.ranks import launched
from sluicegate.runs.room import Progress


@dataclass(frozen=True)
class Job:
    """A stage that waits for others. Its settings are asked for once their folders are known."""

    key: str
    """Its name, which others wait for."""
    needs: tuple[str, ...]
    """Names of the jobs it waits for."""
    settings: Callable[[Mapping[str, Path]], dict[str, Any]]
    """Flat settings of the stage, given the run folder of every job that it needs."""
    out: Path
    """Folder in which its run folder is made."""
    exact: bool = False
    """Whether `out` is the run folder itself."""


def run_jobs(jobs: Sequence[Job], *, workers: int = 0, progress: Progress | None = None) -> dict[str, Path]:
    """Run all jobs, earlier ones first where there is a choice; return each one's run folder.

    `workers` is the number of processes (0: one a core, at most one a job). A job that fails stops
    those that need it and no others; what is finished is kept. Raises `UserError` that lists what
    failed.
    """
    if not jobs:
        return {}
    if (place := launched()) is not None and place[1] > 1:
        raise UserError(f"a launcher started {place[1]} processes (WORLD_SIZE), and each would run all {len(jobs)} stages. Start only one.")
    cores = len(os.sched_getaffinity(0))
    workers = min(workers or cores, len(jobs))
    context = multiprocessing.get_context("spawn")
    channel = context.Queue() if progress else None
    done: dict[str, Path] = {}
    failed: dict[str, str] = {}
    unforeseen: Exception | None = None
    waiting = list(jobs)
    running: dict[Future[str], list[Job]] = {}
    alike: dict[str, Future[str]] = {}
    heard = threading.Event()
    listener = threading.Thread(target=_listen, args=(channel, progress, heard), daemon=True)
    if channel is not None:
        listener.start()
    pool = ProcessPoolExecutor(workers, context, _start_worker, (channel, max(1, cores // workers)))
    try:
        while waiting or running:
            lost = [job for job in waiting if any(need in failed for need in job.needs)]
            for job in lost:
                failed[job.key] = f"not run: it needs {', '.join(need for need in job.needs if need in failed)}"
            waiting = [job for job in waiting if job.key not in failed]
            for job in [job for job in waiting if all(need in done for need in job.needs)][: workers - len(running)]:
                waiting.remove(job)
                settings = job.settings(done)
                same = json.dumps([settings, str(job.out), job.exact], sort_keys=True)
                if alike.get(same) not in running:  # jobs of one stage share its run folder, and so its future
                    alike[same] = pool.submit(_work, settings, str(job.out), job.exact, job.key)
                running.setdefault(alike[same], []).append(job)
            if not running:
                if not lost:  # nothing runs and nothing ever will
                    failed |= {job.key: "not run: it waits for a stage that waits for it, or that is not there" for job in waiting}
                    waiting = []
                continue
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                finished = [job.key for job in running.pop(future)]
                try:
                    done |= dict.fromkeys(finished, Path(future.result()))
                except BrokenProcessPool:
                    raise
                except Exception as error:
                    told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                    failed |= dict.fromkeys(finished, told)
                    unforeseen = unforeseen or (None if isinstance(error, UserError) else error)
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed from outside (out of memory?). Finished stages are kept: run the same command again to go on."
        ) from None
    except BaseException:
        _kill(pool)
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        if channel is not None:
            heard.set()
            listener.join(timeout=2)
    if failed:
        told = "\n".join(_one_screen(failed))
        again = "Mend the cause and run the same command again: it goes on from there."
        raise UserError(f"{len(failed)} of {len(jobs)} stages did not finish; the others are kept. {again}\n{told}") from unforeseen
    return done


def _one_screen(failed: Mapping[str, str], most: int = 8) -> Iterator[str]:
    """A line for each failure, causes before what they kept from running, and no more than fit on a screen."""
    causes_first = sorted(failed, key=lambda key: failed[key].startswith("not run"))
    for key in causes_first[:most]:
        yield f"  {key}: {failed[key]}"
    if len(failed) > most:
        yield f"  ... and {len(failed) - most} more."


_channel: Any = None


def _start_worker(channel: Any, threads: int) -> None:
    """Once a process: take the channel, share the cores, and leave Ctrl-C to the parent."""
    import torch

    global _channel
    _channel = channel
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()


def _die_with(parent: int) -> None:
    """End this process soon after its parent, however that ended: it would go on holding its run folder."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _work(settings: dict[str, Any], out: str, exact: bool, title: str) -> str:
    from sluicegate.execution import execute, from_config

    def tell(part: str, steps: int, total: int, numbers: Mapping[str, float]) -> None:
        _channel.put((part, steps, total, dict(numbers)))

    return str(execute(from_config(settings), Path(out), exact=exact, title=title, progress=tell if _channel is not None else None))


def _listen(channel: Any, progress: Progress, heard: threading.Event) -> None:
    """Pass messages on until all are heard.

    The parent never writes into the channel, not even to end it: a worker that was killed while
    writing leaves the channel's lock taken, and the parent would wait for it at its exit.
    """
    while True:
        try:
            progress(*channel.get(timeout=0.2))
        except queue.Empty:
            if heard.is_set():
                return


def _kill(pool: ProcessPoolExecutor) -> None:
    """End the workers at once: what they were doing resumes from its last resume point."""
    for process in list((pool._processes or {}).values()):
        process.kill()
