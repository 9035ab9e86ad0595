"""Routed training by one process or by two, each on its own half of the rows, for the tests of that.

`together` runs a list of cases in two processes, which it starts once; `trained` runs one in this process.
"""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from routed_nets import BLOCKS, VOCABULARY, Net, ids, nll
from sluicegate.routing.router import Router

STEPS, ROWS = 4, 8
SIDES = {
    "mixed": [0, 1, 2, 3, 1, 0, 3, 2],
    "apart": [1, 1, 1, 1, 0, 0, 0, 0],  # one process has forget rows alone, the other retain rows alone
    "forget": [1] * ROWS,
}


class Wide(Net):
    """With a branch that only rows of some kind of input go through, so that one process may not use it."""

    def __init__(self):
        super().__init__(tied=False)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.side = nn.Linear(8, VOCABULARY, bias=False).double()

    def forward(self, ids):
        scores = super().forward(ids)
        return scores + self.side(self.embed(ids)) if bool((ids[:, 0] == 0).all()) else scores


@dataclass(frozen=True)
class Case:
    form: str
    kind: str = "ddp"
    labels: str = "mixed"
    pieces: bool = False
    """Whether a step accumulates two batches, and the exchange waits for the last."""
    unused: bool = False
    """Whether one process does not use a parameter."""
    late: bool = False
    """Whether the router is made after the model was wrapped."""


def trained(case, rank=0, world=1):
    """Return the losses of every step, and the weights before and after each."""
    net = Wide() if case.unused else Net(tied=case.kind != "fsdp")
    router = Router(net, {"mlp": BLOCKS}, form=case.form, ablate={"retain": ["one"]}) if not case.late else None
    call = net
    if world > 1 and case.kind == "ddp":
        call = DistributedDataParallel(net, find_unused_parameters=case.unused)
    if world > 1 and case.kind == "fsdp":
        fully_shard(net.mlp)
        fully_shard(net)
    if router is None:
        router = Router(net, {"mlp": BLOCKS}, form=case.form, ablate={"retain": ["one"]})
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1)
    router.guard(optimizer)
    losses, kept = [], [whole(net)]
    for step in range(STEPS):
        # The first step moves everything, so that the optimiser has something to go on with.
        labels = torch.full((ROWS,), 3) if step == 0 else torch.tensor(SIDES[case.labels])
        batch = ids(ROWS, seed=step)
        if case.unused:
            batch[:, 0] = torch.tensor([0] * (ROWS // 2) + [1] * (ROWS // 2))
        own = [slice(rank * ROWS // world, (rank + 1) * ROWS // world)]
        if case.unused and world == 1:
            own = [slice(0, ROWS // 2), slice(ROWS // 2, ROWS)]
        elif case.pieces:
            middle = (own[0].start + own[0].stop) // 2
            own = [slice(own[0].start, middle), slice(middle, own[0].stop)]
        total = 0.0
        for number, rows in enumerate(own):
            waits = world > 1 and case.kind == "ddp" and number < len(own) - 1
            if world > 1 and case.kind == "fsdp":
                net.set_requires_gradient_sync(number == len(own) - 1)
            with router(labels[rows]), call.no_sync() if waits else nullcontext():
                loss = nll(call, batch[rows]) / len(own)
                loss.backward()
            total += loss.detach()
        if world > 1:
            dist.all_reduce(total)
        losses.append(float(total) / world)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        kept.append(whole(net))
    return {"losses": losses, "kept": kept}


def whole(net):
    return {n: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone() for n, p in net.named_parameters()}


def together(folder, cases):
    """Train every case in the same two processes; return what the first of them found."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    said = json.dumps([asdict(case) for case in cases])
    running = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder), said], stderr=subprocess.PIPE, text=True, env=environment)
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert all(process.returncode == 0 for process in running), "\n".join(errors)
    return dict(zip(cases, torch.load(folder / "found.pt"), strict=True))


def main(rank, folder, said):
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "meeting"), 2)  # no port that another test could take
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    found = [trained(Case(**case), rank, 2) for case in json.loads(said)]
    if rank == 0:
        torch.save(found, folder / "found.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
