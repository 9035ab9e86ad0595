"""The guard: an optimiser step leaves alone what no row of the batch was allowed to train.

A gradient of zero is not enough: momentum and weight decay move a weight that has none. Whatever
its kind, an optimiser is stepped as usual, and the shares that nobody moved are put back, its
memory of them included. A whole parameter that nobody moved is not shown to it at all.
"""

from collections.abc import Mapping
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

    The optimiser's memory that has not the parameter's own shape (Adafactor's) is not put back.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, cut: Mapping[nn.Parameter, tuple[Piece, ...]], context: PassContext, group: Any = None
    ) -> None:
        self.cut, self.context, self.group = cut, context, group
        self.held: list[_Held] = []
        self.gradients: list[tuple[nn.Parameter, Tensor | None]] = []
        self.ledger = torch.zeros(len(context.policy.columns) + 1, dtype=torch.bool)
        context.ledgers.append(self.ledger)
        self.handles = [optimizer.register_step_pre_hook(self.before), optimizer.register_step_post_hook(self.after)]

    def remove(self) -> None:
        """Let the optimiser step as it does without a router."""
        for handle in self.handles:
            handle.remove()
        self.context.ledgers = [ledger for ledger in self.context.ledgers if ledger is not self.ledger]

    def before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.held, self.gradients = [], []
        moved = self._moved_anywhere()
        self.ledger.zero_()
        if not moved[-1]:
            return  # nothing was routed since the last step: an ordinary one
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            own = self.cut.get(parameter, ())
            held = [piece for piece in own if piece.column != JOINT and not moved[piece.column]]
            if not held or parameter.grad is None:
                continue
            if len(held) == len(own):
                self.gradients.append((parameter, parameter.grad))
                parameter.grad = None
                continue
            for piece in held:
                values = {name: [view.clone() for view in _views(tensor, piece)] for name, tensor in _tensors(optimizer, parameter)}
                self.held.append(_Held(parameter, piece, values))

    @torch.no_grad()
    def after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for held in self.held:
            for name, tensor in _tensors(optimizer, held.parameter):
                views = _views(tensor, held.piece)
                for view, value in zip(views, held.values.get(name, [None] * len(views)), strict=True):
                    view.zero_() if value is None else view.copy_(value)  # memory that this step began remembers nothing
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        self.held, self.gradients = [], []

    def _moved_anywhere(self) -> Tensor:
        """The ledger, with those of the other processes that train the same weights."""
        moved = self.ledger.clone()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            count = moved.to(torch.int32)
            if torch.distributed.get_backend(self.group) == "nccl":
                count = count.to(torch.accelerator.current_accelerator() or "cpu")
            torch.distributed.all_reduce(count, group=self.group)
            moved = count.cpu() > 0
        return moved


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
