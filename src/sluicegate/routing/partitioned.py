"""The parameter form's fast path: a linear layer on a batch in which the rows of a label lie together.

Small layers spend as long between their products as in them. So which products a layout of labels
takes is worked out once, and the backward pass only multiplies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sluicegate.routing.labels import Runs
from sluicegate.routing.pieces import JOINT, Piece

if TYPE_CHECKING:
    from sluicegate.routing.flow import Flow

Stretches = tuple[tuple[int, int, float], ...]
"""Rows (first, last) and their weight, where it is not 0."""
_KEPT = 64
"""Layouts whose products a layer remembers."""


class Layout(NamedTuple):
    """Where the rows of each column lie in a partitioned batch. Hashable: the same layout again takes the same products."""

    rows: int
    columns: tuple[Stretches, ...]
    """By column: rest, blocks."""

    def of(self, column: int) -> Stretches:
        return ((0, self.rows, 1.0),) if column == JOINT else self.columns[column]


def layout(runs: Runs, shares: Sequence[Sequence[float]]) -> Layout:
    """The layout of a batch whose rows lie in `runs`, by the weights `shares` of a label and column."""
    columns = []
    for column in range(len(shares[0])):
        own: list[tuple[int, int, float]] = []
        first = 0
        for label, count in runs:
            value = shares[label][column]
            if own and own[-1][1] == first and own[-1][2] == value:
                own[-1] = (own[-1][0], first + count, value)
            elif value:
                own.append((first, first + count, value))
            first += count
        columns.append(tuple(own))
    return Layout(first, tuple(columns))


class Product(NamedTuple):
    """Rows first to last of the batch, times a weight, into start to stop of the gradient, on top of what is there or not."""

    start: int
    stop: int
    first: int
    last: int
    value: float
    on_top: bool


@dataclass(frozen=True, eq=False)
class Plan:
    """What a layer has to compute for one layout."""

    whole: bool
    """Every row trains everything: an ordinary layer."""
    rows: int
    weight: tuple[Product, ...]
    bias: tuple[Product, ...]
    filled: bool
    """Whether the products fill the weight's gradient, so that nothing need be zeroed first."""
    begins: bool
    """Whether the first one alone does, with weight 1."""


@dataclass(frozen=True)
class Cut:
    """How a linear layer's parameters are divided."""

    weight: tuple[Piece, ...]
    bias: tuple[Piece, ...]
    transposed: bool
    """Whether the weight is [in, out], as in `Conv1D`."""
    row_dims: int = 1
    """How many leading dimensions the labels cover."""
    plans: dict[Layout, Plan] = field(default_factory=dict, repr=False, compare=False)
    """What is known already."""

    @property
    def along_out(self) -> bool:
        """Whether the weight is divided along its outputs."""
        return self.weight[0].dim == (1 if self.transposed else 0)

    def plan(self, found: Layout, weight: Tensor) -> Plan:
        """The products for a layout."""
        if found not in self.plans:
            if len(self.plans) >= _KEPT:
                self.plans.clear()
            outputs = weight.shape[1 if self.transposed else 0]
            own = _products(self.weight, weight.shape[self.weight[0].dim], found)
            filled = sum(p.stop - p.start for p in own if not p.on_top) == weight.shape[self.weight[0].dim]
            columns = {piece.column for piece in (*self.weight, *self.bias)}
            whole = all(found.of(c) == found.of(JOINT) for c in columns)
            begins = bool(own) and own[0][:2] == (0, weight.shape[self.weight[0].dim]) and own[0].value == 1.0
            self.plans[found] = Plan(whole, found.rows, own, _products(self.bias, outputs, found), filled, begins)
        return self.plans[found]


def _products(own: tuple[Piece, ...], size: int, found: Layout) -> tuple[Product, ...]:
    runs = [(start, stop, found.of(piece.column)) for piece in own for start, stop in piece.runs or ((0, size),)]
    common: Stretches = ()
    if len(runs) > 1 and sum(stop - start for start, stop, _ in runs) == size:
        common = _common([rows for _, _, rows in runs])
        if 2 * sum(last - first for first, last, _ in common) < found.rows:
            common = ()
    # Rows that train every piece alike go in one product over the whole width: narrow products are slower.
    whole = tuple(Product(0, size, first, last, value, on_top=n > 0) for n, (first, last, value) in enumerate(common))
    return whole + tuple(
        Product(start, stop, first, last, value, on_top=bool(common) or n > 0)
        for start, stop, rows in runs
        for n, (first, last, value) in enumerate(_without(rows, common))
    )


def _common(columns: Sequence[Stretches]) -> Stretches:
    """The rows that have one weight, not 0, in all columns."""
    ends = sorted({end for rows in columns for first, last, _ in rows for end in (first, last)})
    found: list[tuple[int, int, float]] = []
    for first, last in pairwise(ends):
        values = {next((value for a, b, value in rows if a <= first and last <= b), 0.0) for rows in columns}
        if len(values) == 1 and values != {0.0}:
            (value,) = values
            if found and found[-1][1:] == (first, value):
                found[-1] = (found[-1][0], last, value)
            else:
                found.append((first, last, value))
    return tuple(found)


def _without(rows: Stretches, common: Stretches) -> Stretches:
    """What is left of a column once the common rows are taken out."""
    for a, b, _ in common:
        parts = [((first, min(last, a), value), (max(first, b), last, value)) for first, last, value in rows]
        rows = tuple(part for both in parts for part in both if part[0] < part[1])
    return rows


class PartitionedLinear(torch.autograd.Function):
    """A linear layer whose weight gradient is the sum over each piece's own stretches of rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, cut: Cut, plan: Plan, flow: "Flow") -> Tensor:
        # One function and not two: with a setup_context, torch reads the signature anew at every call.
        ctx.cut, ctx.plan, ctx.flow, ctx.number = cut, plan, flow, flow.number
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight.t() if cut.transposed else weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        ctx.flow.came_back(ctx.number)
        x, weight = ctx.saved_tensors
        cut, plan, kinds = ctx.cut, ctx.plan, (x.dtype, weight.dtype)
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        shape = x.shape
        if g.dim() != 2:
            g, x = g.flatten(0, -2), x.flatten(0, -2)
        if not g.is_contiguous():
            g = g.contiguous()  # once: both products below would copy it
        mixed = kinds != (g.dtype, g.dtype)  # under autocast
        if mixed:
            x, weight = x.to(g.dtype), weight.to(g.dtype)
        gx = gw = gb = None
        if need_x:
            gx = g.mm(weight.t() if cut.transposed else weight)
            if len(shape) != 2:
                gx = gx.view(shape)
        inner = x.shape[0] // plan.rows  # tokens of a row
        if need_weight:
            gw = _weight_gradient(weight, x, g, cut, plan, inner)
        if need_bias:
            gb = _bias_gradient(g, plan, inner)
        if mixed:
            gx, gw = gx if gx is None else gx.to(kinds[0]), gw if gw is None else gw.to(kinds[1])
        return gx, gw, gb, None, None, None


def _weight_gradient(weight: Tensor, x: Tensor, g: Tensor, cut: Cut, plan: Plan, inner: int) -> Tensor:
    products = plan.weight
    dim, along_out = cut.weight[0].dim, cut.along_out
    if plan.begins:  # with the product of the rows that train the whole weight, and nothing to zero or to add to
        _, _, first, last, _, _ = products[0]
        part_x, part_g = (x, g) if last - first == plan.rows else (x[first * inner : last * inner], g[first * inner : last * inner])
        gw = part_x.t().mm(part_g) if cut.transposed else part_g.t().mm(part_x)
        products = products[1:]
    else:
        gw = torch.empty_like(weight) if plan.filled else torch.zeros_like(weight)
    recorded = torch.is_grad_enabled()  # to be differentiated again: products in place of a view are kept track of
    for start, stop, first, last, value, on_top in products:
        a, b = first * inner, last * inner
        part_x, part_g = (x[a:b], g[a:b, start:stop]) if along_out else (x[a:b, start:stop], g[a:b])
        left, right = (part_x.t(), part_g) if cut.transposed else (part_g.t(), part_x)
        own = gw.narrow(dim, start, stop - start)
        if recorded:
            own.copy_(own + left @ right * value if on_top else left @ right * value)
        else:
            own.addmm_(left, right, beta=1.0 if on_top else 0.0, alpha=value)  # straight to its place; beta 0 reads nothing
    return gw


def _bias_gradient(g: Tensor, plan: Plan, inner: int) -> Tensor:
    sums = plan.bias
    if sums and sums[0].value == 1.0 and sums[0].stop - sums[0].start == g.shape[-1]:
        gb = g[sums[0].first * inner : sums[0].last * inner].sum(0)
        sums = sums[1:]
    else:
        gb = g.new_zeros(g.shape[-1])
    for start, stop, first, last, value, _ in sums:
        gb[start:stop].add_(g[first * inner : last * inner, start:stop].sum(0), alpha=value)
    return gb
