"""Optimisers that need little memory: moments in bfloat16 or factored, weights in bfloat16 that still learn.

A weight in bfloat16 has 8 binary digits, so a step below a 512th of it is lost when it is rounded to the nearest.
Rounded up or down at random, so that the mean is right, it is not lost; nor in a float32 copy ("master").
"""

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sluicegate.engine.sampling import seed_of
from sluicegate.errors import UserError
from sluicegate.values.schedule import Schedule

UPDATED = 2**20
"""Numbers that are updated at a time: of no more is there ever a float32 copy."""
_LEAST = 1e-30
"""Added to a squared gradient by Adafactor, so that nothing is divided by 0."""


def make_optimizer(schedule: Schedule, trained: Mapping[str, nn.Parameter], seed: tuple[int, ...]) -> torch.optim.Optimizer:
    """The optimiser that a schedule names; `seed` is for random rounding. AdamW on float32 is torch's own."""
    dtypes = {p.dtype for p in trained.values()}
    if torch.float16 in dtypes:
        raise UserError("weights in float16 are not trained: their gradients underflow. Load them with --dtype bfloat16, or float32.")
    if schedule.optimizer == "adafactor" and any(hasattr(p, "full_tensor") for p in trained.values()):
        raise UserError("adafactor needs whole matrices, and --shard divides them. Set --optimizer adamw-bf16, or leave --shard out.")
    if schedule.optimizer != "adamw" or torch.bfloat16 in dtypes:
        return Economical(schedule, trained, seed)
    return torch.optim.AdamW(trained.values(), lr=schedule.lr, betas=(0.9, schedule.beta2), weight_decay=schedule.weight_decay, fused=True)


class Economical(torch.optim.Optimizer):
    """AdamW and Adafactor in float32 arithmetic, `UPDATED` numbers at a time, on weights of any dtype.

    State a parameter: `step`; AdamW `exp_avg` and `exp_avg_sq`, in float32 or bfloat16; Adafactor the mean square of
    the gradients by row and by column (`row_var`, `col_var`; `variance` where it is no matrix), in float32; `master`,
    the weights in float32. What is kept in bfloat16 is rounded as `Schedule.rounding` says, moments under "auto" and
    "master" at random. Random numbers are a function of seed, the parameter's place and the step alone.

    AdamW: Loshchilov & Hutter 2019 (arXiv 1711.05101). Adafactor: Shazeer & Stern 2018 (arXiv 1804.04235), algorithm 4
    without momentum, its second moment decaying as 1 - t^-0.8 and updates clipped to a root mean square of 1. Different
    from it, a step is not multiplied by the weights' size, so that a learning rate means what it does for AdamW.
    """

    def __init__(self, schedule: Schedule, trained: Mapping[str, nn.Parameter], seed: tuple[int, ...]) -> None:
        super().__init__(trained.values(), {"lr": schedule.lr})
        self.plan, self.seed, self.place = schedule, seed, {p: i for i, p in enumerate(trained.values())}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = torch.enable_grad()(closure)() if closure is not None else None
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                state: dict[str, Tensor] = self.state[p] or self._begin(p)
                state["step"] = state["step"].cpu() + 1  # on the CPU, so that a device is not waited for
                step = int(state["step"])
                self._draw = torch.Generator(p.device).manual_seed(seed_of(*self.seed, self.place[p], step))
                weight, gradient = _local(p), _local(p.grad)
                values = _local(state["master"]) if "master" in state else weight
                update = self._adafactor if self.plan.optimizer == "adafactor" else self._adamw
                update(values, gradient, {key: _local(t) for key, t in state.items()}, step, group["lr"])
                if values is not weight:
                    weight.copy_(values)
        return loss

    def _begin(self, p: nn.Parameter) -> dict[str, Tensor]:
        """The state of a parameter before its first step."""
        state: dict[str, Tensor] = self.state[p]
        shapes = {"row_var": (*p.shape[:-1], 1), "col_var": (*p.shape[:-2], 1, *p.shape[-1:])}
        state["step"] = torch.tensor(0.0)
        if self.plan.optimizer == "adafactor":
            own = shapes if p.dim() > 1 else {"variance": p.shape}
            state |= {key: torch.zeros(shape, dtype=torch.float32, device=p.device) for key, shape in own.items()}
        else:
            kind = torch.bfloat16 if self.plan.optimizer == "adamw-bf16" else _work(p)
            state |= {key: torch.zeros_like(p, dtype=kind) for key in ("exp_avg", "exp_avg_sq")}
        if self.plan.rounding == "master" and p.dtype == torch.bfloat16:
            state["master"] = p.detach().float()
        return state

    def _put(self, to: Tensor, value: Tensor) -> None:
        """to <- value, which is overwritten, rounded as the schedule says."""
        at_random = to.dtype == torch.bfloat16 and self.plan.rounding != "nearest"
        to.copy_(round_at_random(value, self._draw) if at_random else value)

    def _adamw(self, weight: Tensor, gradient: Tensor, state: Mapping[str, Tensor], step: int, lr: float) -> None:
        beta1, beta2, eps = 0.9, self.plan.beta2, 1e-8
        for kept in _pieces(weight, state["exp_avg"], state["exp_avg_sq"], gradient):
            w, mean, square, g = (t.to(_work(kept[0]), copy=True) for t in kept)
            mean.lerp_(g, 1 - beta1)
            square.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            size = square.sqrt().div_(math.sqrt(1 - beta2**step)).add_(eps)
            w.mul_(1 - lr * self.plan.weight_decay).addcdiv_(mean, size, value=-lr / (1 - beta1**step))
            for to, value in zip(kept, (w, mean, square), strict=False):
                self._put(to, value)

    def _adafactor(self, weight: Tensor, gradient: Tensor, state: Mapping[str, Tensor], step: int, lr: float) -> None:
        new = step**-0.8
        if weight.dim() < 2:
            mean = state["variance"].lerp_(gradient.float().square() + _LEAST, new)
            self._along([(weight, gradient, mean)], torch.ones_like(mean), lr)
            return
        # A stack of matrices, one at a time; of each, pieces of rows.
        stack = (t.flatten(0, -3) if t.dim() > 2 else t[None] for t in (weight, gradient, state["row_var"], state["col_var"]))
        for w, g, rows, columns in zip(*stack, strict=True):
            pieces = list(zip(*(t.split(max(UPDATED // w.shape[1], 1)) for t in (w, g, rows)), strict=True))
            sums = torch.zeros_like(columns)
            for _, part, mean in pieces:
                square = part.float().square() + _LEAST
                mean.lerp_(square.mean(1, keepdim=True), new)
                sums += square.sum(0, keepdim=True)
            columns.lerp_(sums / len(w), new)
            self._along(pieces, columns / rows.mean(), lr)

    def _along(self, pieces: list[tuple[Tensor, ...]], columns: Tensor, lr: float) -> None:
        """Go along gradient / sqrt(rows x columns), at most as far as a root mean square of 1."""
        # The length of the way is known once all of it was computed; it is computed again rather than kept.
        total, size = 0.0, max(sum(w.numel() for w, *_ in pieces), 1)
        for last in (False, True):
            for w, g, mean in pieces:
                way = g.float() * mean.rsqrt() * columns.rsqrt()
                if not last:
                    total += float(way.square().sum())
                    continue
                value = w.to(_work(w), copy=True).mul_(1 - lr * self.plan.weight_decay)
                self._put(w, value.sub_(way, alpha=lr / max(math.sqrt(total / size), 1.0)))


def round_at_random(value: Tensor, generator: torch.Generator) -> Tensor:
    """Round float32 to one of the two nearest bfloat16 numbers, in place, so that the mean of many draws is the value.

    bfloat16 is the upper half of float32's bits. A number from 0 to 2^16 - 1 is added to the lower half, which carries
    with the right probability, and the lower half is cut off.
    """
    bits = value.view(torch.int32)
    bits += torch.randint(0, 2**16, bits.shape, dtype=torch.int32, device=bits.device, generator=generator)
    bits &= -(2**16)
    return value


def _work(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _local(tensor: Tensor) -> Tensor:
    """What this process has of a tensor."""
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).detach()


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of tensors of one shape, piece by piece."""
    if tensors[0].is_contiguous():
        return zip(*(t.contiguous().view(-1).split(UPDATED) for t in tensors), strict=True)
    return zip(*(t.split(max(UPDATED * len(t) // max(t.numel(), 1), 1)) for t in tensors), strict=True)


@contextmanager
def stepping_in_backward(optimizer: torch.optim.Optimizer) -> Iterator[list[Tensor]]:
    """Inside, a backward pass updates each parameter once its gradient is complete, and drops the gradient.

    Yields a list that gets the norm of each gradient. A gradient is complete once every place that uses the parameter
    is behind, so what is updated is needed no more in that pass.
    """
    group, lock = optimizer.param_groups[0], threading.Lock()
    norms: list[Tensor] = []
    every = group["params"]

    def take(p: Tensor) -> None:
        with lock:  # of several devices, each has a thread of its own
            norms.append(torch.linalg.vector_norm(p.grad, dtype=_work(p)))
            group["params"] = [p]
            optimizer.step()
            p.grad = None

    handles = [p.register_post_accumulate_grad_hook(take) for p in every]
    try:
        yield norms
    finally:
        group["params"] = every
        for handle in handles:
            handle.remove()
