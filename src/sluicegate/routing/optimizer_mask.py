"""The guard: an optimiser step leaves alone what no row of the batch was allowed to train.

A gradient of zero is not enough: momentum and weight decay move a weight that has none. Whatever
its kind, an optimiser is stepped as usual, and the shares that nobody moved are put back, its
memory of them included. A whole parameter that nobody moved is not shown to it at all.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sluicegate.deprecated import alias
from sluicegate.routing.parameter_pieces import JOINT, Piece
from sluicegate.routing.pass_context import PassContext


@dataclass
class _Held:
    """One share of one parameter, which a step must not move, and what was there before the step."""

    parameter: nn.Parameter
    piece: Piece
    values: dict[str, list[Tensor]]
    """By the optimiser's own name for its memory, and "" for the weights: one tensor a run."""


class OptimizerMask:
    """Watches one optimiser through its step hooks.

    What a step may move follows from the labels of the passes since the last one. A pass may have left no gradient: one
    for validation, or whose gradients were thrown away (`zero_grad`, a step that a loss scaler skipped). So where not
    every pass could train a share, its gradient is looked at: a share counts as trained if it is not zero throughout.

    The optimiser's memory that has not the parameter's own shape (Adafactor's) is not put back.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, cut: Mapping[nn.Parameter, tuple[Piece, ...]], context: PassContext, group: Any = None
    ) -> None:
        self.cut, self.context, self.group = cut, context, group
        self.held: list[_Held] = []
        self.gradients: dict[nn.Parameter, Tensor | None] = {}
        self.ledger: set[tuple[bool, ...]] = set()
        self.closure: Any = None
        self.depth = 0
        """How many calls of `step` lie in one another: a subclass may call its parent's, and go on after it."""
        context.ledgers.append(self.ledger)
        self.handles = [optimizer.register_step_pre_hook(self.before), optimizer.register_step_post_hook(self.after)]

    def remove(self) -> None:
        """Let the optimiser step as it does without a router."""
        for handle in self.handles:
            handle.remove()
        self.context.ledgers = [ledger for ledger in self.context.ledgers if ledger is not self.ledger]

    def before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        closure = kwargs["closure"] if "closure" in kwargs else args[1] if len(args) > 1 else None
        if self.depth and not self.ledger and closure in (None, self.closure):
            self.depth += 1
            return None
        self.depth, self.held, self.gradients, self.closure, noted = 1, [], {}, None, False
        if not callable(closure):
            self.hold(optimizer)
            return None

        def counted() -> Any:
            """The user's closure: only when its passes are over is known what the step must not move."""
            nonlocal noted
            loss = closure()
            if noted:  # some optimisers ask again in the same step
                self.hide(self.gradients)
            else:
                self.hold(optimizer)
            noted = True
            return loss

        self.closure = counted
        return ((args[0], counted, *args[2:]), kwargs) if len(args) > 1 else (args, kwargs | {"closure": counted})

    def hold(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep a copy of the shares that the step must not move, and hide what is held as a whole."""
        moved = self._moved(optimizer)
        self.ledger.clear()
        if moved is None:
            return  # nothing was routed since the last step: an ordinary one
        whole = []
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            own = self.cut.get(parameter, ())
            held = [piece for piece in own if piece.column != JOINT and not moved[piece.column]]
            if not held or parameter.grad is None:
                continue
            if len(held) == len(own):
                whole.append(parameter)
                continue
            for piece in held:
                values = {name: [view.clone() for view in _views(tensor, piece)] for name, tensor in _tensors(optimizer, parameter)}
                self.held.append(_Held(parameter, piece, values))
        self.hide(whole)

    def hide(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take these parameters' gradients away until the step is over, so that the optimiser leaves them out."""
        for parameter in list(parameters):
            self.gradients[parameter], parameter.grad = parameter.grad, None

    @torch.no_grad()
    def after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.depth -= 1
        if self.depth > 0:
            return
        for held in self.held:
            for name, tensor in _tensors(optimizer, held.parameter):
                views = _views(tensor, held.piece)
                for view, value in zip(views, held.values.get(name, [None] * len(views)), strict=True):
                    view.zero_() if value is None else view.copy_(value)  # memory that this step began remembers nothing
        for parameter, gradient in self.gradients.items():
            parameter.grad = gradient
        self.ledger.clear()
        self.held, self.gradients, self.closure = [], {}, None

    def _moved(self, optimizer: torch.optim.Optimizer) -> list[bool] | None:
        """By column, whether the step may move it: on all processes that train the same weights alike."""
        columns = len(self.context.policy.columns)
        some = [any(one[c] for one in self.ledger) for c in range(columns)]
        sure = [bool(self.ledger) and all(one[c] for one in self.ledger) for c in range(columns)]
        *found, routed = self._anywhere([*some, *sure, bool(self.ledger)])
        some, sure = found[:columns], found[columns:]
        if some != sure:
            trained = self._anywhere([some[c] and not sure[c] and self._has_gradient(optimizer, c) for c in range(columns)])
            sure = [a or b for a, b in zip(sure, trained, strict=True)]
        return sure if routed else None

    def _has_gradient(self, optimizer: torch.optim.Optimizer, column: int) -> bool:
        """Whether some gradient of a column's shares is not zero; small parameters are asked first."""
        every = sorted((p for group in optimizer.param_groups for p in group["params"] if p.grad is not None), key=Tensor.numel)
        views = (view for p in every for piece in self.cut.get(p, ()) if piece.column == column for view in _views(p.grad, piece))
        return any(bool(view.any()) for view in views)

    def _anywhere(self, flags: list[bool]) -> list[bool]:
        """Each flag, set where it is set on any of the processes that train the same weights."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return flags
        count = torch.tensor(flags, dtype=torch.int32)
        if torch.distributed.get_backend(self.group) == "nccl":
            count = count.to(torch.accelerator.current_accelerator() or "cpu")
        torch.distributed.all_reduce(count, group=self.group)
        return (count > 0).tolist()


def _tensors(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> list[tuple[str, Tensor]]:
    """A parameter's weights (""), and the optimiser's memory of each of them."""
    memory = optimizer.state.get(parameter, {})
    own = [(str(name), t) for name, t in memory.items() if isinstance(t, Tensor) and t.shape == parameter.shape and t.dim()]
    return [("", parameter.detach()), *own]


def _views(tensor: Tensor, piece: Piece) -> list[Tensor]:
    """The piece's runs of a tensor as views; of a sharded one, what lies on this process."""
    local, offset = tensor, 0
    if isinstance(tensor, DTensor):
        from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

        _, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
        local, offset = tensor.to_local(), offsets[piece.dim] if offsets else 0
    size = local.shape[piece.dim] if local.numel() else 0
    found = []
    for start, stop in piece.runs or ((0, tensor.shape[piece.dim]),):
        first, last = max(start - offset, 0), min(stop - offset, size)
        if first < last:
            found.append(local.narrow(piece.dim, first, last - first))
    return found


__getattr__ = alias(__name__, Guard="OptimizerMask")
