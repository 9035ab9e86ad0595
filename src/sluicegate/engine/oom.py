"""Memory that runs out: try again with half."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from sluicegate.engine.encoding import Batch
from sluicegate.errors import UserError

T = TypeVar("T")
INSTEAD = "Set --checkpointing, --dtype bfloat16, --optimizer adafactor or a shorter --max-length, or take a larger device."


def ran_out(error: BaseException) -> bool:
    """Whether this error says that the memory of a device, or of the machine, ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # It knows what the backends say, and is slow to import.
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, Exception) and bool(should_reduce_batch_size(error))


def clear() -> None:
    """Give back what is cached and no longer used, once the error that held it is gone."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)


def halving(batch: Batch, run: Callable[[Batch], Tensor]) -> Tensor:
    """What `run` gives for a batch, joined along the first dimension from its halves where memory runs out."""
    try:
        return run(batch)
    except Exception as error:
        if not ran_out(error):
            raise
    if len(batch.ids) == 1:
        raise UserError(f"memory ran out on one row of {batch.ids.shape[1]} tokens. {INSTEAD}")
    clear()
    return torch.cat([halving(half, run) for half in batch.split(2)])


def fits(size: int, run: Callable[[int], T]) -> tuple[T, int]:
    """What `run(n)` returns for n = `size`, or half of it, and so on, until it has the memory; and that n.

    Raises `UserError` where not even `run(1)` has.
    """
    while True:
        try:
            return run(size), size
        except Exception as error:
            if not ran_out(error):
                raise
        if size == 1:
            raise UserError(f"memory ran out on one row. {INSTEAD}")
        size = (size + 1) // 2
        clear()
