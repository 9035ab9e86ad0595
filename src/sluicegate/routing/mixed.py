"""A linear layer of the parameter form on a batch in which labels are mixed: every piece takes its own rows.

Where the rows of a label lie together, `partitioned` takes over.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sluicegate.routing.labels import transformed
from sluicegate.routing.parameter_pieces import JOINT, Piece
from sluicegate.routing.partitioned import Cut
from sluicegate.routing.pass_context import Selection

Rows = dict[int, list[tuple[Selection, float]]]
Take = Callable[[int], list[tuple[Tensor, Tensor, float]]]
"""For a column, the inputs and gradients of the rows that move it, with their weight."""


class RoutedLinear(torch.autograd.Function):
    """A linear layer whose weight gradient is the sum over each piece's own rows."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        dense: Tensor | None,
        cut: Cut,
        rows: Rows | None,
        note: Callable[[], None] | None,
    ) -> Tensor:
        return F.linear(x, weight.t() if cut.transposed else weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias, dense, ctx.cut, ctx.rows, ctx.note = inputs
        ctx.has_bias = bias is not None
        ctx.save_for_backward(x, weight, dense)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        if ctx.note is not None:
            ctx.note()
        x, weight, dense = ctx.saved_tensors
        cut: Cut = ctx.cut
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        gx = gw = gb = None
        g = g.contiguous()  # once: both products below would copy it
        if need_x:
            matrix = weight.to(g.dtype)
            gx = (g @ (matrix.t() if cut.transposed else matrix)).to(x.dtype)
        if need_weight or need_bias:
            take = _dense_rows(x.to(g.dtype), g, dense) if ctx.rows is None else _grouped_rows(x.to(g.dtype), g, ctx.rows, cut.row_dims)
            if need_weight:
                gw = _weight_gradient(weight, g, cut, take)
            if need_bias and ctx.has_bias:
                gb = _bias_gradient(g, cut, take)
        return gx, gw, gb, None, None, None, None


class GroupedLinear(torch.autograd.Function):
    """`RoutedLinear` without function transforms: torch reads the signature of one with a setup_context anew at every call."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, cut: Cut, rows: Rows, note: Callable[[], None]) -> Tensor:
        ctx.cut, ctx.rows, ctx.note, ctx.has_bias = cut, rows, note, bias is not None
        ctx.save_for_backward(x, weight, None)
        return F.linear(x, weight.t() if cut.transposed else weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        return RoutedLinear.backward(ctx, g)[:6]


def _grouped_rows(x: Tensor, g: Tensor, rows: Rows, row_dims: int) -> Take:
    flat_x = x.reshape(-1, *x.shape[row_dims:]) if row_dims > 1 else x
    flat_g = g.reshape(-1, *g.shape[row_dims:]) if row_dims > 1 else g
    cache: dict[Any, tuple[Tensor, Tensor]] = {}

    def take(column: int) -> list[tuple[Tensor, Tensor, float]]:
        found = []
        for selection, value in rows[column]:
            key = (selection.start, selection.stop) if isinstance(selection, slice) else id(selection)
            if key not in cache:
                own_x, own_g = (flat_x, flat_g) if selection is None else (flat_x[selection], flat_g[selection])
                cache[key] = own_x.reshape(-1, x.shape[-1]), own_g.reshape(-1, g.shape[-1])
            found.append((*cache[key], value))
        return found

    return take


def _dense_rows(x: Tensor, g: Tensor, dense: Tensor) -> Take:
    """The same as a product with every row's weight: no sizes that depend on the labels."""
    flat = x.reshape(-1, x.shape[-1])

    def take(column: int) -> list[tuple[Tensor, Tensor, float]]:
        if column == JOINT:
            return [(flat, g.reshape(-1, g.shape[-1]), 1.0)]
        w = dense[..., column].to(g.dtype)
        w = w.reshape(*w.shape, *(1,) * (g.dim() - w.dim()))
        return [(flat, (g * w).reshape(-1, g.shape[-1]), 1.0)]

    return take


def _weight_gradient(weight: Tensor, g: Tensor, cut: Cut, take: Take) -> Tensor:
    """[like weight] sum over rows of g x^T, piece by piece."""
    if len(cut.weight) == 1 and len(found := take(cut.weight[0].column)) == 1:
        (own_x, own_g, value), out = found[0], 1 if cut.transposed else 0
        product = own_x.t() @ own_g if out else own_g.t() @ own_x
        return (product * value if value != 1.0 else product).to(weight.dtype)
    gw = _blank(weight.shape, cut.weight, g)
    along_out = cut.weight[0].dim == (1 if cut.transposed else 0)
    for piece in cut.weight:
        for start, stop in piece.runs or ((0, weight.shape[piece.dim]),):
            own, begun = gw.narrow(piece.dim, start, stop - start), 0.0
            for own_x, own_g, value in take(piece.column):
                part_x, part_g = (own_x, own_g[:, start:stop]) if along_out else (own_x[:, start:stop], own_g)
                left, right = (part_x.t(), part_g) if cut.transposed else (part_g.t(), part_x)
                if transformed():  # vmap has no rule for products in place
                    own.copy_(own + left @ right * value if begun else left @ right * value)
                else:
                    own.addmm_(left, right, beta=begun, alpha=value)  # straight to its place; beta 0 reads nothing
                begun = 1.0
            if not begun:
                own.zero_()
    return gw.to(weight.dtype)


def _bias_gradient(g: Tensor, cut: Cut, take: Take) -> Tensor:
    gb = g.new_zeros(g.shape[-1])
    for piece in cut.bias:
        for _, own_g, value in take(piece.column):
            for start, stop in piece.runs or ((0, len(gb)),):
                gb[start:stop].add_(own_g[:, start:stop].sum(0), alpha=value)
    return gb


def _blank(shape: torch.Size, own: tuple[Piece, ...], like: Tensor) -> Tensor:
    """RunContext for a gradient, batched under vmap if `like` is: zeros, unless the pieces fill it."""
    filled = sum(stop - start for piece in own for start, stop in piece.runs or ((0, shape[piece.dim]),))
    return like.new_empty(shape) if filled == shape[own[0].dim] else like.new_zeros(shape)
