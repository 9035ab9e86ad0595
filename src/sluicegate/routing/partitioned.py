"""The fast path of both forms: a linear layer on a batch in which the rows of a label lie together.

The parameter form leaves rows out of the weight's gradient. A gate at the layer's output or input sets
rows of a gradient to zero, and what is zero need not be multiplied either. Small layers spend as long
between their products as in them, so which products a layout of labels takes is worked out once, and
the backward pass only multiplies.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sluicegate.routing.labels import Runs
from sluicegate.routing.parameter_pieces import JOINT, Piece


class Pass(Protocol):
    """What a layer has to know of the pass that it is part of."""

    number: int

    def check(self, number: int, site: str) -> None: ...

    def came_back(self, number: int) -> None: ...


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
    inputs: tuple[Product, ...]
    """What the input's gradient is made of where a gate holds part of it back, weight 0 for that part; empty without a gate."""


@dataclass(frozen=True)
class Cut:
    """How a linear layer's parameters are divided."""

    weight: tuple[Piece, ...]
    bias: tuple[Piece, ...]
    transposed: bool
    """Whether the weight is [in, out], as in `Conv1D`."""
    row_dims: int = 1
    """How many leading dimensions the labels cover."""
    gate: tuple[Piece, ...] = ()
    """How the features of a gate on this layer are divided; empty without one."""
    reads: bool = False
    """Whether the gate is at the layer's input."""
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
            columns = {piece.column for piece in (*self.weight, *self.bias, *self.gate)}
            whole = all(found.of(c) == found.of(JOINT) for c in columns)
            begins = bool(own) and own[0][:2] == (0, weight.shape[self.weight[0].dim]) and own[0].value == 1.0
            gated = _through(self.gate, outputs if not self.reads else weight.numel() // outputs, found, self.reads) if self.gate else ()
            self.plans[found] = Plan(whole, found.rows, own, _products(self.bias, outputs, found), filled, begins, gated)
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


def _through(gate: tuple[Piece, ...], size: int, found: Layout, reads: bool) -> tuple[Product, ...]:
    """The products behind a gate at the output, by the features of the gradient; or before one at the input, by those of the result."""
    features = sorted((start, stop, found.of(piece.column)) for piece in gate for start, stop in piece.runs or ((0, size),))
    ends = sorted({end for _, _, rows in features for first, last, _ in rows for end in (first, last)} | {0, found.rows})
    parts: list[tuple[int, int, list[tuple[int, int, float]]]] = []
    for first, last in pairwise(ends):
        own: list[tuple[int, int, float]] = []
        for start, stop, rows in features:
            value = next((value for a, b, value in rows if a <= first and last <= b), 0.0)
            if own and own[-1][2] == value:
                own[-1] = (own[-1][0], stop, value)
            else:
                own.append((start, stop, value))
        if not reads:  # what is zero adds nothing, unless there is nothing else
            own = [part for part in own if part[2]] or own[:1]
        if parts and parts[-1][2] == own:
            parts[-1] = (parts[-1][0], last, own)
        else:
            parts.append((first, last, own))
    return tuple(
        Product(start, stop, first, last, value, on_top=n > 0 and not reads)
        for first, last, own in parts
        for n, (start, stop, value) in enumerate(own)
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


Layer = tuple[Cut, Plan]


class PartitionedLinear(torch.autograd.Function):
    """Linear layers that read one input, each weight's gradient the sum over each piece's own stretches of rows, with a gate or without."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, context: Pass, site: str | None, layers: tuple[Layer, ...], *own: Tensor | None) -> tuple[Tensor, ...]:
        # One function and not two: with a setup_context, torch reads the signature anew at every call.
        ctx.held = context, context.number, site, layers
        ctx.save_for_backward(x, *own[::2])
        ctx.set_materialize_grads(False)
        found, i = [], 0
        for cut, _ in layers:
            weight: Tensor = own[i]  # type: ignore[assignment]
            found.append(F.linear(x, weight.t() if cut.transposed else weight, own[i + 1]))
            i += 2
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *gs: Tensor | None) -> tuple[Tensor | None, ...]:
        context, number, site, layers = ctx.held
        need = ctx.needs_input_grad
        if site is not None:  # a gate: before the saved tensors are asked for, which may start a recomputation
            context.check(number, site)
        else:
            context.came_back(number)
        x, *weights = ctx.saved_tensors
        shape, kind = x.shape, x.dtype
        flat = x if x.dim() == 2 else x.flatten(0, -2)
        inner = flat.shape[0] // layers[0][1].rows  # tokens of a row
        if site is not None and torch.is_grad_enabled():  # to be differentiated again, and the weight's gradient reads x behind the gate
            flat = _behind_gate(flat, layers[0][0], layers[0][1], inner)
        gx: Tensor | None = None
        found: list[Tensor | None] = []
        for i, g in enumerate(gs):
            if g is None:
                found += None, None
                continue
            (cut, plan), weight = layers[i], weights[i]
            if g.dim() != 2:
                g = g.flatten(0, -2)
            if not g.is_contiguous():
                g = g.contiguous()  # once: both products below would copy it
            own = weight.dtype
            if own != g.dtype or kind != g.dtype:  # under autocast
                flat, weight = flat.to(g.dtype), weight.to(g.dtype)
            if need[0]:
                gx = _input_gradient(gx, weight, g, cut, plan, inner)
            gw = _weight_gradient(weight, flat, g, cut, plan, inner) if need[4 + 2 * i] else None
            found += gw if gw is None or gw.dtype == own else gw.to(own), _bias_gradient(g, plan, inner) if need[5 + 2 * i] else None
        if gx is not None and (gx.dtype != kind or len(shape) != 2):
            gx = gx.to(kind).view(shape)
        return gx, None, None, None, *found


partitioned: Callable[..., tuple[Tensor, ...]] = super(torch.autograd.Function, PartitionedLinear).apply
"""`PartitionedLinear.apply` without what torch does there for function transforms, under which it is not called."""


def _input_gradient(gx: Tensor | None, weight: Tensor, g: Tensor, cut: Cut, plan: Plan, inner: int) -> Tensor:
    """[rows, inputs] on top of what other layers gave."""
    matrix = weight.t() if cut.transposed else weight  # [outputs, inputs]
    recorded = torch.is_grad_enabled()  # to be differentiated again: products in place of a view are kept track of
    if not plan.inputs:
        return g.mm(matrix) if gx is None else gx + g @ matrix if recorded else gx.addmm_(g, matrix)
    gx = g.new_empty(g.shape[0], matrix.shape[1])
    for start, stop, first, last, value, on_top in plan.inputs:
        own, left, right = gx[first * inner : last * inner], g[first * inner : last * inner], matrix
        if cut.reads:
            own, right = own[:, start:stop], right[:, start:stop]
        elif stop - start < len(matrix):
            left, right = left[:, start:stop], right[start:stop]
        if not value:
            own.zero_()  # and not times 0, which keeps what is not finite
        elif recorded:
            own.copy_(own + left @ right * value if on_top else left @ right * value)
        else:
            own.addmm_(left, right, beta=1.0 if on_top else 0.0, alpha=value)
    return gx


def _behind_gate(x: Tensor, cut: Cut, plan: Plan, inner: int) -> Tensor:
    """[rows, inputs] the same numbers, whose gradient a gate at the input holds back."""
    if not cut.reads:
        return x
    mask = torch.ones_like(x)
    for start, stop, first, last, value, _ in plan.inputs:
        mask[first * inner : last * inner, start:stop] = value
    return x.detach() + mask * (x - x.detach())


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
    recorded = torch.is_grad_enabled()
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
