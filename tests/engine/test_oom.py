import pytest
import torch

from sluicegate.engine.encoding import encode
from sluicegate.engine.oom import halving, ran_out
from sluicegate.errors import UserError


def test_what_says_that_memory_ran_out():
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert ran_out(MemoryError())
    assert ran_out(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."))
    assert not ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not ran_out(KeyboardInterrupt())


def test_a_batch_is_halved_until_it_fits_and_joined_in_order(tokenizer, mixed_items):
    batch, asked = encode(tokenizer, mixed_items).batch(range(5)), []

    def run(part, most=2):
        asked.append(len(part.ids))
        if len(part.ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return part.index

    assert torch.equal(halving(batch, run), batch.index)
    assert asked == [5, 3, 2, 1, 2]
    with pytest.raises(UserError, match=r"memory ran out on one row of \d+ tokens\. Set --checkpointing, --dtype bfloat16"):
        halving(batch, lambda part: run(part, 0))
    with pytest.raises(ZeroDivisionError):
        halving(batch, lambda part: 1 / 0)
