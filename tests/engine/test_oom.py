import pytest
import torch

from sluicegate.engine.oom import fits, ran_out
from sluicegate.errors import UserError


def test_what_says_that_memory_ran_out():
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert ran_out(MemoryError())
    assert ran_out(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."))
    assert not ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not ran_out(KeyboardInterrupt())


def test_halves_until_it_fits():
    asked = []

    def run(n):
        asked.append(n)
        if n > 3:
            raise torch.OutOfMemoryError("out of memory.")
        return "done"

    assert fits(11, run) == ("done", 3)
    assert asked == [11, 6, 3]
    with pytest.raises(UserError, match=r"memory ran out on one row\. Set --checkpointing, --dtype bfloat16"):
        fits(2, lambda n: run(9))
    with pytest.raises(ZeroDivisionError):
        fits(2, lambda n: n / 0)
