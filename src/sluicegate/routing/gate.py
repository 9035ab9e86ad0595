"""The activation gate: the identity forward, the gradient times a weight per row and block backward.

Source: Cloud et al. 2024 (arXiv 2410.04332), section 3, with all of an edge's weights for one
data point given by its label. Written as an autograd function, because the usual
``m * x + (1 - m) * x.detach()`` changes the forward pass for fractional m, widens it under
autocast, and keeps two more activations alive.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sluicegate.routing.labels import Runs

Columns = tuple[tuple[int, int, int], ...]
"""Runs of features that are not the rest's: (start, stop, column of the weights)."""


def scaled(x: Tensor, weights: Tensor, columns: Columns, dim: int) -> Tensor:
    """`x` times its row's weight: `weights` [..., k + 1], whose column 0 is the rest's.

    The leading dimensions of `weights` are the leading ones of `x`. No mask of the size of `x` is
    made: each run of features is multiplied by one number a row.
    """
    w, axis = weights.to(x.dtype), dim % x.dim()
    out = x * _factor(w, 0, x)
    for start, stop, c in feature_runs(columns, x.shape[axis]):
        if c:
            out.narrow(axis, start, stop - start).copy_(x.narrow(axis, start, stop - start) * _factor(w, c, x))
    return out


def scale(x: Tensor, weights: Tensor, columns: Columns, dim: int) -> Tensor:
    """`scaled`, in place."""
    w, axis = weights.to(x.dtype), dim % x.dim()
    for start, stop, c in feature_runs(columns, x.shape[axis]):
        x.narrow(axis, start, stop - start).mul_(_factor(w, c, x))
    return x


def ablated(x: Tensor, weights: Tensor, columns: Columns, dim: int) -> Tensor:
    """`x` with its blocks, and nothing else, times their row's weight."""
    w, axis = weights.to(x.dtype), dim % x.dim()
    out = x.clone()
    for start, stop, c in feature_runs(columns, x.shape[axis]):
        if c:
            out.narrow(axis, start, stop - start).mul_(_factor(w, c, x))
    return out


def _factor(weights: Tensor, column: int, x: Tensor) -> Tensor:
    """A column of the rows' weights in as many dimensions as `x` has."""
    one = weights[..., column]
    return one.reshape(*one.shape, *(1,) * (x.dim() - one.dim()))


def feature_runs(columns: Columns, size: int) -> list[tuple[int, int, int]]:
    """All features as runs (start, stop, column), the rest's (column 0) among them."""
    parts: list[tuple[int, int, int]] = []
    at = 0
    for start, stop, c in sorted((start + size, stop + size, c) if start < 0 else (start, stop, c) for start, stop, c in columns):
        parts += [(at, start, 0), (start, stop, c)]
        at = stop
    return [part for part in [*parts, (at, size, 0)] if part[0] < part[1]]


class Gate(torch.autograd.Function):
    """Identity forward, bitwise; backward the gradient times the weights."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weights: Tensor, columns: Columns, dim: int, check: Callable[[], None] | None) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, weights, ctx.columns, ctx.dim, ctx.check = inputs
        ctx.save_for_backward(weights)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None, None]:
        if ctx.check is not None:  # before the saved tensors are asked for, which may start a recomputation
            ctx.check()
        (weights,) = ctx.saved_tensors
        return scaled(g, weights, ctx.columns, ctx.dim), None, None, None, None


Stretch = tuple[int, int, int, int, float]
"""Rows that lie together (first, last), a run of their features (start, stop), and by what these are multiplied, where that is not 1."""


def stretches(runs: Runs, table: Sequence[Sequence[float]], columns: Columns, size: int) -> tuple[Stretch, ...]:
    """A batch whose rows lie in `runs` as stretches of rows that are scaled; empty where nothing is.

    `table` [labels][k + 1] are the labels' weights, `size` is the number of features.
    """
    parts = feature_runs(columns, size)
    found, first = [], 0
    for label, count in runs:
        weights = table[label]
        found += [(first, first + count, start, stop, weights[c]) for start, stop, c in parts if weights[c] != 1.0]
        first += count
    return tuple(found)


class InPlaceGate(torch.autograd.Function):
    """`Gate` where nothing is differentiated by `torch.func`: in the gradient's place, or in a copy if others hold it.

    Of a batch partitioned by label only what is scaled is touched (`own`); None scales row by row.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, columns: Columns, dim: int, own: tuple[Stretch, ...] | None, check: Any) -> Tensor:
        # One function and not two: with a setup_context, torch reads the signature anew at every call.
        ctx.weights, ctx.columns, ctx.dim, ctx.own, ctx.check = weights, columns, dim, own, check
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        ctx.check()
        if ctx.own == ():
            return g, None, None, None, None, None
        if torch.is_grad_enabled() and g.requires_grad:  # to be differentiated again
            return scaled(g, ctx.weights, ctx.columns, ctx.dim), None, None, None, None, None
        alone = _nobody_elses(g)
        if ctx.own is None:
            return (scale if alone else scaled)(g, ctx.weights, ctx.columns, ctx.dim), None, None, None, None, None
        axis = ctx.dim % g.dim()
        out = g if alone else g.clone()
        for first, last, start, stop, value in ctx.own:
            own = out.narrow(0, first, last - first).narrow(axis, start, stop - start)
            if value:
                own.mul_(value)
            else:
                own.zero_()  # and not times 0, which keeps what is not finite
        return out, None, None, None, None, None


Counts = tuple[int, int, int, int, int]


def _nobody_elses(g: Tensor) -> bool:
    """Whether a gradient handed to `backward` is seen by nothing else, so that it may be written to.

    Torch asks the same before it accumulates into a gradient. A copy costs more than the rest of a gate on small layers.
    """
    return _holders(g) in _ALONE


def _holders(g: Tensor) -> Counts | None:
    """How many hold a tensor in Python and in C++, and its memory, and what it is a view of; None where torch does not tell.

    Also None for a tensor that overlaps itself.
    """
    try:
        memory = torch._C._storage_Use_Count(g.untyped_storage()._cdata)
        base = g._base
        behind = (0, 0) if base is None else (sys.getrefcount(base), base._use_count())  # type: ignore[attr-defined]
        found = sys.getrefcount(g), g._use_count(), memory, *behind  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):
        return None
    if _TOLD is not None:
        _TOLD.append(found)
    return found if g.is_contiguous() else None


def _alone() -> frozenset[Counts]:
    """What `_holders` says, in a gate's own backward, of gradients that were made for that gate alone: it differs among versions.

    There are two: a tensor of its own, and the only view of one, as linear layers make it of tokens.
    """
    global _TOLD
    _TOLD = []
    try:
        with torch.inference_mode(False), torch.enable_grad():
            x, own = torch.ones(2, 2, 2, requires_grad=True), ((0, 1, 0, 1, 0.5),)
            (InPlaceGate.apply(x * 2, None, (), -1, own, int) * 2).sum().backward()  # type: ignore[no-untyped-call]
            torch.nn.functional.linear(InPlaceGate.apply(x * 2, None, (), -1, own, int), torch.ones(2, 2)).sum().backward()  # type: ignore[no-untyped-call]
            InPlaceGate.apply(x * 2, None, (), -1, own, int).backward(torch.ones(2, 2, 2))  # type: ignore[no-untyped-call]
        return frozenset(_TOLD[:2]) - {_TOLD[2]} if len(_TOLD) == 3 else frozenset()
    except (TypeError, RuntimeError):
        return frozenset()
    finally:
        _TOLD = None


_TOLD: list[Counts] | None = None
_ALONE: frozenset[Counts] = frozenset()
_ALONE = _alone()


class LateGate(torch.autograd.Function):
    """The same with weights that are not known before the backward pass: `ask` gives them then."""

    @staticmethod
    def forward(x: Tensor, ask: Callable[[], Tensor], columns: Columns, dim: int) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.ask, ctx.columns, ctx.dim = inputs

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        return scaled(g, ctx.ask(), ctx.columns, ctx.dim), None, None, None


def gate(x: Tensor, weights: Tensor, columns: Columns = (), dim: int = -1) -> Tensor:
    """Return `x` itself; its gradient arrives times `weights`.

    `weights` [b, k + 1] or [b, t, k + 1] are any real numbers: column 0 for the features outside
    all `columns`, column c for those of a run (start, stop, c). With `columns` empty the whole row
    is scaled by column 0.
    """
    return Gate.apply(x, weights, columns, dim, None)  # type: ignore[no-any-return, no-untyped-call]
