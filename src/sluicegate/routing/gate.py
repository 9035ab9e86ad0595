"""The activation gate: the identity forward, the gradient times a weight per row and block backward.

Source: Cloud et al. 2024 (arXiv 2410.04332), section 3, with all of an edge's weights for one
data point given by its label. Written as an autograd function, because the usual
``m * x + (1 - m) * x.detach()`` changes the forward pass for fractional m, widens it under
autocast, and keeps two more activations alive.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Columns = tuple[tuple[int, int, int], ...]
"""Runs of features that are not the rest's: (start, stop, column of the weights)."""


def scaled(x: Tensor, weights: Tensor, columns: Columns, dim: int) -> Tensor:
    """`x` times its row's weight: `weights` [..., k + 1], whose column 0 is the rest's.

    The leading dimensions of `weights` are the leading ones of `x`. No mask of the size of `x` is
    made: each run of features is multiplied by one number a row.
    """
    w = weights.to(x.dtype)
    axis = dim % x.dim()
    missing = x.dim() - w.dim()

    def column(c: int) -> Tensor:
        one = w[..., c]
        return one.reshape(*one.shape, *(1,) * (missing + 1))

    out = x * column(0)
    for start, stop, c in columns:
        size = x.shape[axis]
        start, stop = (start + size, stop + size) if start < 0 else (start, stop)
        out.narrow(axis, start, stop - start).copy_(x.narrow(axis, start, stop - start) * column(c))
    return out


def ablated(x: Tensor, weights: Tensor, columns: Columns, dim: int) -> Tensor:
    """`x` with its blocks, and nothing else, times their row's weight."""
    w = weights.to(x.dtype)
    axis = dim % x.dim()
    out = x.clone()
    for start, stop, c in columns:
        size = x.shape[axis]
        start, stop = (start + size, stop + size) if start < 0 else (start, stop)
        one = w[..., c]
        out.narrow(axis, start, stop - start).mul_(one.reshape(*one.shape, *(1,) * (x.dim() - one.dim())))
    return out


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
MOST_STRETCHES = 16


def stretches(index: Tensor, table: Tensor, columns: Columns, size: int) -> tuple[Stretch, ...] | None:
    """A batch partitioned by its labels `index` [b] as stretches of rows; None where it is too mixed for that to be fast.

    `table` [labels, k + 1] are the labels' weights, `size` is the number of features. Empty where nothing is scaled.
    """
    if index.dim() != 1:
        return None
    labels, counts = (found.tolist() for found in torch.unique_consecutive(index, return_counts=True))
    if len(labels) > MOST_STRETCHES:
        return None
    named = sorted((start + size, stop + size, c) if start < 0 else (start, stop, c) for start, stop, c in columns)
    runs: list[tuple[int, int, int]] = []
    at = 0
    for start, stop, c in named:
        runs += [(at, start, 0), (start, stop, c)]
        at = stop
    runs = [run for run in [*runs, (at, size, 0)] if run[0] < run[1]]
    found, first = [], 0
    for label, count in zip(labels, counts, strict=True):
        weights = table[label].tolist()
        found += [(first, first + count, start, stop, weights[c]) for start, stop, c in runs if weights[c] != 1.0]
        first += count
    return tuple(found)


class StretchGate(torch.autograd.Function):
    """`Gate` for a batch partitioned by label: only what is scaled is touched, in a copy of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, columns: Columns, dim: int, own: tuple[Stretch, ...], check: Any) -> Tensor:
        # One function and not two: with a setup_context, torch reads the signature anew at every call.
        ctx.weights, ctx.columns, ctx.dim, ctx.own, ctx.check = weights, columns, dim, own, check
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        ctx.check()
        if not ctx.own:
            return g, None, None, None, None, None
        if torch.is_grad_enabled() and g.requires_grad:  # to be differentiated again
            return scaled(g, ctx.weights, ctx.columns, ctx.dim), None, None, None, None, None
        axis = ctx.dim % g.dim()
        out = g.clone()
        for first, last, start, stop, value in ctx.own:
            own = out[first:last].narrow(axis, start, stop - start)
            if value:
                own.mul_(value)
            else:
                own.zero_()  # and not times 0, which keeps what is not finite
        return out, None, None, None, None, None


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
