"""Hooks of the activation form: at one site, the gate on the gradient and the ablation of the activation.

They are registered once and do nothing while no pass is open.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.utils.hooks import RemovableHandle

from sluicegate.deprecated import alias
from sluicegate.errors import UserError
from sluicegate.routing.gate import Columns, Gate, LateGate, ablated
from sluicegate.routing.labels import transformed
from sluicegate.routing.pass_context import PassContext, laid
from sluicegate.routing.sites import Site


class GradientHook:
    """One site's gate and forward ablation."""

    def __init__(self, site: Site, columns: Columns, context: PassContext, *, gates: bool) -> None:
        self.site, self.name, self.dim = site, site.name, site.dim
        self.columns = tuple((start * site.width, stop * site.width, c) for start, stop, c in columns)
        self.context = context
        self.known: set[tuple[int, int]] = set()
        """Numbers of dimensions and of features that the blocks have been found to fit."""
        self.gates = gates
        """Whether gradients are scaled here; without, blocks are only ablated."""

    def attach(self, module: nn.Module, at: str) -> RemovableHandle:
        """Register at the module's input or output."""
        if at == "input":
            return module.register_forward_pre_hook(self.on_input, with_kwargs=True)
        return module.register_forward_hook(self.on_output)

    def on_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The call's arguments with the first one routed, which some models give by name."""
        if not self._active():
            return None
        if args and isinstance(args[0], Tensor):
            return (self.route(args[0]), *args[1:]), kwargs
        for name, value in kwargs.items():
            if not args and isinstance(value, Tensor):
                return args, kwargs | {name: self.route(value)}
        raise UserError(f"site {self.name!r} was called without a tensor to begin with, so its input cannot be routed. Use at='output'.")

    def on_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not self._active():
            return None
        if isinstance(output, Tensor):
            return self.route(output)
        if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
            return (self.route(output[0]), *output[1:])
        raise UserError(
            f"site {self.name!r} gives a {type(output).__name__}; only a tensor, or a tuple that starts with one, can be routed."
        )

    def _active(self) -> bool:
        if not self.context.open and not is_compiling():
            self.context.idle(self.name)
        return self.context.open

    def route(self, x: Tensor) -> Tensor:
        """`x` with what its rows are to do without set to zero, and behind a gate."""
        context = self.context
        if is_compiling():
            context.compiled = True
            return self._routed(x, None)
        context.met.add(self)
        if context.suspect:
            context.check_own(self.name)
        number = context.number
        if context.late:
            return LateGate.apply(x, lambda: self._late(x.shape, number), self.columns, self.dim)  # type: ignore[no-any-return, no-untyped-call]
        assert context.labels is not None
        self._fits(x.shape, context.labels.backward)
        # torch.func.grad goes back after the function, and its block, were left.
        return self._routed(x, None if transformed() else number)

    def _routed(self, x: Tensor, number: int | None) -> Tensor:
        """With `number`, the backward pass checks that pass `number` is still open."""
        labels = self.context.labels
        assert labels is not None
        # Ablation comes first: what it sets to zero gets a gradient of zero too, whatever the gate does.
        if labels.forward is not None and (is_compiling() or labels.mutes):  # asked first, so that one graph serves all labels
            x = ablated(x, self._shaped(labels.forward, x.shape), self.columns, self.dim)
        if not self.gates:
            return x
        weights = self._shaped(labels.backward, x.shape)
        if number is None:
            return Gate.apply(x, weights, self.columns, self.dim)  # type: ignore[no-any-return, no-untyped-call]

        def ask() -> Tensor:
            self.context.check(number, self.name)
            return weights

        return LateGate.apply(x, ask, self.columns, self.dim)  # type: ignore[no-any-return, no-untyped-call]

    def _late(self, shape: torch.Size, number: int) -> Tensor:
        self.context.check(number, self.name)
        if self.context.labels is None:
            raise UserError(f"site {self.name!r}: backward began before the labels came. Call later.label(labels) first.")
        self._fits(shape, self.context.labels.backward)
        return self._shaped(self.context.labels.backward, shape)

    def _shaped(self, weights: Tensor, shape: torch.Size) -> Tensor:
        """Weights whose leading dimensions are those of the activation, which may have rows and tokens in one."""
        own = laid(weights, shape, self.dim % len(shape), self.context.batch_dim)
        return weights if own is None else own

    def _fits(self, shape: torch.Size, weights: Tensor) -> None:
        if len(shape) and (len(shape), shape[self.dim % len(shape)]) not in self.known:
            self._fit_features(shape)
            self.known.add((len(shape), shape[self.dim]))
        if len(shape) == 0 or laid(weights, shape, self.dim % len(shape), self.context.batch_dim) is None:
            what = "(batch,)" if weights.dim() == 2 else "(batch, tokens)"
            raise UserError(
                f"site {self.name!r}: labels have shape {tuple(weights.shape[:-1])}, but the activations here are {tuple(shape)}. Labels "
                f"are {what}, and must have the batch's own size; where activations begin with time, say batch_dim=1."
            )

    def _fit_features(self, shape: Sequence[int]) -> None:
        features = shape[self.site.axis(shape)]
        taken: dict[str, tuple[int, int]] = {}
        for start, stop, c in self.columns:
            name = self.context.policy.columns[c]
            if stop > features or -start > features:
                raise UserError(
                    f"site {self.name!r}: block {name!r} reaches to feature {max(stop, -start)}, but there are only {features} here. "
                    "Make it smaller, or name another site."
                )
            first, last = (start + features, stop + features) if start < 0 else (start, stop)
            for other, (a, b) in taken.items():
                if first < b and a < last:
                    raise UserError(
                        f"site {self.name!r}: blocks {other!r} ({a} to {b}) and {name!r} ({first} to {last}) overlap. Set them apart."
                    )
            taken[name] = (first, last)

    def muted(self, x: Tensor, keep: Tensor) -> Tensor:
        """`x` with every row's blocks times `keep` [columns]."""
        self._fit_features(x.shape)
        weights = keep.to(x.device).expand(x.shape[0], -1)
        return ablated(x, weights, self.columns, self.dim)


__getattr__ = alias(__name__, Tap="GradientHook")
