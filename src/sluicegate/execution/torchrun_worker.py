"""One of the processes that `launch` starts: ``python -m sluicegate.execution.torchrun_worker PLACE PARENT``. Nothing
imports this."""

import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from sluicegate.cli.progress import watching
from sluicegate.errors import UserError
from sluicegate.execution.execute import execute
from sluicegate.execution.torchrun import AGAIN
from sluicegate.runs.ranks import join
from sluicegate.runs.stage import from_config
from sluicegate.values.items import LOG


def main(place: Path, parent: int) -> int:
    """Do one process's part of the job that `launch` wrote down."""
    rank = int(os.environ["RANK"])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # at once, wherever it stands: there is a resume point
    threading.Thread(target=_die_with, args=(parent, place), daemon=True).start()
    job = json.loads((place / "job.json").read_text())
    sys.argv = job["argv"]
    try:
        _work(job, rank)
    except UserError as error:
        return _report(place, rank, str(error), mistake=True)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return _report(place, rank, f"{error.strerror or error}{where}. {AGAIN}", mistake=error.errno is not None)
    except Exception as error:
        if not _is_loss(error):
            traceback.print_exc()
        lines = str(error).strip().splitlines()
        return _report(place, rank, f"{type(error).__name__}: {lines[0] if lines else ''}", mistake=False)
    return 0


def _work(job: dict[str, Any], rank: int) -> None:
    import torch

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ["LOCAL_WORLD_SIZE"])))
    join()
    LOG.disabled = True  # the parent has said it
    stage, out = from_config(job["settings"]), Path(job["out"])
    if rank == 0 and job["show"]:
        with watching() as progress:
            execute(stage, out, exact=True, title=job["title"], progress=progress, shard=job["shard"])
    else:
        execute(stage, out, exact=True, title=job["title"], shard=job["shard"])


def _report(place: Path, rank: int, error: str, *, mistake: bool) -> int:
    (place / f"rank-{rank}.json").write_text(json.dumps({"error": error, "mistake": mistake, "time": time.time()}))
    return 2


def _is_loss(error: Exception) -> bool:
    """Whether this only says that another process is gone."""
    return any(word in str(error).lower() for word in ("connection closed by peer", "connection reset", "broken pipe", "timed out"))


def _die_with(parent: int, place: Path) -> None:
    """End this process soon after its parent, however that ended, and remove what the parent cannot remove any more."""
    while os.getppid() == parent:
        time.sleep(0.2)
    shutil.rmtree(place, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
