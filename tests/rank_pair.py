"""Stages run by two processes that meet as torchrun would have them meet, for the tests of that."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tiny_stages import SRC


def pair(jobs: list[list[dict]], *, world: int = 2) -> list[list[str]]:
    """Let process r run the stages `jobs[r]`, one after another; return what each said of each: a folder, or an error.

    A job holds the settings of its stage, its folder ("out"), and whether it is sharded.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    surroundings = os.environ | meeting | {"PYTHONPATH": str(SRC), "PYTHONWARNINGS": "ignore"}
    running = [
        subprocess.Popen(
            [sys.executable, __file__, json.dumps(jobs[rank])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=surroundings | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(world)
    ]
    try:
        said = [process.communicate(timeout=400) for process in running]
    finally:
        for process in running:
            process.kill()
    assert all(process.returncode == 0 for process in running), "\n".join(error for _, error in said)
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


def main(jobs: list[dict]) -> None:
    import torch

    from sluicegate.errors import UserError
    from sluicegate.execution.execute import execute
    from sluicegate.runs.stage import from_config

    torch.set_num_threads(1)
    found = []
    for job in jobs:
        try:
            found.append(str(execute(from_config(job["settings"]), Path(job["out"]), exact=True, shard=job.get("shard", False))))
        except UserError as error:
            found.append(f"{type(error).__name__}: {error}")
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
