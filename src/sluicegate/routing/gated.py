"""A gate on a linear layer as part of the layer, so that its products leave out what the gate sets to zero.

Where the labels do not lie together, or anything else is out of the ordinary, the layer and the gate are
computed one after the other as everywhere else.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from sluicegate.routing.gate import Columns, feature_runs
from sluicegate.routing.gradient_hook import GradientHook, Removable
from sluicegate.routing.labels import transformed
from sluicegate.routing.parameter_pieces import JOINT, Piece, Runs
from sluicegate.routing.partitioned import Cut, Layer, Layout, partitioned
from sluicegate.routing.pass_context import PassContext
from sluicegate.routing.sites import Site, fan, only_multiplies, out_dim


class GatedLinear(GradientHook):
    """A tap on a linear layer that also stands in for its `forward`."""

    def __init__(self, site: Site, columns: Columns, context: PassContext, module: nn.Module) -> None:
        super().__init__(site, columns, context, gates=True)
        self.module, self.reads = module, site.at == "input"
        inputs, outputs = fan(module)
        gate = _divided(self.columns, inputs if self.reads else outputs)
        whole = (Piece(JOINT, 0, None),)
        along = out_dim(module)
        self.cut = Cut(
            whole if self.reads else tuple(Piece(piece.column, along, piece.runs) for piece in gate),
            whole if self.reads else gate,
            transposed=along == 1,
            gate=gate,
            reads=self.reads,
        )
        self.seen: tuple[Layout, int, tuple[Layer, ...]] | None = None
        """The layout of the last partitioned batch, its dimensions, and the products that it takes."""
        self.together = False
        """Whether the layer of the running call is computed with its gate."""

    def attach(self, module: nn.Module, at: str) -> Removable:
        self.handle = super().attach(module, at)
        module.forward = self
        return self

    def remove(self) -> None:
        self.handle.remove()
        if self.module.__dict__.get("forward") is self:
            del self.module.forward

    def on_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self.together = len(args) == 1 and not kwargs and self._may_be_one(args[0])
        return None if self.together else super().on_input(module, args, kwargs)

    def on_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return None if self.together else super().on_output(module, args, output)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.reads:  # and not again, should somebody call `forward` itself
            together, self.together = self.together, False
        else:
            together = self.together = len(args) == 1 and not kwargs and self._may_be_one(args[0])
        if not together:
            return type(self.module).forward(self.module, *args, **kwargs)
        context, own = self.context, self.module._parameters
        context.applied += 1
        return partitioned(args[0], context, self.name, self.seen[2], own["weight"], own.get("bias"))[0]  # type: ignore[index]

    def _may_be_one(self, x: Any) -> bool:
        """Whether rows lie together by label, and nothing of anybody else's comes between the layer and its gate."""
        if is_compiling() or (layout := self.context.layout) is None or self.context.mutes or not isinstance(x, Tensor):
            return False
        module = self.module
        if x.dim() < 2 or x.shape[0] != layout.rows or transformed() or module._backward_hooks or module._backward_pre_hooks:
            return False
        hooks = module._forward_pre_hooks if self.reads else module._forward_hooks
        nearest = next(reversed(hooks.values()) if self.reads else iter(hooks.values()), None)
        if getattr(nearest, "__self__", None) is not self:
            return False
        if self.seen is None or self.seen[0] is not layout or self.seen[1] != x.dim():
            weight = module._parameters.get("weight")
            if weight is None or not torch.is_grad_enabled() or (plan := self.cut.plan(layout, weight)).whole:
                return False
            self._fits(x.shape if self.reads else (*x.shape[:-1], fan(module)[1]), self.context.backward)
            self.seen = layout, x.dim(), ((self.cut, plan),)
        return True


def fits(module: nn.Module) -> bool:
    """Whether a layer can be computed with its gate: nobody has put another `forward` on it."""
    return only_multiplies(module) and "forward" not in module.__dict__


def _divided(columns: Columns, size: int) -> tuple[Piece, ...]:
    """The features of a gate by column, the rest's (column 0) among them."""
    runs: dict[int, Runs] = {}
    for start, stop, column in feature_runs(columns, size):
        runs[column] = (*runs.get(column, ()), (start, stop))
    return tuple(Piece(column, 0, own) for column, own in runs.items())
