"""Taps: the hooks of the activation form, put on once and idle while no pass is open."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sluicegate.errors import UserError
from sluicegate.routing.flow import Flow
from sluicegate.routing.gate import Columns, Gate, LateGate, ablated
from sluicegate.routing.sites import Site


class Tap:
    """One site's gate and forward ablation."""

    def __init__(self, site: Site, columns: Columns, flow: Flow, *, gates: bool) -> None:
        self.name, self.dim, self.units, self.width = site.name, site.dim, site.units, site.width
        self.columns = tuple((start * site.width, stop * site.width, c) for start, stop, c in columns)
        self.flow = flow
        self.gates = gates
        """Whether gradients are scaled here; without, blocks are only ablated."""

    def attach(self, module: nn.Module, at: str) -> RemovableHandle:
        if at == "input":
            return module.register_forward_pre_hook(self.on_input)
        return module.register_forward_hook(self.on_output)

    def on_input(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not self.flow.open:
            self._idle()
            return None
        return (self.route(args[0]), *args[1:])

    def on_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not self.flow.open:
            self._idle()
            return None
        if isinstance(output, Tensor):
            return self.route(output)
        if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
            return (self.route(output[0]), *output[1:])
        raise UserError(
            f"site {self.name!r} gives a {type(output).__name__}; only a tensor, or a tuple that starts with one, can be routed."
        )

    def _idle(self) -> None:
        if not torch.compiler.is_compiling() and self.flow.unfinished and self.flow.in_recomputation():
            self.flow.too_late(self.name)

    def route(self, x: Tensor) -> Tensor:
        flow = self.flow
        if torch.compiler.is_compiling():
            return self._routed(x, None)
        flow.applied += 1
        number = flow.number
        if flow.late:
            return LateGate.apply(x, lambda: self._late(x.shape, number), self.columns, self.dim)  # type: ignore[no-any-return, no-untyped-call]
        self._fits(x)
        return self._routed(x, lambda: flow.check(number, self.name))

    def _routed(self, x: Tensor, check: Any) -> Tensor:
        flow = self.flow
        weights = flow.backward
        assert weights is not None
        if flow.forward is not None:
            x = ablated(x, self._shaped(flow.forward, x), self.columns, self.dim)
        if not self.gates:
            return x
        return Gate.apply(x, self._shaped(weights, x), self.columns, self.dim, check)  # type: ignore[no-any-return, no-untyped-call]

    def _late(self, shape: torch.Size, number: int) -> Tensor:
        self.flow.check(number, self.name)
        if self.flow.backward is None:
            raise UserError(f"site {self.name!r}: backward began before the labels came. Call later.label(labels) first.")
        return self._shaped(self.flow.backward, torch.empty(shape, device="meta"))

    def _shaped(self, weights: Tensor, x: Tensor) -> Tensor:
        """Weights whose leading dimensions are those of `x`, which may have rows and tokens in one."""
        lead = weights.shape[:-1]
        if tuple(x.shape[: len(lead)]) == tuple(lead):
            return weights
        return weights.reshape(-1, weights.shape[-1])

    def _fits(self, x: Tensor) -> None:
        assert self.flow.backward is not None
        lead, features = tuple(self.flow.backward.shape[:-1]), x.shape[self.dim]
        rows = 1
        for size in lead:
            rows *= size
        if tuple(x.shape[: len(lead)]) != lead and x.shape[0] != rows:
            what = "(batch,)" if len(lead) == 1 else "(batch, tokens)"
            raise UserError(
                f"site {self.name!r}: labels have shape {lead}, but the activations here are {tuple(x.shape)}. Labels are {what}, and "
                "must have the batch's own size."
            )
        for start, stop, c in self.columns:
            if stop > features or -start > features:
                raise UserError(
                    f"site {self.name!r}: block {self.flow.policy.columns[c]!r} reaches to feature {max(stop, -start)}, but there are "
                    f"only {features} here. Make it smaller, or name another site."
                )

    def muted(self, x: Tensor, keep: Tensor) -> Tensor:
        """`x` with every row's blocks times `keep` [columns]."""
        weights = keep.to(x.device).expand(x.shape[0], -1)
        return ablated(x, weights, self.columns, self.dim)
