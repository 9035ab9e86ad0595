"""Start the processes that train one model together on this machine, through torchrun's own launcher, and watch them.

The parent only watches: it ends them all when one of them dies or the user interrupts, and says in one line what
happened. What they had finished is kept, and the same command goes on from the last resume point, with as many
processes as it then asks for.
"""

import json
import logging
import os
import signal
import sys
import tempfile
import threading
import uuid
from pathlib import Path
from typing import Any

from sluicegate.errors import UserError
from sluicegate.runs.disk import clear_dead

AGAIN = "Finished stages and the last resume point are kept: the same command goes on from there."


def clear_launches() -> None:
    """Remove the temporary folders of launches whose process was killed."""
    clear_dead(Path(tempfile.gettempdir()), r"sluicegate-ranks-(\d+)-\w+")


def launch(settings: dict[str, Any], folder: Path, procs: int, *, shard: bool, title: str, show: bool) -> None:
    """Run the stage with these flat settings in `folder`, with `procs` processes; `show` its progress on the standard
    error.

    Raises `UserError` where one of them failed, and `KeyboardInterrupt` where the user stopped them.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with tempfile.TemporaryDirectory(prefix=f"sluicegate-ranks-{os.getpid()}-", ignore_cleanup_errors=True) as place:
        job = {"settings": settings, "out": str(folder), "title": title, "show": show, "shard": shard, "argv": sys.argv}
        (Path(place) / "job.json").write_text(json.dumps(job))
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=procs,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            max_restarts=0,
            local_addr="127.0.0.1",
            logs_specs=DefaultLogsSpecs(log_dir=place),
            shutdown_timeout=5,
        )
        words = [sys.executable, "-m", "sluicegate.execution.torchrun_worker", place, str(os.getpid())]
        logged = logging.root.manager.disable
        logging.disable(logging.CRITICAL)  # what the launcher says at length is said below in a line
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)}
        try:
            elastic_launch(config, words[0])(*words[1:])
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise UserError(f"stopped by {signal.Signals(error.sigval).name}. {AGAIN}") from None
        except ChildFailedError as error:
            codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            raise UserError(_what_happened(Path(place), procs, codes)) from None
        finally:
            logging.disable(logged)
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():
                    signal.signal(number, handler)


def _what_happened(place: Path, procs: int, codes: dict[int, int]) -> str:
    """One line for what may be many failures: a user's mistake before a process that was killed before anything
    else."""
    told = {int(p.stem.split("-")[1]): json.loads(p.read_text()) for p in sorted(place.glob("rank-*.json"))}
    mistakes = [report["error"] for _, report in sorted(told.items()) if report["mistake"]]
    if mistakes:
        return str(mistakes[0])
    # The launcher itself ends the others with SIGTERM, or SIGKILL where that does not help, so a lone signal is the
    # cause.
    killed = {rank: -code for rank, code in sorted(codes.items()) if code < 0 and -code != signal.SIGTERM}
    if killed:
        rank, number = next(iter(killed.items()))
        hint = " (out of memory?)" if number == signal.SIGKILL else ""
        return f"process {rank} of {procs} was killed by {signal.Signals(number).name}{hint}, and the others were ended. {AGAIN}"
    rank, why = next(((rank, report["error"]) for rank, report in sorted(told.items(), key=lambda r: r[1]["time"])), (-1, ""))
    if rank < 0:
        rank, code = next(iter(codes.items()), (0, 1))
        why = f"it ended with status {code}"
    return f"process {rank} of {procs} failed, and the others were ended: {why} {AGAIN}"
