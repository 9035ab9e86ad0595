"""The parameter form: rows of a batch that may not train a weight do not enter its gradient.

The forward pass and the gradients of activations are those of plain training; only weight gradients leave rows out.
Products of rows that nobody may use are not computed, so that this form costs about what plain training does.

Source: the parameter masks of SGTM (arXiv 2512.05648), there one label a step and two backward
passes; here one pass over a mixed batch.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn.utils import parametrize

from sluicegate.deprecated import alias
from sluicegate.errors import UserError
from sluicegate.routing.gains import NormGains, is_fused, may_be_by_feature
from sluicegate.routing.labels import Assigned, transformed
from sluicegate.routing.parameter_pieces import JOINT, Piece
from sluicegate.routing.pass_context import PassContext, laid
from sluicegate.routing.routed_linear import Cut, RoutedLinear
from sluicegate.routing.sites import CHANNELS_FIRST, only_multiplies

_WHOLE = (Piece(JOINT, 0, None),)
"""How a parameter is divided that learns from every row."""


class MaskedForward:
    """Stands in for a module's `forward` while a router is attached; the module itself stays what it was.

    Three ways lead to the gradients of a module's own weights, the cheapest that fits is taken: `RoutedLinear` for a
    linear layer, `_gains` or `_by_feature` for a norm, and `_two_ways` for any other module without children.
    """

    def __init__(self, name: str, module: nn.Module, cut: dict[str, tuple[Piece, ...]], context: PassContext) -> None:
        self.name, self.module, self.cut, self.context = name, module, cut, context
        if any(type(hook).__module__.startswith("torch.nn.utils") for hook in module._forward_pre_hooks.values()):
            raise UserError(  # weight_norm of the old kind, and pruning: what the module multiplies by is made anew before every call
                f"module {name!r} ({type(module).__name__}) has a weight that a hook of torch.nn.utils makes from others, so its rows "
                f"cannot be told apart. Use torch.nn.utils.parametrizations, or let it learn from everything: joint_params={name + '.*'!r}."
            )
        self.own = module.__dict__.get("forward")
        """A `forward` that somebody else had put on the module itself."""
        self.columns = frozenset(piece.column for own in cut.values() for piece in own)
        self.made = parametrize.is_parametrized(module)
        """Whether its weights are made from others at every call; those are never divided."""
        self.linear: tuple[Cut, Cut] | None = None
        """For a linear layer, how it is divided: under labels of rows, and of tokens."""
        if only_multiplies(module) and not self.made:
            own = cut.get("weight", _WHOLE), cut.get("bias", _WHOLE), not isinstance(module, nn.Linear)
            self.linear = Cut(*own, 1), Cut(*own, 2)
        self.shadow = _without_hooks(module)
        self.fused = is_fused(module) and not self.made
        self.by_feature: bool | None = None if may_be_by_feature(module) and not self.made else False
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
        # Nothing to hold back: no pass is open, or nothing of the module is trained.
        if not context.open:
            if not compiling:
                context.idle(self.name)
            return self.plain(*args, **kwargs)
        own = dict(self.module.named_parameters()) if self.made else self.module._parameters
        for name in self.cut:
            if (p := own.get(name)) is not None and p.requires_grad:
                break
        else:
            return self.plain(*args, **kwargs)
        # What cannot be told apart is refused.
        if context.late:
            raise UserError(
                f"module {self.name!r}: labels that come after the forward pass only work in the activation form (form='gate'): the "
                "parameter form has to know which rows may train which weights."
            )
        if self.own is not None and not isinstance(self.own, MaskedForward):
            raise UserError(
                f"module {self.name!r}: something else has put its own forward on it, whose rows cannot be told apart. Take that off, or "
                f"let it learn from everything: joint_params={self.name + '.*'!r}."
            )
        labels = context.labels
        assert labels is not None
        if compiling:
            context.compiled = True
        else:
            context.met.add(self)
            if context.suspect:
                context.check_own(self.name)
            if labels.index is not None and self.columns <= labels.whole:
                return self.plain(*args, **kwargs)  # every row of this batch may train all of it
        # Linear layers and norms have short ways, if they are called with one tensor of the batch's rows.
        x = args[0] if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) else None
        dense = None if x is None else self._weights(x, x.dim() - 1)
        if x is not None and dense is not None:
            if self.linear is not None and not transformed():
                return self._linear(x, dense, None if compiling else labels)
            if not compiling and labels.index is not None and torch.is_grad_enabled():
                if self.fused:
                    return self._gains(x, dense)
                if self.by_feature is not False and (found := self._by_feature(x, dense)) is not None:
                    return found
        return self._two_ways(args, kwargs)

    def _gains(self, x: Tensor, dense: Tensor) -> Tensor:
        """One of torch's own norms."""
        module = self.module
        # The norm with its weights held gives the output and the gradient of x; `NormGains` adds the weights' own.
        held = self._called({name: p if p is None else p.detach() for name, p in module._parameters.items()}, x)
        bias = module._parameters.get("bias")
        own = self.cut.get("weight", _WHOLE), self.cut.get("bias", _WHOLE)
        return NormGains.apply(held, x.detach(), module.weight, bias, dense, own, module)  # type: ignore[no-any-return, no-untyped-call]

    def _by_feature(self, x: Tensor, dense: Tensor) -> Tensor | None:
        """A norm written by hand, each row with weights of its own; None where it turns out not to be one.

        ``held + w * (p - held)`` is p for every row, and sends back the row's gradient times w.
        """
        own = {n: p for n, p in self.module._parameters.items() if p is not None}
        if any(p.shape != x.shape[-1:] for p in own.values()) or (self.by_feature is None and x.shape[0] < 2):
            return None
        apart: dict[str, Tensor] = {}
        for name, p in own.items():
            column, *others = {piece.column for piece in self.cut.get(name, _WHOLE)}
            if others:
                return None
            if column == JOINT:
                apart[name] = p
                continue
            held = p.detach()
            w = dense[..., column].to(p.dtype)
            apart[name] = held + w.reshape(*w.shape, *(1,) * (x.dim() - w.dim())) * (p - held)
        if self.by_feature:
            return self._called(apart, x)
        # Tried once: the output must be bitwise what it was, and what other rows are given must not matter to the
        # first.
        try:
            found = self._called(apart, x)
            with torch.no_grad():
                expected = self._called(own, x)
                first = {name: q.clone() for name, q in apart.items()}
                for q in first.values():
                    if q.dim() > 1:
                        q[1:] = 0.0
                alone = self._called(first, x)
            same = isinstance(found, Tensor) and found.dtype == expected.dtype and torch.equal(found, expected)
            self.by_feature = same and torch.equal(alone[0], expected[0])
        except (RuntimeError, TypeError, IndexError, ValueError, AttributeError):
            self.by_feature = False
        return found if self.by_feature else None

    def _called(self, parameters: dict[str, Any], x: Tensor) -> Tensor:
        """The module's forward with these for its parameters: by the shadow, whose table takes any tensor."""
        own = self.shadow.__dict__  # and not by setattr, which a module makes a search of
        before, own["_parameters"], own["training"] = own["_parameters"], parameters, self.module.training
        try:
            return type(self.module).forward(self.shadow, x)  # type: ignore[no-any-return]
        finally:
            own["_parameters"] = before

    def _linear(self, x: Tensor, dense: Tensor, labels: Assigned | None) -> Tensor:
        assert self.linear is not None
        context, module, number = self.context, self.module, self.context.number
        if labels is None or labels.index is None or context.batch_dim:  # cannot be looked at, or rows are not dimension 0
            cut, groups = self.linear[0], None
        else:
            cut, groups = self.linear[dense.dim() - 2], labels.groups
        note = None if labels is None else lambda: context.came_back(number)
        return RoutedLinear.apply(x, module.weight, module.bias, dense, cut, groups, note)  # type: ignore[no-any-return, no-untyped-call]

    def _weights(self, x: Tensor, axis: int) -> Tensor | None:
        """The weights of the rows of `x`; None where it has not the batch's rows.

        What is ablated in the forward pass needs no weight here: its gradient is zero, or a share, already.
        """
        assert self.context.labels is not None
        return laid(self.context.labels.backward, x.shape, axis, self.context.batch_dim)

    def _two_ways(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Any module without children: once with its weights held, and once for their gradients alone.

        ``held(x) + w * (free(x.detach()) - free(x.detach()).detach())``: the added term is exactly
        zero, and its gradient is the weights' own, row by row times w.
        """
        own = dict(self.module.named_parameters(recurse=self.made))
        if self.made and parametrize._cache_enabled:
            raise UserError(f"module {self.name!r}: cached weights do not know their rows. Leave parametrize.cached() out.")
        self.shadow.training = self.module.training
        fixed = {name: p.detach() if name in self.cut else p for name, p in own.items()}
        state = {name: b.clone() for name, b in self.module.named_buffers(recurse=self.made)}  # a norm's running means count once
        held = torch.func.functional_call(self.shadow, fixed, args, kwargs)
        if not isinstance(held, Tensor):
            raise UserError(
                f"module {self.name!r} ({type(self.module).__name__}) has weights of its own and gives a {type(held).__name__}, so its "
                f"rows cannot be told apart. Let it learn from everything: joint_params={self.name + '.*'!r}."
            )
        if not torch.is_grad_enabled():
            return held
        seen = tuple(a.detach() if isinstance(a, Tensor) else a for a in args)
        named = {k: a.detach() if isinstance(a, Tensor) else a for k, a in kwargs.items()}
        weights = self._rows_of(held)
        for column in sorted(self.columns):
            live = {name: _live(p, column, self.cut.get(name, ())) for name, p in own.items()}
            free = torch.func.functional_call(self.shadow, live | {name: b.clone() for name, b in state.items()}, seen, named)
            w = weights[..., column].to(held.dtype)
            held = held + w.reshape(*w.shape, *(1,) * (free.dim() - w.dim())) * (free - free.detach())
        return held

    def _rows_of(self, y: Tensor) -> Tensor:
        """The weights of the rows of an output, which may be one for all rows (positions, for example)."""
        assert self.context.labels is not None
        axis = 1 if isinstance(self.module, CHANNELS_FIRST) else y.dim() - 1
        if (weights := self._weights(y, axis)) is not None:
            return weights
        rows, place = self.context.labels.backward, self.context.batch_dim
        lead = rows.shape[:-1]
        if place and y.dim() > 2:  # rows and then places, as labels have them
            y = y.transpose(0, 1)
            rows = rows[None] if rows.dim() == 2 else rows.transpose(0, 1)
        if y.dim() > len(lead) and y.shape[0] == 1 and all(size in (1, own) for size, own in zip(y.shape[: len(lead)], lead, strict=True)):
            return rows
        raise UserError(
            f"module {self.name!r}: labels have shape {tuple(lead)}, but what it gives is {tuple(y.shape)}. Labels must have the batch's "
            f"own size (where activations begin with time, say batch_dim=1); a module that does not see the batch row by row learns from "
            f"everything: joint_params={self.name + '.*'!r}."
        )


def _without_hooks(module: nn.Module) -> nn.Module:
    """A second handle on a module that runs none of its hooks, so that what others put there runs once."""
    shadow = type(module).__new__(type(module))
    shadow.__dict__ = {name: value for name, value in module.__dict__.items() if name != "forward"}
    shadow._parameters = dict(module._parameters)
    for name, value in module.__dict__.items():
        if name.endswith("_hooks") and isinstance(value, OrderedDict):
            shadow.__dict__[name] = OrderedDict()
    return shadow


def works_alone(module: nn.Module) -> bool:
    """Whether a module computes with weights of its own only: it has no children, but for what makes its weights."""
    return all(name == "parametrizations" for name, _ in module.named_children())


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


__getattr__ = alias(__name__, Shield="MaskedForward")
