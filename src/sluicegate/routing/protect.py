"""The parameter form: rows of a batch that may not train a weight do not enter its gradient.

The forward pass and the gradients of activations are those of plain training; only weight
gradients leave rows out. Where the rows of one label lie together, the products that nobody may
use are not computed at all, which makes this form faster than plain training.

Source: the parameter masks of SGTM (arXiv 2512.05648), there one label a step and two backward
passes; here one pass over a mixed batch.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sluicegate.errors import UserError
from sluicegate.routing.flow import Flow, Selection
from sluicegate.routing.sites import Part, is_linear, runs

Runs = tuple[tuple[int, int], ...]
Take = Callable[[int], list[tuple[Tensor, Tensor, float]]]
"""For a column, the inputs and gradients of the rows that move it, with their weight."""


@dataclass(frozen=True)
class Piece:
    """A share of one parameter that belongs to one column."""

    column: int
    dim: int
    runs: Runs | None
    """Where along `dim`; None for all of it."""


def pieces(parameter: Tensor, parts: Sequence[tuple[Part, dict[int, tuple[int, int]]]]) -> tuple[Piece, ...]:
    """Cut a parameter into each block's share and the rest's.

    `parts` holds the sites' parts of this parameter with the units of each block (by column).
    """
    if not parts:
        return (Piece(0, 0, None),)
    part, blocks = parts[0]
    dim = part.dim
    rest = torch.ones(parameter.shape[dim], dtype=torch.bool)
    found = []
    for column, (start, stop) in blocks.items():
        mine = part.belongs(start, stop)
        rest &= ~mine
        if mine.any():
            found.append(Piece(column, dim, runs(mine)))
    if rest.any():
        found.append(Piece(0, dim, runs(rest)))
    if len(found) == 1:
        return (Piece(found[0].column, dim, None),)
    return tuple(found)


class RoutedLinear(torch.autograd.Function):
    """A linear layer whose weight gradient is the sum over each piece's own rows."""

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        dense: Tensor | None,
        cut: "Cut",
        rows: dict[int, list[tuple[Selection, float]]] | None,
    ) -> Tensor:
        return F.linear(x, weight.t() if cut.transposed else weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias, dense, ctx.cut, ctx.rows = inputs
        ctx.has_bias = bias is not None
        ctx.save_for_backward(x, weight, dense)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, weight, dense = ctx.saved_tensors
        cut: Cut = ctx.cut
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        gx = gw = gb = None
        if need_x:
            matrix = weight.to(g.dtype)
            gx = (g @ (matrix.t() if cut.transposed else matrix)).to(x.dtype)
        if need_weight or need_bias:
            take = _dense_rows(x.to(g.dtype), g, dense) if ctx.rows is None else _grouped_rows(x.to(g.dtype), g, ctx.rows, cut.row_dims)
            if need_weight:
                gw = _weight_gradient(weight, g, cut, take)
            if need_bias and ctx.has_bias:
                gb = _bias_gradient(g, cut, take)
        return gx, gw, gb, None, None, None


@dataclass(frozen=True)
class Cut:
    """How a linear layer's parameters are divided."""

    weight: tuple[Piece, ...]
    bias: tuple[Piece, ...]
    transposed: bool
    """Whether the weight is [in, out], as in `Conv1D`."""
    row_dims: int = 1
    """How many leading dimensions the labels cover."""


def _grouped_rows(x: Tensor, g: Tensor, rows: dict[int, list[tuple[Selection, float]]], row_dims: int) -> Take:
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
    gw = torch.zeros(weight.shape, dtype=g.dtype, device=weight.device)
    along_out = cut.weight[0].dim == (1 if cut.transposed else 0)
    for piece in cut.weight:
        for own_x, own_g, value in take(piece.column):
            for start, stop in piece.runs or ((0, weight.shape[piece.dim]),):
                part_x, part_g = (own_x, own_g[:, start:stop]) if along_out else (own_x[:, start:stop], own_g)
                product = part_x.t() @ part_g if cut.transposed else part_g.t() @ part_x
                gw.narrow(piece.dim, start, stop - start).add_(product, alpha=value)
    return gw.to(weight.dtype)


def _bias_gradient(g: Tensor, cut: Cut, take: Take) -> Tensor:
    gb = torch.zeros(g.shape[-1], dtype=g.dtype, device=g.device)
    for piece in cut.bias:
        for _, own_g, value in take(piece.column):
            for start, stop in piece.runs or ((0, len(gb)),):
                gb[start:stop].add_(own_g[:, start:stop].sum(0), alpha=value)
    return gb


class Shield:
    """Stands in for a module's `forward` while a router is attached; the module itself stays what it was."""

    def __init__(self, name: str, module: nn.Module, cut: dict[str, tuple[Piece, ...]], flow: Flow) -> None:
        self.name, self.module, self.cut, self.flow = name, module, cut, flow
        self.own = module.__dict__.get("forward")
        """A `forward` that somebody else had put on the module itself."""
        self.columns = sorted({piece.column for own in cut.values() for piece in own})
        if is_linear(module):
            transposed = not isinstance(module, nn.Linear)
            whole = (Piece(0, 0, None),)
            self.linear: tuple[Cut, Cut] | None = tuple(  # type: ignore[assignment]
                Cut(cut.get("weight", whole), cut.get("bias", whole), transposed, dims) for dims in (1, 2)
            )
        else:
            self.linear = None
            self.shadow = _without_hooks(module)

    def attach(self) -> None:
        self.module.forward = self

    def remove(self) -> None:
        if self.module.__dict__.get("forward") is self:
            del self.module.forward
            if self.own is not None:
                self.module.forward = self.own

    def plain(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward."""
        return self.own(*args, **kwargs) if self.own is not None else type(self.module).forward(self.module, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        flow = self.flow
        if not flow.open:
            if not flow.open and not torch.compiler.is_compiling() and flow.unfinished and flow.in_recomputation():
                flow.too_late(self.name)
            return self.plain(*args, **kwargs)
        if not any(p.requires_grad for name, p in self.module.named_parameters(recurse=False) if name in self.cut):
            return self.plain(*args, **kwargs)
        compiling = torch.compiler.is_compiling()
        if flow.late:
            raise UserError(
                f"module {self.name!r}: labels that come after the forward pass only work in the activation form (form='gate'): the "
                "parameter form has to know which rows may train which weights."
            )
        if not compiling:
            flow.applied += 1
            flow.returned += 1  # nothing here needs the block in the backward pass; only a recomputation would
            if flow.index is not None and flow.all_whole(self.columns):
                return self.plain(*args, **kwargs)
        if self.linear is not None and len(args) == 1 and not kwargs:
            return self._linear(args[0], compiling)
        return self._two_ways(args, kwargs)

    def _linear(self, x: Tensor, compiling: bool) -> Tensor:
        assert self.linear is not None
        flow, module = self.flow, self.module
        dims = 1 if flow.backward is None else flow.backward.dim() - 1
        dims = 1 if x.dim() - 1 < dims else dims
        self._fits(x, dims)
        rows = None if compiling or flow.index is None else {column: flow.rows(column) or [] for column in self.columns}
        dense = self._dense(x) if rows is None else None
        return RoutedLinear.apply(x, module.weight, module.bias, dense, self.linear[dims - 1], rows)  # type: ignore[no-any-return, no-untyped-call]

    def _dense(self, x: Tensor) -> Tensor:
        assert self.flow.backward is not None
        weights = self.flow.backward if self.flow.forward is None else self.flow.backward * self.flow.forward
        if tuple(x.shape[: weights.dim() - 1]) != tuple(weights.shape[:-1]):
            weights = weights.reshape(-1, weights.shape[-1])
        return weights

    def _fits(self, x: Tensor, dims: int) -> None:
        assert self.flow.backward is not None
        lead = tuple(self.flow.backward.shape[:-1])
        rows = 1
        for size in lead:
            rows *= size
        if tuple(x.shape[: len(lead)]) != lead and x.shape[0] != rows:
            raise UserError(
                f"module {self.name!r}: labels have shape {lead}, but its input is {tuple(x.shape)}. Labels must have the batch's own "
                "size; a module that does not see the batch row by row belongs into joint=."
            )

    def _two_ways(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Any module without children: once with its weights held, and once for their gradients alone.

        ``held(x) + w * (free(x.detach()) - free(x.detach()).detach())``: the added term is exactly
        zero, and its gradient is the weights' own, row by row times w.
        """
        own = dict(self.module.named_parameters(recurse=False))
        self.shadow.training = self.module.training
        held = torch.func.functional_call(self.shadow, {name: p.detach() for name, p in own.items()}, args, kwargs)
        if not isinstance(held, Tensor):
            raise UserError(
                f"module {self.name!r} ({type(self.module).__name__}) has weights of its own and gives a {type(held).__name__}, so its "
                f"rows cannot be told apart. Let it learn from everything: joint={self.name + '*'!r}."
            )
        if not torch.is_grad_enabled():
            return held
        fixed = tuple(a.detach() if isinstance(a, Tensor) else a for a in args)
        named = {k: a.detach() if isinstance(a, Tensor) else a for k, a in kwargs.items()}
        dense = self._dense(held)
        for column in self.columns:
            live = {name: _live(p, column, self.cut.get(name, ())) for name, p in own.items()}
            free = torch.func.functional_call(self.shadow, live, fixed, named)
            w = dense[..., column].to(held.dtype)
            held = held + w.reshape(*w.shape, *(1,) * (held.dim() - w.dim())) * (free - free.detach())
        return held


def _without_hooks(module: nn.Module) -> nn.Module:
    """A second handle on a module that runs none of its hooks, so that what others put there runs once."""
    shadow = copy.copy(module)
    shadow.__dict__ = {name: value for name, value in module.__dict__.items() if name != "forward"}
    shadow._parameters = dict(module._parameters)
    for name, value in module.__dict__.items():
        if name.endswith("_hooks") and isinstance(value, OrderedDict):
            shadow.__dict__[name] = OrderedDict()
    return shadow


def _live(parameter: Tensor, column: int, own: tuple[Piece, ...]) -> Tensor:
    """The parameter, of which only one column's share receives a gradient."""
    for piece in own:
        if piece.column == column:
            if piece.runs is None:
                return parameter
            shape = [1] * parameter.dim()
            shape[piece.dim] = -1
            mask = torch.zeros(parameter.shape[piece.dim], dtype=torch.bool, device=parameter.device)
            for start, stop in piece.runs:
                mask[start:stop] = True
            return torch.where(mask.view(shape), parameter, parameter.detach())
    return parameter.detach()
