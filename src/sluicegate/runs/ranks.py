"""Processes that train one model together: each takes its share of every step's rows.

A step's batch is drawn by every process alike and cut into one piece a process (the first ones have a row more where
it does not come out even). docs/design.md says why gradients are added explicitly. Nothing here imports torch before
it is used: a run folder knows its `Ranks`, and listing runs must stay fast.
"""

import atexit
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sluicegate.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

_BUCKET = 8 * 2**20
"""Numbers that are sent at a time."""


@dataclass(frozen=True)
class Ranks:
    """One process's place among those that train together; `ALONE` where there is no other."""

    rank: int = 0
    world: int = 1
    shard: bool = False
    """Whether weights and the optimiser's memory are divided among the processes (FSDP2)."""

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes, logs and shows progress."""
        return self.rank == 0

    @property
    def own_seed(self) -> tuple[int, ...]:
        """What to seed a process's randomness with, beside what is the same in all: its rows are not another's."""
        return (self.rank,) if self.world > 1 else ()

    def gather(self, value: Any) -> list[Any]:
        """What every process has here, by rank."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def first(self, value: Any) -> Any:
        """What rank 0 has here, for all."""
        if self.world == 1:
            return value
        import torch.distributed as dist

        box = [value if self.leads else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def tensors(self, own: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """Rank 0's tensors, for all."""
        if self.world == 1:
            return dict(own)
        import torch
        import torch.distributed as dist

        shapes = self.first({name: (t.shape, t.dtype) for name, t in own.items()})
        found = {}
        for name, (shape, dtype) in shapes.items():
            found[name] = own[name].cpu().contiguous() if self.leads else torch.empty(shape, dtype=dtype)
            dist.broadcast(found[name], src=0)
        return found

    def pieces(self, batches: Mapping[str, Any], accumulate: int) -> list[dict[str, Any]]:
        """This process's part of a step's batches, cut into `accumulate`; `UserError` where one would get none."""
        count = self.world * accumulate
        for name, batch in batches.items() if self.world > 1 else ():
            if (rows := len(batch.index)) < count:
                raise UserError(
                    f"the batch {name!r} has {rows} rows, which cannot be divided among {self.world} processes"
                    f"{f' in {accumulate} parts each' if accumulate > 1 else ''}. Raise --batch to {count}, or lower --procs."
                )
        split = {group: batch.split(count) for group, batch in batches.items()}
        first = self.rank * accumulate
        return [{group: pieces[first + part] for group, pieces in split.items()} for part in range(accumulate)]

    def total(self, numbers: list[float]) -> list[float]:
        """The sums over all processes; every process must bring as many."""
        if self.world == 1:
            return numbers
        import torch
        import torch.distributed as dist

        sums = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(sums)
        return list(map(float, sums))

    def any(self, flag: bool) -> bool:
        """Whether it is so in any of the processes."""
        return flag if self.world == 1 else self.total([float(flag)])[0] > 0

    def scaled(self, loss: "Tensor") -> "Tensor":
        """The loss to go backward from: FSDP2 divides gradients by the processes, and here they add up."""
        return loss * self.world if self.shard else loss

    def add_gradients(self, parameters: "Iterable[nn.Parameter]") -> None:
        """Replace every gradient by its sum over the processes (with `shard`, the backward pass has done it)."""
        if self.world == 1 or self.shard:
            return
        import torch
        import torch.distributed as dist

        every = list(parameters)
        there = torch.tensor([p.grad is not None for p in every], dtype=torch.int32)
        dist.all_reduce(there, op=dist.ReduceOp.MAX)  # a pass may leave a parameter out here and not there
        chosen = [p for p, some in zip(every, there.tolist(), strict=True) if some]
        for p in chosen:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        for bucket in _buckets([p.grad for p in chosen if p.grad is not None]):
            flat = torch.cat([g.reshape(-1) for g in bucket])
            dist.all_reduce(flat)
            for gradient, sums in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(sums.view_as(gradient))

    def moved(self, gradients: "Iterable[Tensor]") -> bool:
        """Whether any gradient, of any process, is not zero everywhere."""
        return self.any(any(bool((g.to_local() if hasattr(g, "to_local") else g).any()) for g in gradients))

    @contextmanager
    def spread(self, model: "nn.Module") -> Iterator[None]:
        """Give all processes rank 0's weights, and, with `shard`, divide them for the length of the block.

        Raises `UserError` where the weights differ by more than rounding: the processes read different models. After
        a `UserError`, which all processes raise alike, the model is whole again; after any other error it is not.
        """
        if self.world > 1:
            self._same(model)
        if not self.shard:
            yield
            return
        from sluicegate.runs.sharding import shard

        join = shard(model, self.world)
        try:
            yield
        except UserError:
            join()
            raise
        join()

    def _same(self, model: "nn.Module") -> None:
        import torch
        import torch.distributed as dist

        shapes = [(name, tuple(p.shape)) for name, p in model.named_parameters()]
        theirs = self.gather(shapes)
        away = 0.0 if all(other == theirs[0] for other in theirs) else 1.0
        with torch.no_grad():
            for _, p in model.named_parameters() if not away else ():
                value = p.detach().clone()
                dist.broadcast(value, src=0)
                away = max(away, float((value - p).abs().max()) / (float(value.abs().max()) or 1.0)) if p.numel() else away
                p.copy_(value)
        if max(self.gather(away)) > 1e-3:
            raise UserError(
                "the processes do not start from the same weights. Have every one of them read the same model: the same folder, or the "
                "same revision of a hub id."
            )

    def place(self, tensor: "Tensor", like: "Tensor", *, own: bool = False) -> "Tensor":
        """A whole tensor, on the device of `like` and divided as it is; or this process's `own` share of one."""
        tensor = tensor.to(like.device)
        if not self.shard or not (own or tensor.shape == like.shape) or not tensor.dim():
            return tensor
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(like, DTensor):
            return tensor
        if own:
            return DTensor.from_local(tensor, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())
        return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)

    def whole(self, tensor: "Tensor") -> "Tensor":
        """A tensor put together from what the processes hold of it; all of them must ask."""
        return tensor.full_tensor() if self.shard and hasattr(tensor, "full_tensor") else tensor


ALONE = Ranks()


def _buckets(tensors: "list[Tensor]") -> "Iterator[list[Tensor]]":
    """Tensors of one kind in order, about `_BUCKET` numbers together."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = bucket and sum(t.numel() for t in bucket) + tensor.numel() > _BUCKET
        if full or (bucket and (bucket[0].dtype, bucket[0].device) != (tensor.dtype, tensor.device)):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def launched() -> tuple[int, int] | None:
    """This process's rank and how many there are, as torchrun and its like say; None where nothing launched it."""
    said_rank, said_world = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    if not said_world:
        for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
            if os.environ.get(name, "1") != "1":
                raise UserError(
                    f"mpirun started {os.environ[name]} processes ({name}), which would all do the same. Use --procs, or torchrun."
                )
        return None
    try:
        world = int(said_world)
        rank = int(said_rank or ("0" if world == 1 else ""))
    except ValueError:
        world = rank = -1
    if not 0 <= rank < world:
        raise UserError(
            f"the environment says WORLD_SIZE={said_world!r} and RANK={said_rank!r}, which cannot be. Unset both and use "
            "--procs, or start with: torchrun --nproc-per-node N -m sluicegate ..."
        )
    return rank, world


def processes(procs: int) -> int:
    """How many processes are to train together: as many as asked for, or with 0 as a launcher started."""
    if procs < 0:
        raise UserError(f"--procs is {procs}; it is a number of processes, at least 1.")
    place = launched()
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ
    if place is not None and procs not in (0, place[1]):
        launcher = "accelerate launch" if by_accelerate else "the launcher (torchrun?)"
        raise UserError(f"--procs is {procs}, but {launcher} started {place[1]} (WORLD_SIZE). Leave one of the two out.")
    several = procs > 1 or "MASTER_ADDR" in os.environ  # accelerate gives an address only where several were asked for
    if place is None and by_accelerate and several:
        asked = f"--procs is {procs}" if procs > 1 else "several processes were asked for"
        raise UserError(
            f"{asked}, but accelerate launch started one (on CPU it does so whatever --num_processes says). Leave it out: sluicegate "
            f"starts its own with --procs {max(procs, 2)}; or use: torchrun --nproc-per-node {max(procs, 2)} -m sluicegate ..."
        )
    return place[1] if place is not None else max(procs, 1)


def is_launched() -> bool:
    """Whether some launcher started this process, as one of several or alone."""
    return "WORLD_SIZE" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ


def join(shard: bool = False) -> Ranks:
    """Meet the processes that a launcher started, until this one ends; gloo between CPUs, else NCCL or its like."""
    import torch
    import torch.distributed as dist

    place = launched()
    if place is None or place[1] == 1:
        return ALONE
    if not dist.is_initialized():
        backend = "gloo"
        kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        if kind is not None:
            local, there = int(os.environ.get("LOCAL_RANK", place[0])), torch.accelerator.device_count()
            if local >= there:
                raise UserError(f"there are more processes than accelerators on this machine ({there}). Lower --procs.")
            torch.accelerator.set_device_index(local)
            backend = f"cpu:gloo,{kind.type}:{dist.get_default_backend_for_device(kind)}"
        dist.init_process_group(backend)
        atexit.register(lambda: dist.destroy_process_group() if dist.is_initialized() else None)
    return Ranks(place[0], place[1], shard)


def speaks() -> bool:
    """Whether this process is the one to print an error: of several that fail alike, only one does."""
    import sys

    dist = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_available() or not dist.is_initialized():
        return True
    try:
        return int(dist.distributed_c10d._get_default_store().add("sluicegate/complaints", 1)) == 1
    except Exception:  # the one that kept count is gone
        return True
