"""Taps: the hooks of the activation form, put on once and idle while no pass is open."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from sluicegate.errors import UserError
from sluicegate.routing.gate import Columns, Gate, InPlaceGate, LateGate, Stretch, ablated
from sluicegate.routing.labels import transformed
from sluicegate.routing.pass_context import PassContext, laid
from sluicegate.routing.sites import Site

_KEPT = 64


class Removable(Protocol):
    """Whatever can be taken off again."""

    def remove(self) -> None: ...


class GradientHook:
    """One site's gate and forward ablation."""

    def __init__(self, site: Site, columns: Columns, context: PassContext, *, gates: bool) -> None:
        self.name, self.dim, self.units, self.width = site.name, site.dim, site.units, site.width
        self.columns = tuple((start * site.width, stop * site.width, c) for start, stop, c in columns)
        self.context = context
        self.known: set[int] = set()
        """Numbers of features that the blocks have been found to fit."""
        self.plans: dict[Any, tuple[Stretch, ...] | None] = {}
        """By labels, shape and type: what is scaled here; None: each row by itself."""
        self.gates = gates
        """Whether gradients are scaled here; without, blocks are only ablated."""

    def attach(self, module: nn.Module, at: str) -> Removable:
        if at == "input":
            return module.register_forward_pre_hook(self.on_input, with_kwargs=True)
        return module.register_forward_hook(self.on_output)

    def on_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self.context.open:
            self._idle()
            return None
        return on_first(args, kwargs, self.again, self.name)

    def on_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not self.context.open:
            self._idle()
            return None
        if isinstance(output, Tensor):
            return self.again(output)
        if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
            return (self.route(output[0]), *output[1:])
        raise UserError(
            f"site {self.name!r} gives a {type(output).__name__}; only a tensor, or a tuple that starts with one, can be routed."
        )

    def _idle(self) -> None:
        if not is_compiling():
            self.context.idle(self.name)

    def again(self, x: Tensor) -> Tensor:
        """`route`, without asking anew what was found for rows and labels that lay like this before."""
        if is_compiling():  # asked first, so that one graph serves all labels
            return self.route(x)
        context = self.context
        if context.late or context.mutes or (key := self._key(x)) not in self.plans or transformed():
            return self.route(x)
        context.applied += 1
        number, own = context.number, self.plans[key]
        return InPlaceGate.apply(x, context.backward, self.columns, self.dim, own, lambda: context.check(number, self.name))  # type: ignore[no-any-return, no-untyped-call]

    def _key(self, x: Tensor) -> Any:
        """By what a plan is found: labels that lie together by how they lie, others by their shape alone."""
        return self.context.runs or self.context.backward.shape, x.shape, x.dtype  # type: ignore[union-attr]

    def route(self, x: Tensor) -> Tensor:
        context = self.context
        if is_compiling():
            return self._routed(x, None)
        context.applied += 1
        number = context.number
        if context.late:
            return LateGate.apply(x, lambda: self._late(x.shape, number), self.columns, self.dim)  # type: ignore[no-any-return, no-untyped-call]
        self._fits(x.shape, context.backward)
        if transformed():  # torch.func.grad goes back after the function, and its block, were left
            return self._routed(x, None)
        return self._routed(x, lambda: context.check(number, self.name))

    def _routed(self, x: Tensor, check: Any) -> Tensor:
        context = self.context
        weights = context.backward
        assert weights is not None
        if context.forward is not None and (is_compiling() or context.mutes):  # asked first, so that one graph serves all labels
            x = ablated(x, self._shaped(context.forward, x.shape), self.columns, self.dim)
        if not self.gates:
            return x
        own, shaped = None, self._shaped(weights, x.shape)
        if check is None or not self.dim % x.dim():
            return Gate.apply(x, shaped, self.columns, self.dim, check)  # type: ignore[no-any-return, no-untyped-call]
        if context.index is not None and len(context.index) == x.shape[0]:
            own = context.stretches(self.columns, x.shape[self.dim], x.dtype)
        if own is not None or shaped is weights:
            if len(self.plans) >= _KEPT:
                self.plans.clear()
            self.plans[self._key(x)] = own
        return InPlaceGate.apply(x, shaped, self.columns, self.dim, own, check)  # type: ignore[no-any-return, no-untyped-call]

    def _late(self, shape: torch.Size, number: int) -> Tensor:
        self.context.check(number, self.name)
        if self.context.backward is None:
            raise UserError(f"site {self.name!r}: backward began before the labels came. Call later.label(labels) first.")
        self._fits(shape, self.context.backward)
        return self._shaped(self.context.backward, shape)

    def _shaped(self, weights: Tensor, shape: torch.Size) -> Tensor:
        """Weights whose leading dimensions are those of the activation, which may have rows and tokens in one."""
        own = laid(weights, shape, self.dim % len(shape))
        return weights if own is None else own

    def _fits(self, shape: torch.Size, weights: Tensor | None) -> None:
        assert weights is not None
        if len(shape) == 0 or laid(weights, shape, self.dim % len(shape)) is None:
            what = "(batch,)" if weights.dim() == 2 else "(batch, tokens)"
            raise UserError(
                f"site {self.name!r}: labels have shape {tuple(weights.shape[:-1])}, but the activations here are {tuple(shape)}. Labels "
                f"are {what}, and must have the batch's own size."
            )
        features = shape[self.dim]
        if features not in self.known:
            self._fit_features(features)
            self.known.add(features)

    def _fit_features(self, features: int) -> None:
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
        self._fit_features(x.shape[self.dim])
        weights = keep.to(x.device).expand(x.shape[0], -1)
        return ablated(x, weights, self.columns, self.dim)


def on_first(
    args: tuple[Any, ...], kwargs: dict[str, Any], change: Callable[[Tensor], Tensor], site: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call's arguments with the first one changed, which some models give by name."""
    if args and isinstance(args[0], Tensor):
        return (change(args[0]), *args[1:]), kwargs
    for name, value in kwargs.items():
        if not args and isinstance(value, Tensor):
            return args, kwargs | {name: change(value)}
    raise UserError(f"site {site!r} was called without a tensor to begin with, so its input cannot be routed. Use at='output'.")
