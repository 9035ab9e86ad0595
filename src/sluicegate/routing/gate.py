"""The activation gate: the identity forward; backward the gradient times one weight a row and block.

Source: Cloud et al. 2024 (arXiv 2410.04332), section 3, with all of an edge's weights for one data point given by its
label. An autograd function, because the usual ``m * x + (1 - m) * x.detach()`` changes the forward pass for fractional
m, widens it under autocast, and keeps two more activations for the backward pass.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Columns = tuple[tuple[int, int, int], ...]
"""Runs of features that belong to a block: (start, stop, column of the weights). All others belong to the rest, column
0."""


def scaled(x: Tensor, weights: Tensor, columns: Columns, dim: int) -> Tensor:
    """`x` times its row's weights [..., k + 1], whose leading dimensions are the leading ones of `x`.

    No mask of the size of `x` is made: each run of features is multiplied by one number a row.
    """
    w, axis = weights.to(x.dtype), dim % x.dim()
    out = x * _factor(w, 0, x)
    for start, stop, c in feature_runs(columns, x.shape[axis]):
        if c:
            out.narrow(axis, start, stop - start).copy_(x.narrow(axis, start, stop - start) * _factor(w, c, x))
    return out


def ablated(x: Tensor, weights: Tensor, columns: Columns, dim: int) -> Tensor:
    """`x` with its blocks, and nothing else, times their row's weights."""
    w, axis = weights.to(x.dtype), dim % x.dim()
    out = x.clone()
    for start, stop, c in feature_runs(columns, x.shape[axis]):
        if c:
            out.narrow(axis, start, stop - start).mul_(_factor(w, c, x))
    return out


def _factor(weights: Tensor, column: int, x: Tensor) -> Tensor:
    """A column of the rows' weights, in as many dimensions as `x` has."""
    one = weights[..., column]
    return one.reshape(*one.shape, *(1,) * (x.dim() - one.dim()))


def feature_runs(columns: Columns, size: int) -> list[tuple[int, int, int]]:
    """All `size` features as runs (start, stop, column), those of the rest (column 0) among them."""
    parts: list[tuple[int, int, int]] = []
    at = 0
    for start, stop, c in sorted((start + size, stop + size, c) if start < 0 else (start, stop, c) for start, stop, c in columns):
        parts += [(at, start, 0), (start, stop, c)]
        at = stop
    return [part for part in [*parts, (at, size, 0)] if part[0] < part[1]]


class Gate(torch.autograd.Function):
    """Identity forward, bitwise; backward the gradient times `weights` [..., k + 1]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weights: Tensor, columns: Columns, dim: int) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, weights, ctx.columns, ctx.dim = inputs
        ctx.save_for_backward(weights)  # the activation itself is not needed

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        (weights,) = ctx.saved_tensors
        # Out of place: the engine may hand the same gradient to another branch of the graph.
        return scaled(g, weights, ctx.columns, ctx.dim), None, None, None


class LateGate(torch.autograd.Function):
    """`Gate` whose weights are asked for in the backward pass: `ask` gives them, or raises.

    Without a setup_context, so not for `torch.func`: in its presence torch reads the signature anew at every call.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, ask: Callable[[], Tensor], columns: Columns, dim: int) -> Tensor:
        ctx.ask, ctx.columns, ctx.dim = ask, columns, dim
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        return scaled(g, ctx.ask(), ctx.columns, ctx.dim), None, None, None


def gate(x: Tensor, weights: Tensor, columns: Columns = (), dim: int = -1) -> Tensor:
    """Return `x` itself; its gradient arrives times `weights`.

    `weights` [b, k + 1] or [b, t, k + 1] are any real numbers: column 0 for the features outside all `columns`,
    column c for those of a run (start, stop, c). With `columns` empty the whole row is scaled by column 0.
    """
    return Gate.apply(x, weights, columns, dim)  # type: ignore[no-any-return, no-untyped-call]
