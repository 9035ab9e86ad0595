"""The parameter form: rows of a batch that may not train a weight do not enter its gradient.

The forward pass and the gradients of activations are those of plain training; only weight
gradients leave rows out. Where the rows of one label lie together, the products that nobody may
use are not computed at all, which makes this form as fast as plain training, and faster on wide layers.

Source: the parameter masks of SGTM (arXiv 2512.05648), there one label a step and two backward
passes; here one pass over a mixed batch.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from sluicegate.errors import UserError
from sluicegate.routing.gains import NormGains, PerRow, is_fused, may_be_by_feature
from sluicegate.routing.labels import transformed
from sluicegate.routing.mixed import GroupedLinear, RoutedLinear, Rows
from sluicegate.routing.parameter_pieces import JOINT, Piece
from sluicegate.routing.partitioned import Cut, Layer, Layout, partitioned
from sluicegate.routing.pass_context import PassContext, laid
from sluicegate.routing.siblings import Ready
from sluicegate.routing.sites import CHANNELS_FIRST, only_multiplies


class MaskedForward:
    """Stands in for a module's `forward` while a router is attached; the module itself stays what it was."""

    def __init__(self, name: str, module: nn.Module, cut: dict[str, tuple[Piece, ...]], context: PassContext) -> None:
        self.name, self.module, self.cut, self.context = name, module, cut, context
        if any(type(hook).__module__.startswith("torch.nn.utils") for hook in module._forward_pre_hooks.values()):
            raise UserError(  # weight_norm of the old kind, and pruning: what the module multiplies by is made anew before every call
                f"module {name!r} ({type(module).__name__}) has a weight that a hook of torch.nn.utils makes from others, so its rows "
                f"cannot be told apart. Use torch.nn.utils.parametrizations, or let it learn from everything: joint={name + '.*'!r}."
            )
        self.own = module.__dict__.get("forward")
        """A `forward` that somebody else had put on the module itself."""
        self.columns = sorted({piece.column for own in cut.values() for piece in own})
        if only_multiplies(module):
            transposed = not isinstance(module, nn.Linear)
            whole = (Piece(JOINT, 0, None),)
            self.linear: tuple[Cut, Cut] | None = tuple(  # type: ignore[assignment]
                Cut(cut.get("weight", whole), cut.get("bias", whole), transposed, dims) for dims in (1, 2)
            )
        else:
            self.linear = None
        self.shadow = _without_hooks(module)
        self.seen: tuple[Layout, int, Any] | None = None
        """The layout of the last partitioned batch, its dimensions, and what linear layers compute or the masks of a norm's vectors."""
        self.siblings: tuple[MaskedForward, ...] = ()
        """Linear layers that are called after this one with the same tensor."""
        self.alone = False
        """Whether there once was one that was not."""
        self.fused = is_fused(module)
        self.by_feature: bool | None = None if may_be_by_feature(module) else False
        """Whether its weights are multiplied feature by feature; None until that was tried."""

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
        context, compiling = self.context, is_compiling()
        if not compiling and len(args) == 1 and not kwargs:
            if context.siblings.ready and (y := context.siblings.taken(self, args[0])) is not None:
                return y
            if self.seen is not None and (again := self._again(args[0])) is not None:
                return again
        if not context.open:
            if not compiling:
                context.idle(self.name)
            return self.plain(*args, **kwargs)
        if self.linear is not None and not compiling and (y := self._partitioned(args, kwargs)) is not None:
            return y
        own = self.module._parameters
        if not any(p.requires_grad for name in self.cut if (p := own.get(name)) is not None):
            return self.plain(*args, **kwargs)
        if context.late:
            raise UserError(
                f"module {self.name!r}: labels that come after the forward pass only work in the activation form (form='gate'): the "
                "parameter form has to know which rows may train which weights."
            )
        if self.own is not None and not isinstance(self.own, MaskedForward):
            raise UserError(
                f"module {self.name!r}: something else has put its own forward on it, whose rows cannot be told apart. Take that off, or "
                f"let it learn from everything: joint={self.name + '.*'!r}."
            )
        if not compiling:
            context.applied += 1
            if context.index is not None and context.all_whole(self.columns):
                return self.plain(*args, **kwargs)
        if self.linear is not None and len(args) == 1 and not kwargs and (dense := self._weights(args[0], args[0].dim() - 1)) is not None:
            return self._linear(args[0], dense, compiling)
        if (
            not compiling
            and context.index is not None
            and (self.fused or self.by_feature is not False)
            and len(args) == 1
            and not kwargs
            and not transformed()
        ):
            x = args[0]
            if isinstance(x, Tensor) and torch.is_grad_enabled() and (dense := self._weights(x, x.dim() - 1)) is not None:
                if self.fused:
                    return self._gains(x, dense)
                if (found := self._by_feature(x, dense)) is not None:
                    return found
        return self._two_ways(args, kwargs)

    def _again(self, x: Any) -> Tensor | None:
        """The answer by what was found for the last batch, if this one lies like it: small layers cost less than the asking."""
        assert self.seen is not None
        context, (layout, dims, known) = self.context, self.seen
        # `shape[0]` and not `len`, and no call more than needed: all of this runs cold, between two products.
        if context.layout is not layout or not isinstance(x, Tensor) or x.dim() != dims or x.shape[0] != layout.rows or transformed():
            return None
        context.applied += 1
        own: dict[str, Any] = self.module._parameters
        if self.linear is not None:
            return self._with_siblings(x, known)
        return self._called({name: torch.where(mask, p := own[name], p.detach()) for name, mask in known.items()}, x)

    def _partitioned(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """A linear layer whose rows lie together by label; None where they do not, or where anything else is out of the ordinary."""
        context = self.context
        if kwargs or len(args) != 1 or self.own is not None or transformed() or (found := context.layout) is None:
            return None
        x = args[0]
        if not isinstance(x, Tensor) or x.dim() < 2 or x.shape[0] != found.rows:
            return None
        own = self.module._parameters
        weight, bias = own["weight"], own.get("bias")
        if weight is None or not (weight.requires_grad or (bias is not None and bias.requires_grad)):
            return None
        cut = self.linear[0]  # type: ignore[index]
        plan = cut.plan(found, weight)
        context.applied += 1
        if plan.whole:
            return self.plain(x)  # type: ignore[no-any-return]
        layers = [(self, cut, plan)]
        for other in self.siblings:
            if other.linear is not None and other.may_be_early:
                layers.append((other, other.linear[0], other.linear[0].plan(found, other.module._parameters["weight"])))  # type: ignore[arg-type]
        if len(layers) == 1:
            context.siblings.met(self, x)
        self.seen = found, x.dim(), (tuple(one for one, _, _ in layers), tuple((c, p) for _, c, p in layers))
        return self._with_siblings(x, self.seen[2])

    def _with_siblings(self, x: Tensor, known: tuple[tuple["MaskedForward", ...], tuple[Layer, ...]]) -> Tensor:
        """The layer, and in advance those that are about to read the same."""
        context, (masked, layers) = self.context, known
        if len(masked) > 1 and not (torch.is_grad_enabled() and all(one.may_be_early for one in masked[1:])):
            masked, layers = masked[:1], layers[:1]
        own: list[Tensor | None] = []
        for one in masked:
            parameters = one.module._parameters
            own += parameters["weight"], parameters.get("bias")
        y, *others = partitioned(x, context, None, layers, *own)
        for one, weight, other in zip(masked[1:], own[2::2], others, strict=True):
            context.siblings.ready[one] = Ready(x, x._version, weight, other, self)  # type: ignore[arg-type]
        return y

    @property
    def may_be_early(self) -> bool:
        """Whether nothing is to happen between the call of the module and its product."""
        return self.own is None and not self.module._forward_pre_hooks and self.module._parameters["weight"] is not None

    def _gains(self, x: Tensor, dense: Tensor) -> Tensor:
        """One of torch's own norms."""
        module, whole = self.module, (Piece(JOINT, 0, None),)
        held = self._called({name: p if p is None else p.detach() for name, p in module._parameters.items()}, x)
        bias = module._parameters.get("bias")
        own = self.cut.get("weight", whole), self.cut.get("bias", whole)
        return NormGains.apply(held, x.detach(), module.weight, bias, dense, own, module)  # type: ignore[no-any-return, no-untyped-call]

    def _by_feature(self, x: Tensor, dense: Tensor) -> Tensor | None:
        """A norm written by hand; None where it turns out not to be one."""
        whole, missing = (Piece(JOINT, 0, None),), x.dim() - dense.dim()
        own = {n: p for n, p in self.module._parameters.items() if p is not None}
        if any(p.shape != x.shape[-1:] for p in own.values()) or (self.by_feature is None and x.shape[0] < 2):
            return None
        masks = self._masks(own, x.dim())
        if self.by_feature and masks is not None and self.context.layout is not None:
            self.seen = self.context.layout, x.dim(), masks
        if masks is not None:  # a chain of torch's own functions takes less time than one of ours
            apart = {name: torch.where(masks[name], p, p.detach()) for name, p in own.items()}
        else:
            apart = {name: PerRow.apply(p, dense, self.cut.get(name, whole), missing) for name, p in own.items()}  # type: ignore[no-untyped-call]
        if self.by_feature:
            return self._called(apart, x)
        try:
            found = self._called(apart, x)
            with torch.no_grad():
                expected = self._called(own, x)
                first = {name: p.clone() for name, p in apart.items()}
                for p in first.values():
                    p[1:] = 0.0  # what other rows are given must not matter to the first
                alone = self._called(first, x)
            same = isinstance(found, Tensor) and found.dtype == expected.dtype and torch.equal(found, expected)
            self.by_feature = same and torch.equal(alone[0], expected[0])
        except (RuntimeError, TypeError, IndexError, ValueError, AttributeError):
            self.by_feature = False
        return found if self.by_feature else None

    def _masks(self, names: Iterable[str], dims: int) -> dict[str, Tensor] | None:
        """By parameter, which rows train it; None where that is not all there is to say."""
        found = {}
        for name in names:
            own = self.cut.get(name, ())
            if len(own) != 1 or own[0].runs is not None or own[0].column == JOINT:
                return None
            if (mask := self.context.mask(own[0].column, dims)) is None:
                return None
            found[name] = mask
        return found

    def _called(self, parameters: dict[str, Any], x: Tensor) -> Tensor:
        """The module's forward with these for its parameters: by the shadow, whose table takes any tensor."""
        own = self.shadow.__dict__  # and not by setattr, which a module makes a search of
        before, own["_parameters"], own["training"] = own["_parameters"], parameters, self.module.training
        try:
            return type(self.module).forward(self.shadow, x)  # type: ignore[no-any-return]
        finally:
            own["_parameters"] = before

    def _linear(self, x: Tensor, dense: Tensor, compiling: bool) -> Tensor:
        assert self.linear is not None
        context, module = self.context, self.module
        if compiling or context.index is None or transformed():
            return RoutedLinear.apply(x, module.weight, module.bias, dense, self.linear[0], None, None)  # type: ignore[no-any-return, no-untyped-call]
        rows: Rows = {column: context.rows(column) or [] for column in self.columns}
        rows[JOINT] = [(None, 1.0)]
        cut, number = self.linear[dense.dim() - 2], context.number
        return GroupedLinear.apply(x, module.weight, module.bias, cut, rows, lambda: context.came_back(number))  # type: ignore[no-any-return, no-untyped-call]

    def _weights(self, x: Tensor, axis: int) -> Tensor | None:
        """The weights of the rows of `x`; None where it has not the batch's rows.

        What is ablated in the forward pass needs no weight here: its gradient is zero, or a share, already.
        """
        assert self.context.backward is not None
        return laid(self.context.backward, x.shape, axis)

    def _two_ways(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Any module without children: once with its weights held, and once for their gradients alone.

        ``held(x) + w * (free(x.detach()) - free(x.detach()).detach())``: the added term is exactly
        zero, and its gradient is the weights' own, row by row times w.
        """
        own = dict(self.module.named_parameters(recurse=False))
        self.shadow.training = self.module.training
        fixed = {name: p.detach() if name in self.cut else p for name, p in own.items()}
        state = {name: b.clone() for name, b in self.module.named_buffers(recurse=False)}  # a norm's running means count once
        held = torch.func.functional_call(self.shadow, fixed, args, kwargs)
        if not isinstance(held, Tensor):
            raise UserError(
                f"module {self.name!r} ({type(self.module).__name__}) has weights of its own and gives a {type(held).__name__}, so its "
                f"rows cannot be told apart. Let it learn from everything: joint={self.name + '.*'!r}."
            )
        if not torch.is_grad_enabled():
            return held
        seen = tuple(a.detach() if isinstance(a, Tensor) else a for a in args)
        named = {k: a.detach() if isinstance(a, Tensor) else a for k, a in kwargs.items()}
        weights = self._rows_of(held)
        for column in self.columns:
            live = {name: _live(p, column, self.cut.get(name, ())) for name, p in own.items()}
            free = torch.func.functional_call(self.shadow, live | {name: b.clone() for name, b in state.items()}, seen, named)
            w = weights[..., column].to(held.dtype)
            held = held + w.reshape(*w.shape, *(1,) * (free.dim() - w.dim())) * (free - free.detach())
        return held

    def _rows_of(self, y: Tensor) -> Tensor:
        """The weights of the rows of an output, which may be one for all rows (positions, for example)."""
        assert self.context.backward is not None
        axis = 1 if isinstance(self.module, CHANNELS_FIRST) else y.dim() - 1
        if (weights := self._weights(y, axis)) is not None:
            return weights
        lead = self.context.backward.shape[:-1]
        if y.dim() > len(lead) and y.shape[0] == 1 and all(size in (1, own) for size, own in zip(y.shape[: len(lead)], lead, strict=True)):
            return self.context.backward
        raise UserError(
            f"module {self.name!r}: labels have shape {tuple(lead)}, but what it gives is {tuple(y.shape)}. Labels must have the batch's "
            f"own size; a module that does not see the batch row by row learns from everything: joint={self.name + '.*'!r}."
        )


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
