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

_PIECE = 2**20
"""Numbers that are updated at a time: of no more is there ever a float32 copy."""
_LEAST = 1e-30
"""Added to a squared gradient by Adafactor, so that nothing is divided by 0."""


def make_optimizer(schedule: Schedule, trained: Mapping[str, nn.Parameter], seed: tuple[int, ...]) -> torch.optim.Optimizer:
    """The optimiser that a schedule names, for these parameters; `seed` is what random rounding is drawn from.

    AdamW on float32 is torch's own, fused. Raises `UserError` for weights in float16, whose gradients would underflow.
    """
    dtypes = {p.dtype for p in trained.values()}
    if torch.float16 in dtypes:
        raise UserError("weights in float16 are not trained: their gradients underflow. Load them with --dtype bfloat16, or float32.")
    if schedule.optimizer == "adafactor" and any(hasattr(p, "full_tensor") for p in trained.values()):
        raise UserError("adafactor needs whole matrices, and --shard divides them. Set --optimizer adamw-bf16, or leave --shard out.")
    if schedule.optimizer == "adamw" and torch.bfloat16 not in dtypes:
        return torch.optim.AdamW(
            trained.values(), lr=schedule.lr, betas=(0.9, schedule.beta2), weight_decay=schedule.weight_decay, fused=True
        )
    return Economical(schedule, trained, seed)


class Economical(torch.optim.Optimizer):
    """AdamW and Adafactor in float32 arithmetic, `_PIECE` numbers at a time, on weights of any dtype.

    State a parameter: `step`; AdamW `exp_avg` and `exp_avg_sq`, in float32 or bfloat16; Adafactor the mean square of
    the gradients by row and by column (`row_var`, `col_var`; `variance` where it is no matrix), in float32; `master`,
    the weights in float32. What is kept in bfloat16 is rounded as `Schedule.rounding` says, moments under "auto" and
    "master" at random. Random numbers are a function of seed, the parameter's place and the step alone.

    AdamW: Loshchilov & Hutter 2019 (arXiv 1711.05101). Adafactor: Shazeer & Stern 2018 (arXiv 1804.04235), algorithm 4
    without momentum, its second moment decaying as 1 - t^-0.8 and updates clipped to a root mean square of 1. Different
    from it, a step is not multiplied by the weights' size, so that a learning rate means what it does for AdamW; all
    leading dimensions but the last two are taken for a stack of matrices.
    """

    def __init__(self, schedule: Schedule, trained: Mapping[str, nn.Parameter], seed: tuple[int, ...]) -> None:
        super().__init__(trained.values(), {"lr": schedule.lr})
        self.plan, self.seed = schedule, seed
        self.place = {p: i for i, p in enumerate(trained.values())}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group["lr"])

    def _update(self, parameter: nn.Parameter, lr: float) -> None:
        state = self.state[parameter]
        if not state:
            self._begin(parameter, state)
        state["step"] = state["step"].cpu() + 1  # on the CPU, so that a device is not waited for
        step = int(state["step"])
        rounding = _Rounding(self.plan.rounding, (*self.seed, self.place[parameter], step), parameter.device)
        weight, gradient = _local(parameter), _local(parameter.grad)  # type: ignore[arg-type]
        values = _local(state["master"]) if "master" in state else weight
        if self.plan.optimizer == "adafactor":
            self._adafactor(values, gradient, state, step, lr, rounding)
        else:
            self._adamw(values, gradient, _local(state["exp_avg"]), _local(state["exp_avg_sq"]), step, lr, rounding)
        if values is not weight:
            weight.copy_(values)

    def _begin(self, p: nn.Parameter, state: dict[str, Any]) -> None:
        state["step"] = torch.tensor(0.0)
        if self.plan.optimizer == "adafactor":
            zeros = lambda *shape: torch.zeros(shape, dtype=torch.float32, device=p.device)  # noqa: E731
            if p.dim() > 1:
                state |= {"row_var": zeros(*p.shape[:-1], 1), "col_var": zeros(*p.shape[:-2], 1, p.shape[-1])}
            else:
                state["variance"] = zeros(*p.shape)
        else:
            low = self.plan.optimizer == "adamw-bf16"
            kind = torch.bfloat16 if low else torch.promote_types(p.dtype, torch.float32)
            state |= {name: torch.zeros_like(p, dtype=kind) for name in ("exp_avg", "exp_avg_sq")}
        if self.plan.rounding == "master" and p.dtype == torch.bfloat16:
            state["master"] = p.detach().float()

    def _adamw(self, weight: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: int, lr: float, rounding: "_Rounding") -> None:
        beta1, beta2, eps = 0.9, self.plan.beta2, 1e-8
        for w, g, m, v in _pieces(weight, gradient, mean, square):
            work = torch.promote_types(w.dtype, torch.float32)
            g = g.to(work)
            m_, v_, w_ = (t.to(work, copy=True) for t in (m, v, w))
            m_.lerp_(g, 1 - beta1)
            v_.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            w_.mul_(1 - lr * self.plan.weight_decay)
            w_.addcdiv_(m_, v_.sqrt().div_(math.sqrt(1 - beta2**step)).add_(eps), value=-lr / (1 - beta1**step))
            rounding.put(w, w_)
            rounding.put(m, m_)
            rounding.put(v, v_)

    def _adafactor(self, weight: Tensor, gradient: Tensor, state: dict[str, Any], step: int, lr: float, rounding: "_Rounding") -> None:
        if weight.dim() < 2:
            mean = state["variance"].lerp_(gradient.float().square() + _LEAST, step**-0.8)
            self._descend([(weight, gradient, mean)], None, lr, rounding)
            return
        # A stack of matrices, one at a time; of each, pieces of rows.
        stack = (t.flatten(0, -3) if t.dim() > 2 else t[None] for t in (weight, gradient, state["row_var"], state["col_var"]))
        for w, g, rows, columns in zip(*stack, strict=True):
            pieces = list(zip(*(t.split(max(_PIECE // w.shape[1], 1)) for t in (w, g, rows)), strict=True))
            sums = torch.zeros_like(columns)
            for _, g_, r in pieces:
                square = g_.float().square() + _LEAST
                r.lerp_(square.mean(1, keepdim=True), step**-0.8)
                sums += square.sum(0, keepdim=True)
            columns.lerp_(sums / len(w), step**-0.8)
            self._descend(pieces, columns / rows.mean(), lr, rounding)

    def _descend(self, pieces: list[tuple[Tensor, ...]], columns: Tensor | None, lr: float, rounding: "_Rounding") -> None:
        """Go along gradient / root of its mean square (rows x columns), at most as far as a root mean square of 1."""
        way = lambda g, r: g.float() * (r.rsqrt() if columns is None else r.rsqrt() * columns.rsqrt())  # noqa: E731
        # The way's length is known once all of it was computed; it is computed again rather than kept.
        length = math.sqrt(sum(float(way(g, r).square().sum()) for _, g, r in pieces) / max(sum(w.numel() for w, _, _ in pieces), 1))
        for w, g, r in pieces:
            value = w.to(torch.promote_types(w.dtype, torch.float32), copy=True)
            rounding.put(w, value.mul_(1 - lr * self.plan.weight_decay).sub_(way(g, r), alpha=lr / max(length, 1.0)))


class _Rounding:
    """How float32 results go into what is kept in fewer digits; one object an update, drawn from its `seed`."""

    def __init__(self, how: str, seed: tuple[int, ...], device: torch.device) -> None:
        self.how, self.seed, self.device = how, seed, device
        self.generator: torch.Generator | None = None

    def put(self, to: Tensor, value: Tensor) -> None:
        """to <- value, which is overwritten."""
        if to.dtype == torch.bfloat16 and self.how != "nearest":
            if self.generator is None:
                self.generator = torch.Generator(self.device).manual_seed(seed_of(*self.seed))
            round_at_random(value, self.generator)
        to.copy_(value)


def round_at_random(value: Tensor, generator: torch.Generator) -> Tensor:
    """Round float32 to one of the two nearest bfloat16 numbers, in place, so that the mean of many draws is the value.

    bfloat16 is the upper half of float32's bits. A number from 0 to 2^16 - 1 is added to the lower half, which carries
    with the right probability, and the lower half is cut off.
    """
    bits = value.view(torch.int32)
    bits += torch.randint(0, 2**16, bits.shape, dtype=torch.int32, device=bits.device, generator=generator)
    bits &= -(2**16)
    return value


def _local(tensor: Tensor) -> Tensor:
    """What this process has of a tensor."""
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).detach()


def _pieces(first: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of tensors of one shape, piece by piece."""
    every = (first, *others)
    if first.is_contiguous():
        return zip(*(t.contiguous().view(-1).split(_PIECE) for t in every), strict=True)
    return zip(*(t.split(max(_PIECE * len(t) // max(t.numel(), 1), 1)) for t in every), strict=True)


@contextmanager
def stepping_in_backward(optimizer: torch.optim.Optimizer) -> Iterator[list[Tensor]]:
    """Inside, a backward pass updates each parameter once its gradient is complete, and drops the gradient.

    Yields a list that gets the norm of each gradient. What is updated is needed no more in that pass: a parameter's
    gradient is complete once every place that uses it is behind.
    """
    group, norms, lock = optimizer.param_groups[0], [], threading.Lock()
    every = group["params"]

    def take(p: Tensor) -> None:
        with lock:  # of several devices, each has a thread of its own
            norms.append(torch.linalg.vector_norm(p.grad, dtype=torch.promote_types(p.dtype, torch.float32)))
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
