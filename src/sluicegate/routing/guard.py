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

from sluicegate.routing.flow import Flow
from sluicegate.routing.protect import Piece


@dataclass
class _Kept:
    """A tensor's share before the step, and where it goes back to."""

    into: Tensor
    value: Tensor


class Guard:
    """Watches one optimiser through its step hooks."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, cut: Mapping[nn.Parameter, tuple[Piece, ...]], flow: Flow, group: Any = None
    ) -> None:
        self.cut, self.flow, self.group = cut, flow, group
        self.kept: list[_Kept] = []
        self.gradients: list[tuple[nn.Parameter, Tensor | None]] = []
        self.handles = [optimizer.register_step_pre_hook(self.before), optimizer.register_step_post_hook(self.after)]

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.kept, self.gradients = [], []
        if not self.flow.number:
            return  # nothing was routed yet: an ordinary step
        moved = self._moved_anywhere()
        self.flow.moved = torch.zeros_like(moved)
        if not moved.any():
            return  # a step without any routed pass since the last one
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            held = [piece for piece in self.cut.get(parameter, ()) if not moved[piece.column]]
            if not held or parameter.grad is None:
                continue
            if len(held) == len(self.cut[parameter]):
                self.gradients.append((parameter, parameter.grad))
                parameter.grad = None
                continue
            state = optimizer.state.get(parameter, {})
            tensors = [parameter.detach(), *(t for t in state.values() if isinstance(t, Tensor) and t.shape == parameter.shape)]
            for piece in held:
                for tensor in tensors:
                    for view in _views(tensor, piece):
                        self.kept.append(_Kept(view, view.clone()))

    @torch.no_grad()
    def after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for kept in self.kept:
            kept.into.copy_(kept.value)
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        self.kept, self.gradients = [], []

    def _moved_anywhere(self) -> Tensor:
        """Which columns some row moved, on this process or on another that trains the same weights."""
        moved = self.flow.moved.clone()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            count = moved.to(torch.int32)
            if torch.distributed.get_backend(self.group) == "nccl":
                count = count.to(torch.accelerator.current_accelerator() or "cpu")
            torch.distributed.all_reduce(count, group=self.group)
            moved = count.cpu() > 0
        return moved


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
