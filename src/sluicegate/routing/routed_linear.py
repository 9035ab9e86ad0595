"""A linear layer of the parameter form: every piece of its weight takes its gradient from its own rows.

For a weight W [out, in] the gradient is ``sum_r g_r x_r^T`` over the rows r of the batch. Here each piece of W (the
units of a block, those of the rest) sums over the rows that may train it, times their weight. What no row may train is
not multiplied, so that the layer costs less than in plain training.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sluicegate.routing.labels import Groups
from sluicegate.routing.parameter_pieces import JOINT, Piece

Spans = tuple[tuple[int, int, float], ...]
"""Runs (start, stop) of a divided dimension with the weight that some rows have for them, where it is not 0."""


@dataclass(frozen=True)
class Cut:
    """How a linear layer's parameters are divided."""

    weight: tuple[Piece, ...]
    bias: tuple[Piece, ...]
    transposed: bool
    """Whether the weight is [in, out], as in `Conv1D`, and not [out, in]."""
    row_dims: int = 1
    """How many leading dimensions of the input the labels cover: 1 for rows, 2 for tokens."""
    known: dict[tuple[float, ...], tuple[Spans, Spans]] = field(default_factory=dict, repr=False, compare=False)
    """By weights, what `spans` found: small layers would spend as long in asking as in multiplying."""

    def spans(self, weights: tuple[float, ...], inputs: int, outputs: int) -> tuple[Spans, Spans]:
        """What rows with these weights by column train of the weight and of the bias."""
        if weights not in self.known:
            along_out = self.weight[0].dim == (1 if self.transposed else 0)
            self.known[weights] = _spans(self.weight, weights, outputs if along_out else inputs), _spans(self.bias, weights, outputs)
        return self.known[weights]


def _spans(pieces: tuple[Piece, ...], weights: tuple[float, ...], size: int) -> Spans:
    if len({weights[piece.column] for piece in pieces}) == 1:  # one product over the whole width: narrow ones are slower
        found = [(0, size, weights[pieces[0].column])]
    else:
        found = [(*run, weights[piece.column]) for piece in pieces for run in piece.runs or ((0, size),)]
    return tuple(span for span in found if span[2])


class RoutedLinear(torch.autograd.Function):
    """``y = x W^T + b``, exactly; the gradients of W and b are sums over each piece's own rows, that of x is the plain
    one.

    `groups` says which rows have which weights. Where labels cannot be looked at (soft ones, `torch.compile`) it is
    None, and `dense` [..., columns] holds every row's weights.
    """

    # Without a setup_context, in whose presence torch reads the signature anew at every call: 3 % of a small model's
    # pass.
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        dense: Tensor,
        cut: Cut,
        groups: Groups | None,
        note: Callable[[], None] | None,
    ) -> Tensor:
        ctx.cut, ctx.groups, ctx.note = cut, groups, note
        ctx.save_for_backward(x, weight, dense if groups is None else None)  # what a plain linear layer saves, and little more
        return F.linear(x, weight.t() if cut.transposed else weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        if ctx.note is not None:
            ctx.note()
        x, weight, dense = ctx.saved_tensors
        cut: Cut = ctx.cut
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        gx = gw = gb = None
        g = g.contiguous()  # once: both products below would copy it
        # The input's gradient is that of every row: the layers below decide for themselves who trains them.
        if need_x:
            matrix = weight if weight.dtype == g.dtype else weight.to(g.dtype)  # under autocast g is of lower precision
            gx = g @ (matrix.t() if cut.transposed else matrix)
            gx = gx if gx.dtype == x.dtype else gx.to(x.dtype)
        # The parameters' gradients, group by group: each adds to the pieces that it has a weight for.
        if need_weight or need_bias:
            if x.dtype != g.dtype:
                x = x.to(g.dtype)
            for own_x, own_g, (spans, bias_spans) in _weighed(x, g, dense, cut) if ctx.groups is None else _selected(x, g, ctx.groups, cut):
                if need_weight:
                    gw = _add_weight_gradient(gw, own_x, own_g, spans, cut, weight.shape)
                if need_bias:
                    gb = _add_bias_gradient(gb, own_g, bias_spans)
            if need_weight:
                gw = torch.zeros_like(weight) if gw is None else gw if gw.dtype == weight.dtype else gw.to(weight.dtype)
            if need_bias and gb is None:
                gb = g.new_zeros(g.shape[-1])
        return gx, gw, gb, None, None, None, None


Part = tuple[Tensor, Tensor, tuple[Spans, Spans]]
"""Inputs [n, in] and output gradients [n, out] of some rows, and what they train of the weight and of the bias."""


def _selected(x: Tensor, g: Tensor, groups: Groups, cut: Cut) -> Iterator[Part]:
    """Each group's rows: a view where they lie together."""
    dims, inputs, outputs = cut.row_dims, x.shape[-1], g.shape[-1]
    if dims > 1:
        x, g = x.flatten(0, dims - 1), g.flatten(0, dims - 1)
    for selection, weights in groups:
        spans = cut.spans(weights, inputs, outputs)
        if spans[0] or spans[1]:
            own_x, own_g = (x, g) if selection is None else (x[selection], g[selection])
            yield own_x.reshape(-1, inputs), own_g.reshape(-1, outputs), spans


def _weighed(x: Tensor, g: Tensor, dense: Tensor, cut: Cut) -> Iterator[Part]:
    """For each column all rows, their gradients times their weight for it: no sizes that depend on the labels."""
    inputs, outputs, columns = x.shape[-1], g.shape[-1], dense.shape[-1]
    for column in sorted({piece.column for piece in (*cut.weight, *cut.bias)}):
        own = g
        if column != JOINT:
            w = dense[..., column].to(g.dtype)
            own = g * w.reshape(*w.shape, *(1,) * (g.dim() - w.dim()))
        alone = tuple(float(c == column % (columns + 1)) for c in range(columns + 1))
        yield x.reshape(-1, inputs), own.reshape(-1, outputs), cut.spans(alone, inputs, outputs)


def _add_weight_gradient(gw: Tensor | None, x: Tensor, g: Tensor, spans: Spans, cut: Cut, shape: torch.Size) -> Tensor | None:
    """[shape] g x^T of these rows on top of `gw`, None for zero."""
    dim = cut.weight[0].dim
    along_out = dim == (1 if cut.transposed else 0)
    for start, stop, value in spans:
        whole = stop - start == shape[dim]
        part_x, part_g = (x, g) if whole else (x, g[:, start:stop]) if along_out else (x[:, start:stop], g)
        left, right = (part_x.t(), part_g) if cut.transposed else (part_g.t(), part_x)
        if gw is None and whole:
            gw = left @ right if value == 1.0 else left @ right * value
        else:
            gw = g.new_zeros(shape) if gw is None else gw
            gw.narrow(dim, start, stop - start).addmm_(left, right, alpha=value)  # straight to its place
    return gw


def _add_bias_gradient(gb: Tensor | None, g: Tensor, spans: Spans) -> Tensor:
    """[out] the sum of g over these rows on top of `gb`, None for zero."""
    gb = g.new_zeros(g.shape[-1]) if gb is None else gb
    for start, stop, value in spans:
        gb[start:stop].add_(g[:, start:stop].sum(0), alpha=value)
    return gb
